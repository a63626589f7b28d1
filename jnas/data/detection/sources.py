"""Batches of photos with boxes, and their augmentation, as pure functions of the step and a key."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnas.data.detection.datasets import DetectionDataset
from jnas.data.sources import check_batch_size, epoch_order
from jnas.types import Array, Key, Source


class Boxed(NamedTuple):
    """A batch of photos with boxes, rows filled up to one number of boxes."""

    image: Any  # [batch, height, width, channels] float32, normalised; as stored: [batch, pixels] uint8
    boxes: Any  # [batch, most_boxes, 4] float32: left, top, right, bottom in pixels
    label: Any  # [batch, most_boxes] int32; -1: no box
    ignored: Any  # [batch, most_boxes] bool: neither to be found nor background


@dataclasses.dataclass(frozen=True)
class BoxAugment:
    """What happens to a training photo and its boxes; hashable, so that it may be static under jit.

    Args:
        flip: mirror left and right with probability one half.
        upright: whether the photo has a right way up; False: it is also mirrored up and down.
        smallest: least factor by which the photo is scaled; below 1 it lies somewhere in a black frame.
        largest: greatest factor; above 1 a part of it is cut out at random. The factor's logarithm is uniform.
        colour: most by which brightness, contrast and saturation are multiplied or divided, as a share: 0.2 means
            factors in [0.8, 1.2]; 0: none.
        least_share: of a box's area that must remain in the frame, or else the box is ignored.
        mean: of each channel, black being 0 and white 1.
        std: standard deviation of each channel, in the same units.

    Raises:
        ValueError: A number outside its range.
    """

    flip: bool = False
    upright: bool = True
    smallest: float = 1.0
    largest: float = 1.0
    colour: float = 0.0
    least_share: float = 0.3
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self):
        if not 0 < self.smallest <= self.largest:
            raise ValueError(f"scales {self.smallest} to {self.largest}: give positive ones, the smaller first")
        if not 0 <= self.colour < 1:
            raise ValueError(f"colour is {self.colour}: give a share in [0, 1)")
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise ValueError(f"mean {self.mean} and std {self.std}: give one positive deviation a mean")


def boxed_source(dataset: DetectionDataset, *, batch_size: int, augment: BoxAugment) -> Source:
    """Batches of photos with boxes; order and keys as in `supervised_source`.

    Args:
        dataset: the training photos.
        batch_size: photos a batch.
        augment: what happens to each.

    Returns:
        A source of `Boxed`.

    Raises:
        ValueError: The batch is empty or larger than the data set.
    """
    check_batch_size(batch_size, dataset)
    size = len(dataset)

    def batch(arrays: Boxed, step: Array, key: Key) -> Boxed:
        epoch, position = jnp.divmod(step, size // batch_size)
        index = jax.lax.dynamic_slice(epoch_order(key, epoch, size), (position * batch_size,), (batch_size,))
        _, augment_key = jax.random.split(key)
        rows = jax.tree.map(lambda leaf: leaf[index], arrays)
        return augment_boxes(augment, jax.random.fold_in(augment_key, step), rows, dataset.shape)

    stored = (dataset.images, dataset.boxes, dataset.labels, dataset.ignored)
    return Source(batch=batch, arrays=Boxed(*map(jnp.asarray, stored)))


def augment_boxes(aug: BoxAugment, key: Key | None, rows: Boxed, shape: tuple[int, int, int]) -> Boxed:
    r"""Photos as stored, with their boxes, to a batch as a detector reads it.

    Order: mirror, scale by s and shift, so that a point at x comes to lie at `s x + t`; colours; normalise. Boxes go
    the same way and are clipped to the frame. One of which too little remains is ignored, one of which nothing remains
    is gone.

    Args:
        aug: static under jit.
        key: PRNG key of this batch; None: normalise only, for evaluation.
        rows: with `image [batch, height * width * channels]` uint8.
        shape: `(height, width, channels)`, static under jit.

    Returns:
        The batch.

    >>> rows = Boxed(jnp.full((1, 4), 255, jnp.uint8), jnp.array([[[0.0, 0, 1, 2]]]), jnp.zeros((1, 1), jnp.int32),
    ...              jnp.zeros((1, 1), bool))
    >>> augment_boxes(BoxAugment(mean=(0.5,), std=(0.5,)), None, rows, (2, 2, 1)).image.ravel().tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    image = rows.image.reshape(-1, *shape).astype(jnp.float32) / 255.0
    boxes, label, ignored = rows.boxes, rows.label, rows.ignored
    if key is not None:
        across_key, down_key, move_key, colour_key = jax.random.split(key, 4)
        if aug.flip:
            image, boxes = _mirror(across_key, image, boxes, 2)
        if aug.flip and not aug.upright:
            image, boxes = _mirror(down_key, image, boxes, 1)
        if aug.smallest < 1 or aug.largest > 1:
            image, boxes, label, ignored = _move(aug, move_key, image, boxes, label, ignored)
        if aug.colour:
            image = _recolour(colour_key, image, aug.colour)
    mean, std = (jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1) for values in (aug.mean, aug.std))
    return Boxed((image - mean) / std, boxes, label, ignored)


