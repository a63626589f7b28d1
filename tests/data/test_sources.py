import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas.data import Augment, Dataset, bilevel_source, padded, split, supervised_source

PLAIN = Augment()
NUM_FURTHER = 2


def numbered(size):
    """Labels are the numbers of the examples, and so is every pixel."""
    numbers = np.arange(size)
    return Dataset(np.tile(numbers[:, None], (1, 4)).astype(np.uint8), numbers.astype(np.int32), (2, 2, 1), size)


def compiled(source):
    batch = jax.jit(source.batch)
    return lambda step, seed=0: batch(source.arrays, jnp.int32(step), jax.random.key(seed))


@pytest.fixture(scope="module")
def supervised():
    return compiled(supervised_source(numbered(11), batch_size=3, augment=PLAIN))  # 3 batches an epoch, 2 left out


@pytest.fixture(scope="module")
def levels():
    return split(numbered(20), jax.random.key(5), 0.6)  # 12 and 8


@pytest.fixture(scope="module")
def bilevel(levels):
    return compiled(bilevel_source(*levels, batch_size=4, augment=PLAIN, num_further=NUM_FURTHER))


def test_an_epoch_visits_no_example_twice_and_leaves_out_less_than_a_batch(supervised):
    epochs = [np.concatenate([supervised(3 * epoch + i).label for i in range(3)]) for epoch in range(6)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 9
    assert set(np.concatenate(epochs).tolist()) == set(range(11))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 6


def test_an_epoch_of_whole_batches_visits_every_example_exactly_once(bilevel, levels):
    inner, outer = levels
    for epoch in range(3):
        visited = np.concatenate([bilevel(3 * epoch + i).inner.label for i in range(3)])
        assert sorted(visited.tolist()) == sorted(inner.labels.tolist())
        visited = np.concatenate([bilevel(2 * epoch + i).outer.label for i in range(2)])
        assert sorted(visited.tolist()) == sorted(outer.labels.tolist())


def test_images_belong_to_their_labels(supervised, bilevel):
    examples = [supervised(4), bilevel(4).inner, bilevel(4).outer, bilevel(4).further]
    for image, label in examples:
        np.testing.assert_allclose(image[..., 0, 0, 0] * 255, label, atol=1e-4)
        assert (image.dtype, label.dtype) == (jnp.float32, jnp.int32)
    assert examples[0].image.shape == (3, 2, 2, 1)
    assert examples[3].image.shape == (NUM_FURTHER, 4, 2, 2, 1)


def test_levels_never_meet(bilevel, levels):
    inner, outer = (set(level.labels.tolist()) for level in levels)
    for step in range(7):
        batches = bilevel(step)
        assert set(batches.inner.label.tolist()) <= inner
        assert set(np.ravel(batches.further.label).tolist()) <= inner
        assert set(batches.outer.label.tolist()) <= outer


def test_further_batches_cover_the_inner_set_in_an_order_of_their_own(bilevel, levels):
    inner, _ = levels
    steps = [bilevel(step) for step in range(3)]  # 3 steps x 2 terms x 4 examples = 2 epochs
    visited = np.concatenate([batches.further.label.reshape(-1) for batches in steps])
    for epoch in np.split(visited, 2):
        assert sorted(epoch.tolist()) == sorted(inner.labels.tolist())
    assert visited[:12].tolist() != visited[12:].tolist()
    assert visited[:12].tolist() != np.concatenate([batches.inner.label for batches in steps]).tolist()


def test_levels_of_the_same_images_are_ordered_differently():
    same = numbered(12)
    batch = compiled(bilevel_source(same, same, batch_size=12, augment=PLAIN))(0)
    assert batch.inner.label.tolist() != batch.outer.label.tolist()
    assert batch.further is None


def test_same_step_same_bits_and_another_key_another_order(supervised):
    for one, again in zip(supervised(7), supervised(7), strict=True):
        np.testing.assert_array_equal(one, again)
    orders = [np.concatenate([supervised(i, seed).label for i in range(3)]).tolist() for seed in (0, 1)]
    assert orders[0] != orders[1]


def test_augmentation_is_fresh_at_every_step_and_in_every_batch():
    """One example, so that only the augmentation can differ."""
    single = Dataset(np.arange(256, dtype=np.uint8)[None], np.zeros(1, np.int32), (16, 16, 1), 1)
    aug = Augment(crop=15)  # 961 windows, none of them all black
    batch = compiled(bilevel_source(single, single, batch_size=1, augment=aug, num_further=NUM_FURTHER))
    images = []
    for step in range(2):
        one, again = batch(step), batch(step)
        jax.tree.map(np.testing.assert_array_equal, one, again)
        images += [one.inner.image[0], one.outer.image[0], *one.further.image[:, 0]]
    assert len({np.asarray(image).tobytes() for image in images}) == 2 * (2 + NUM_FURTHER)


def test_images_stay_flat_bytes_on_the_device(levels):
    source = bilevel_source(*levels, batch_size=4, augment=PLAIN)
    shapes = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(source.arrays)]
    assert shapes == [((12, 4), np.uint8), ((12,), np.int32), ((8, 4), np.uint8), ((8,), np.int32)]
    assert source.fetch is None


@pytest.mark.parametrize("batch_size", [0, -1, 12])
def test_refuses_an_impossible_batch_size(batch_size):
    with pytest.raises(ValueError, match=f"batch size {batch_size} with 11 examples: choose a size from 1 to 11"):
        supervised_source(numbered(11), batch_size=batch_size, augment=PLAIN)
    with pytest.raises(ValueError, match="with 11 examples"):
        bilevel_source(numbered(20), numbered(11), batch_size=batch_size, augment=PLAIN)


def test_bilevel_refuses_levels_that_do_not_match():
    square = numbered(4)
    flat = Dataset(square.images, square.labels, (1, 4, 1), 4)
    with pytest.raises(ValueError, match=r"inner images are \(2, 2, 1\) and outer images \(1, 4, 1\)"):
        bilevel_source(square, flat, batch_size=2, augment=PLAIN)
    with pytest.raises(ValueError, match="inner has 4 classes and outer 5"):
        bilevel_source(square, numbered(5), batch_size=2, augment=PLAIN)
    with pytest.raises(ValueError, match="num_further -1 is a number of batches"):
        bilevel_source(square, square, batch_size=2, augment=PLAIN, num_further=-1)


@pytest.mark.parametrize(("size", "batch_size", "num_batches"), [(10, 4, 3), (8, 4, 2), (3, 8, 1)])
def test_padded_counts_every_example_once_in_order(size, batch_size, num_batches):
    data = numbered(size)
    images, labels, mask = padded(data, batch_size)
    assert (images.shape, labels.shape, mask.shape) == (
        (num_batches, batch_size, 4),
        (num_batches, batch_size),
        (num_batches, batch_size),
    )
    assert mask.sum() == size
    np.testing.assert_array_equal(images[mask], data.images)
    np.testing.assert_array_equal(labels[mask], data.labels)
    assert not images[~mask].any()


@pytest.mark.parametrize(("size", "batch_size"), [(0, 4), (4, 0)])
def test_padded_refuses_nothing_to_evaluate(size, batch_size):
    with pytest.raises(ValueError, match=f"batch size {batch_size} and {size} examples"):
        padded(numbered(size), batch_size)
