import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas.data import Augment, augment

SHAPE = (5, 7, 2)  # height and width differ: a swapped axis would show
MEAN, STD = (0.3, 0.6), (0.2, 0.4)
KEY = jax.random.key(11)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (16, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def compiled():
    return jax.jit(augment, static_argnums=(0, 3))


@pytest.fixture(scope="module")
def run(compiled, pixels):
    def call(key, **options):
        return np.asarray(compiled(Augment(mean=MEAN, std=STD, **options), key, pixels.reshape(16, -1), SHAPE))

    return call


def normalised(pixels):
    return (pixels.astype(np.float64) / 255 - np.array(MEAN)) / np.array(STD)


def cropped(pixels, border, key):
    """Pixel by pixel, with the random numbers of the function under test."""
    batch, height, width, channels = pixels.shape
    offsets = np.asarray(jax.random.randint(key, (batch, 2), 0, 2 * border + 1))
    out = np.zeros_like(pixels)  # what comes from outside is black before normalisation
    for b, row, column, channel in np.ndindex(batch, height, width, channels):
        y, x = row + offsets[b, 0] - border, column + offsets[b, 1] - border
        if 0 <= y < height and 0 <= x < width:
            out[b, row, column, channel] = pixels[b, y, x, channel]
    return out


def flipped(pixels, key):
    mirrored = np.asarray(jax.random.bernoulli(key, shape=(len(pixels), 1, 1, 1))).ravel()
    return np.stack([image[:, ::-1] if mirror else image for image, mirror in zip(pixels, mirrored, strict=True)])


def cut(images, side, key):
    """The loop of DARTS' utils.Cutout, for even sides."""
    batch, height, width, _ = images.shape
    centres = np.asarray(jax.random.randint(key, (batch, 2), 0, jnp.array([[height, width]])))
    out = images.copy()
    for image, (y, x) in zip(out, centres, strict=True):
        top, bottom = np.clip([y - side // 2, y + side // 2], 0, height)
        left, right = np.clip([x - side // 2, x + side // 2], 0, width)
        image[top:bottom, left:right] = 0
    return out


def test_without_a_key_only_normalises(run, pixels):
    out = run(None, crop=2, flip=True, cutout=4)
    assert out.shape == (16, *SHAPE)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, normalised(pixels), rtol=0, atol=1e-6)


def test_crop_agrees_with_a_loop(run, pixels):
    offset_key, _, _ = jax.random.split(KEY, 3)
    np.testing.assert_allclose(run(KEY, crop=2), normalised(cropped(pixels, 2, offset_key)), rtol=0, atol=1e-6)


def test_flip_agrees_with_a_loop(run, pixels):
    _, flip_key, _ = jax.random.split(KEY, 3)
    expected = flipped(pixels, flip_key)
    changed = (expected != pixels).any(axis=(1, 2, 3))
    assert changed.any()
    assert not changed.all()
    np.testing.assert_allclose(run(KEY, flip=True), normalised(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [2, 4])
def test_cutout_agrees_with_darts(run, pixels, side):
    _, _, centre_key = jax.random.split(KEY, 3)
    np.testing.assert_allclose(run(KEY, cutout=side), cut(normalised(pixels), side, centre_key), rtol=0, atol=1e-6)


def test_all_together_keep_their_order_and_their_random_numbers(run, pixels):
    offset_key, flip_key, centre_key = jax.random.split(KEY, 3)
    expected = cut(normalised(flipped(cropped(pixels, 2, offset_key), flip_key)), 4, centre_key)
    np.testing.assert_allclose(run(KEY, crop=2, flip=True, cutout=4), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [1, 3])
def test_an_odd_cutout_is_a_square_of_that_side_with_its_centre_on_any_pixel(compiled, side):
    white = np.full((512, 5 * 7), 255, np.uint8)
    blank = np.asarray(compiled(Augment(cutout=side), KEY, white, (5, 7, 1)))[..., 0] == 0
    inside = blank.sum(axis=(1, 2))
    assert inside.max() == side**2
    if side == 1:  # the centres themselves: one in each image, and every pixel of the 35 is one somewhere
        assert inside.min() == 1
        assert blank.any(axis=0).all()
    else:  # a centre in the corner leaves 2 x 2
        assert inside.min() == 4


def test_same_key_same_bits_and_other_key_other_images(run):
    one, again, other = (run(jax.random.key(seed), crop=2, flip=True) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_compiles_once_for_equal_settings(pixels):
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def counted(aug, key, images):
        traces.append(aug)
        return augment(aug, key, images, SHAPE)

    for seed in range(2):
        counted(Augment(crop=1, mean=MEAN, std=STD), jax.random.key(seed), pixels.reshape(16, -1))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crop": -1}, "crop -1 and cutout 0 are widths in pixels: give 0 or more"),
        ({"cutout": -2}, "cutout -2"),
        ({"mean": (0.1, 0.2)}, "2 means and 1 deviations"),
        ({"std": (0.0,)}, "give positive deviations"),
    ],
)
def test_augment_refuses(options, words):
    with pytest.raises(ValueError, match=words):
        Augment(**options)


def test_refuses_the_means_of_another_number_of_channels(pixels):
    with pytest.raises(ValueError, match="1 means for images of 2 channels"):
        augment(Augment(), None, pixels.reshape(16, -1), SHAPE)
