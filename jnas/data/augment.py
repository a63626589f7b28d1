"""The augmentation of the field (random crop, flip, cutout) as a pure function of a key."""

import dataclasses

import jax
import jax.numpy as jnp

from jnas.types import Array, Key


@dataclasses.dataclass(frozen=True)
class Augment:
    """What happens to a training image; hashable, so that it may be a static argument of a compiled function.

    Args:
        crop: width of the black border, in pixels, out of which an image of the original size is cut at random; 0: no
            crop.
        flip: mirror left and right with probability one half.
        cutout: side in pixels of the square that is blanked; 0: none.
        mean: mean of each channel, black being 0 and white 1 (see `normalisation`).
        std: standard deviation of each channel, in the same units.

    Raises:
        ValueError: A negative width, a deviation that is not positive, or as many means as there are not deviations.

    >>> Augment(crop=4, flip=True, cutout=16, mean=(0.5,), std=(0.25,)).cutout
    16
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        if self.crop < 0 or self.cutout < 0:
            raise ValueError(f"crop {self.crop} and cutout {self.cutout} are widths in pixels: give 0 or more")
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"{len(self.mean)} means and {len(self.std)} deviations: give one of each for every channel"
            )
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std {self.std} would be divided by: give positive deviations")


def augment(aug: Augment, key: Key | None, images: Array, shape: tuple[int, int, int]) -> Array:
    """Pixels as stored to images as a network reads them.

    Order, as in torchvision and in DARTS: pad the raw pixels with black (0 BEFORE normalisation, thus not 0 after it),
    crop, flip, normalise `(x / 255 - mean) / std`, and blank the cutout square with 0, which is the mean after
    normalisation. The centre of the square is uniform over all pixels and the square is clipped at the borders.

    Args:
        aug: static under jit.
        key: PRNG key of this batch; None: normalise only, for evaluation.
        images: `[batch, height * width * channels]` uint8.
        shape: `(height, width, channels)`, static under jit.

    Returns:
        `[batch, height, width, channels]` float32.

    Raises:
        ValueError: `aug` normalises another number of channels than `shape` has.

    Reference: DeVries and Taylor 2017, arXiv:1708.04552 (cutout); Liu et al. 2019, arXiv:1806.09055 (DARTS).

    >>> augment(Augment(mean=(0.5,), std=(0.5,)), None, jnp.array([[0, 255]], jnp.uint8), (1, 2, 1)).ravel().tolist()
    [-1.0, 1.0]
    """
    if len(aug.mean) != shape[-1]:
        raise ValueError(
            f"{len(aug.mean)} means for images of {shape[-1]} channels: give one mean and one std a channel"
        )
    pixels = images.reshape((-1, *shape))
    centre_key = None
    if key is not None:
        # One key a step of the chain, whether it runs or not: switching one off leaves the others' randomness as it
        # was.
        offset_key, flip_key, centre_key = jax.random.split(key, 3)
        pixels = _crop(offset_key, pixels, aug.crop) if aug.crop else pixels
        pixels = _flip(flip_key, pixels) if aug.flip else pixels
    mean = jnp.asarray(aug.mean, jnp.float32).reshape(1, 1, 1, -1)
    std = jnp.asarray(aug.std, jnp.float32).reshape(1, 1, 1, -1)
    normalised = (pixels.astype(jnp.float32) / 255.0 - mean) / std
    if centre_key is None or not aug.cutout:
        return normalised
    return _cutout(centre_key, normalised, aug.cutout)


def _crop(key, pixels, border):
    batch, height, width, channels = pixels.shape
    offset = jax.random.randint(key, (batch, 2), 0, 2 * border + 1)
    padded = jnp.pad(pixels, ((0, 0), (border, border), (border, border), (0, 0)))
    window = (height, width, channels)
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), window))(padded, offset)


def _flip(key, pixels):
    mirrored = jax.random.bernoulli(key, shape=(len(pixels), 1, 1, 1))
    return jnp.where(mirrored, pixels[:, :, ::-1], pixels)


def _cutout(key, images, side):
    batch, height, width, _ = images.shape
    centre = jax.random.randint(key, (batch, 2), 0, jnp.array([[height, width]]))
    # Rows centre - side // 2 and the `side` - 1 after it. DARTS writes centre +- side // 2, which is the same for an
    # even side and one pixel short of it for an odd one.
    first = centre - side // 2
    row = jnp.arange(height)[None, :] - first[:, :1]
    column = jnp.arange(width)[None, :] - first[:, 1:]
    blank = ((row >= 0) & (row < side))[:, :, None] & ((column >= 0) & (column < side))[:, None, :]
    return jnp.where(blank[..., None], 0.0, images)
