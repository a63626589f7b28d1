"""Geometry of boxes `(left, top, right, bottom)`: overlap, distances from a place, suppression of doubles."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jnas.types import Array

CANDIDATES = 1000  # surest boxes of an image among which doubles are looked for


class Places(NamedTuple):
    """Where a detector looks: the centres of the fields of its feature maps, finest map first."""

    centre: np.ndarray  # [num_places, 2] float32: x and y in pixels
    stride: np.ndarray  # [num_places] float32, pixels from a centre to the next
    least: np.ndarray  # [num_places] float32: of a box's four distances the largest lies in [least, most)
    most: np.ndarray  # [num_places] float32; infinite on the coarsest map


def places(shape: tuple[int, int], strides: tuple[int, ...], reach: float = 8.0) -> Places:
    """The places of feature maps over an image.

    A map answers for the boxes of its size: those of which no side is further than `reach` strides from the place, and
    which are too large for the finer maps.

    Args:
        shape: (height, width) of the image in pixels.
        strides: of the maps, increasing, each dividing neither side necessarily.
        reach: in strides.

    Returns:
        The places, row by row of each map.

    >>> places((8, 16), (8,)).centre.tolist()
    [[4.0, 4.0], [12.0, 4.0]]
    """
    parts, least = [], 0.0
    for stride in strides:
        rows, columns = (-(-side // stride) for side in shape)
        y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
        centre = (np.stack([x.ravel(), y.ravel()], -1) + 0.5) * stride
        most = np.inf if stride == strides[-1] else reach * stride
        parts.append((centre, *(np.full(len(centre), value) for value in (stride, least, most))))
        least = most
    return Places(*(np.concatenate(column).astype(np.float32) for column in zip(*parts, strict=True)))


def area(boxes: Array) -> Array:
    """Area of boxes `[..., 4]` in square pixels, `[...]`; 0 for those that are turned inside out."""
    return jnp.prod(jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0), -1)


def intersection(first: Array, second: Array) -> Array:
    """Area that boxes `[..., 4]` of the same leading shape share, `[...]`."""
    low, high = jnp.maximum(first[..., :2], second[..., :2]), jnp.minimum(first[..., 2:], second[..., 2:])
    return jnp.prod(jnp.maximum(high - low, 0.0), -1)


def overlap(first: Array, second: Array) -> Array:
    """Intersection over union of boxes `[..., 4]` of the same leading shape, `[...]` in [0, 1].

    >>> round(float(overlap(jnp.array([0.0, 0, 2, 2]), jnp.array([1.0, 0, 3, 2]))), 4)
    0.3333
    """
    shared = intersection(first, second)
    return shared / jnp.maximum(area(first) + area(second) - shared, 1e-6)


def generalised_overlap(first: Array, second: Array) -> Array:
    r"""`IoU - (|C| - |union|) / |C|`, C being the smallest box around both; in (-1, 1].

    When to use it: as a loss; unlike the overlap it has a gradient where the boxes are apart.

    Args:
        first: `[..., 4]`.
        second: `[..., 4]`.

    Returns:
        `[...]`.

    Reference: Rezatofighi et al., "Generalized intersection over union", CVPR 2019.
    """
    shared = intersection(first, second)
    union = area(first) + area(second) - shared
    low, high = jnp.minimum(first[..., :2], second[..., :2]), jnp.maximum(first[..., 2:], second[..., 2:])
    around = jnp.prod(high - low, -1)
    return shared / jnp.maximum(union, 1e-6) - (around - union) / jnp.maximum(around, 1e-6)


def to_distances(centre: Array, boxes: Array) -> Array:
    """How far the sides of boxes `[..., 4]` are from centres `[..., 2]`: left, up, right and down, `[..., 4]`."""
    return jnp.concatenate([centre - boxes[..., :2], boxes[..., 2:] - centre], -1)


def to_boxes(centre: Array, distances: Array) -> Array:
    """The boxes `[..., 4]` whose sides are at these distances `[..., 4]` from the centres `[..., 2]`.

    >>> to_boxes(jnp.array([4.0, 4.0]), jnp.array([1.0, 2.0, 3.0, 4.0])).tolist()
    [3.0, 2.0, 7.0, 8.0]
    """
    return jnp.concatenate([centre - distances[..., :2], centre + distances[..., 2:]], -1)


class Found(NamedTuple):
    """What a detector found in an image, the surest first; a leading axis for a batch."""

    boxes: Array  # [most, 4] float32, pixels
    score: Array  # [most] float32 in [0, 1]; 0: nothing, or a double of a surer one
    label: Array  # [most] int32


def suppress(found: Found, most_overlap: float) -> Found:
    """Sets the score of a box to 0 where a surer box of its class that stands overlaps it by more than that.

    Args:
        found: of one image, the surest first.
        most_overlap: of two boxes of one class that both stand.

    Returns:
        The same, in the same order.
    """
    pair = overlap(found.boxes[:, None], found.boxes[None])
    rivals = (pair > most_overlap) & (found.label[:, None] == found.label[None])

    def visit(row, standing):
        doubles = rivals[row] & (jnp.arange(len(standing)) > row)
        return jnp.where(standing[row], standing & ~doubles, standing)

    standing = lax.fori_loop(0, found.score.shape[0], visit, found.score > 0)
    return found._replace(score=jnp.where(standing, found.score, 0.0))


def decode(score: Array, boxes: Array, *, most: int, most_overlap: float) -> Found:
    """From scores at every place to the boxes found.

    Args:
        score: `[num_places, num_classes]` in [0, 1].
        boxes: `[num_places, 4]` in pixels.
        most: boxes to return. The 1,000 surest are looked at, as common detectors do: an object is found at up to nine
            places, and its doubles must not take those of others.
        most_overlap: see `suppress`.

    Returns:
        What was found, `[most]`, sorted by score; suppressed ones have the score 0 and stand last.
    """
    top, index = lax.top_k(score.ravel(), min(max(most, CANDIDATES), score.size))
    place, label = jnp.divmod(index, score.shape[1])
    found = suppress(Found(boxes[place], top, label.astype(jnp.int32)), most_overlap)
    order = jnp.argsort(-found.score, stable=True)
    return jax.tree.map(lambda leaf: leaf[order[:most]], found)