def _mirror(key: Key, image: Array, boxes: Array, axis: int) -> tuple[Array, Array]:
    mirrored = jax.random.bernoulli(key, shape=(len(image), 1, 1, 1))
    side = jnp.float32(image.shape[axis])
    left, top, right, bottom = jnp.split(boxes, 4, axis=-1)
    if axis == 2:
        flipped = jnp.concatenate([side - right, top, side - left, bottom], -1)
    else:
        flipped = jnp.concatenate([left, side - bottom, right, side - top], -1)
    return jnp.where(mirrored, jnp.flip(image, axis), image), jnp.where(mirrored[..., 0], flipped, boxes)


def _move(aug: BoxAugment, key: Key, image: Array, boxes: Array, label: Array, ignored: Array):
    batch, height, width, _ = image.shape
    scale_key, place_key = jax.random.split(key)
    exponent = jax.random.uniform(scale_key, (batch, 1), minval=math.log(aug.smallest), maxval=math.log(aug.largest))
    scale = jnp.exp(exponent)
    sides = jnp.array([[height, width]], jnp.float32)
    shift = jax.random.uniform(place_key, (batch, 2)) * (1.0 - scale) * sides
    image = _resample(image, scale[:, 0], shift[:, 0], 1)
    image = _resample(image, scale[:, 0], shift[:, 1], 2)
    whole = boxes * scale[:, :, None] + jnp.tile(shift[:, ::-1], 2)[:, None, :]
    limits = jnp.tile(sides[:, ::-1], 2)[:, None, :]
    clipped = jnp.clip(whole, 0.0, limits)
    area = lambda corners: jnp.prod(corners[..., 2:] - corners[..., :2], -1)
    share = area(clipped) / jnp.maximum(area(whole), 1e-6)
    gone = (label < 0) | (share <= 0)
    return (
        image,
        jnp.where(gone[..., None], 0.0, clipped),
        jnp.where(gone, -1, label),
        (ignored | (share < aug.least_share)) & ~gone,
    )


def _resample(image: Array, scale: Array, shift: Array, axis: int) -> Array:
    """Moves what is at x to `scale x + shift` along an axis, by linear interpolation; black beyond the ends."""
    side = image.shape[axis]
    # Pixel i is the stretch from i to i + 1: its value stands at i + 0.5.
    source = (jnp.arange(side, dtype=jnp.float32)[None] + 0.5 - shift[:, None]) / scale[:, None] - 0.5
    first = jnp.floor(source)
    total = jnp.zeros_like(image)
    for index, weight in ((first, first + 1 - source), (first + 1, source - first)):
        inside = (index >= 0) & (index <= side - 1)
        rows = jnp.clip(index, 0, side - 1).astype(jnp.int32)
        weight = jnp.where(inside, weight, 0.0)
        picked = jax.vmap(lambda picture, at: jnp.take(picture, at, axis - 1))(image, rows)
        total += picked * jnp.expand_dims(weight, (2, 3) if axis == 1 else (1, 3))
    return total


def _recolour(key: Key, image: Array, amount: float) -> Array:
    factors = jax.random.uniform(key, (3, len(image), 1, 1, 1), minval=1 - amount, maxval=1 + amount)
    image = image * factors[0]
    middle = image.mean((1, 2, 3), keepdims=True)
    image = middle + factors[1] * (image - middle)
    grey = image.mean(-1, keepdims=True)
    return jnp.clip(grey + factors[2] * (image - grey), 0.0, 1.0)
