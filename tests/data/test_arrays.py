import jax
import numpy as np
import pytest

from jnas.data import Dataset, normalisation, split


def numbered(size, num_classes=3):
    """Images of 2 x 2 whose first pixel is their number, so that an example can be recognised after a shuffle."""
    images = np.zeros((size, 4), np.uint8)
    images[:, 0] = np.arange(size)
    return Dataset(images, (np.arange(size) % num_classes).astype(np.int32), (2, 2, 1), num_classes, "numbered")


@pytest.mark.parametrize(("fraction", "first"), [(0.5, 10), (0.25, 5), (0.9, 18), (0.05, 1)])
def test_split_is_disjoint_exhaustive_and_keeps_labels(fraction, first):
    whole = numbered(20)
    left, right = split(whole, jax.random.key(3), fraction)
    assert (len(left), len(right)) == (first, 20 - first)
    numbers = np.concatenate([left.images[:, 0], right.images[:, 0]])
    assert sorted(numbers.tolist()) == list(range(20))
    for part in (left, right):
        np.testing.assert_array_equal(part.labels, part.images[:, 0] % 3)
        assert (part.shape, part.num_classes, part.name) == ((2, 2, 1), 3, "numbered")


def test_split_is_a_function_of_the_key_and_shuffles():
    whole = numbered(20)
    one, again, other = (split(whole, jax.random.key(seed), 0.5)[0].images[:, 0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert set(one.tolist()) != set(other.tolist())
    assert set(one.tolist()) != set(range(10))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 1.5, 0.01, 0.99, float("nan")])
def test_split_refuses_an_empty_part(fraction):
    with pytest.raises(ValueError, match="leaves one part empty"):
        split(numbered(10), jax.random.key(0), fraction)


def test_normalisation_agrees_with_numpy_in_double_precision():
    pixels = np.random.default_rng(0).integers(0, 256, (5000, 2, 2, 3), np.uint8)  # more than one piece
    pixels[..., 1] //= 3
    data = Dataset(pixels.reshape(5000, -1), np.zeros(5000, np.int32), (2, 2, 3), 1)
    mean, std = normalisation(data)
    exact = pixels.astype(np.float64) / 255
    np.testing.assert_allclose(mean, exact.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, exact.std(axis=(0, 1, 2)), rtol=1e-12)
    assert all(type(value) is float for value in (*mean, *std))


def test_normalisation_of_a_constant_channel_divides_by_one():
    data = Dataset(np.full((3, 4), 51, np.uint8), np.zeros(3, np.int32), (2, 2, 1), 1)
    mean, std = normalisation(data)
    assert mean == pytest.approx((0.2,))
    assert std == (1.0,)


def test_normalisation_refuses_an_empty_set():
    with pytest.raises(ValueError, match="has 0 images: give at least one"):
        normalisation(numbered(0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": np.zeros((2, 4), np.float32)}, "images are float32"),
        ({"images": np.zeros((2, 5), np.uint8)}, r"give uint8 of shape \(num_examples, 4\)"),
        ({"images": np.zeros((2, 2, 2, 1), np.uint8)}, "flat pixels"),
        ({"labels": np.zeros(2, np.int64)}, "labels are int64"),
        ({"labels": np.zeros(3, np.int32)}, r"give int32 of shape \(2,\)"),
        ({"labels": np.array([0, 2], np.int32)}, "labels run from 0 to 2: number the 2 classes from 0 to 1"),
        ({"labels": np.array([-1, 0], np.int32)}, "labels run from -1 to 0"),
    ],
)
def test_dataset_refuses(change, words):
    fields = {"images": np.zeros((2, 4), np.uint8), "labels": np.zeros(2, np.int32), "shape": (2, 2, 1)}
    fields["num_classes"] = 2
    with pytest.raises(ValueError, match=words):
        Dataset(**(fields | change))
