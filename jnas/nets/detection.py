"""A compact anchor-free detector on the features of a network, and its loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jnas.nets.boxes import Found, Places, area, decode, generalised_overlap, overlap, places, to_boxes, to_distances
from jnas.nets.chain import FoundNetwork
from jnas.nets.layers import Conv, ConvNorm
from jnas.spaces.networks import NetworkSpace
from jnas.types import Array

_PRIOR = 0.01  # of a class at a place, at the start: else the many empty places drown the few boxes


class Predictions(NamedTuple):
    """What a detector says at every place of every map, finest map first."""

    logit: jax.Array  # [batch, num_places, num_classes] float32: of each class, by itself
    quality: jax.Array  # [batch, num_places] float32, logit: how well the box fits
    distances: jax.Array  # [batch, num_places, 4] float32, pixels to the four sides of the box, positive


class Detector(nn.Module):
    """Feature maps joined from coarse to fine, and one small head for all of them.

    At every place of a map the head gives a logit a class, four distances to the sides of the box around the place, and
    how well that box fits. No anchors; nothing to match but places to boxes.

    Attributes:
      backbone: gives the feature maps; its classifier is left out.
      num_classes: of the objects.
      strides: of the maps, some of `backbone.strides`, increasing.
      channels: of the joined maps, a multiple of 8.
      depth: 3x3 convolutions before the three outputs.
    """

    backbone: FoundNetwork
    num_classes: int
    strides: tuple[int, ...] = (8, 16, 32)
    channels: int = 32
    depth: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        offered = self.backbone.strides
        if not self.strides or sorted(set(self.strides)) != list(self.strides) or not set(self.strides) <= set(offered):
            raise ValueError(
                f"strides {tuple(self.strides)} of a network that offers {offered}: choose among those, increasing."
            )
        if any(2 * fine != coarse for fine, coarse in zip(self.strides, self.strides[1:], strict=False)):
            raise ValueError(f"strides {tuple(self.strides)} skip one: choose neighbours, each twice the one before.")
        if self.channels < 8 or self.channels % 8:
            raise ValueError(f"channels is {self.channels}: use a multiple of 8.")
        if self.depth < 1 or self.num_classes < 1:
            raise ValueError(f"depth {self.depth} and num_classes {self.num_classes}: use at least 1 of each.")

    @property
    def space(self) -> NetworkSpace:
        """Of the backbone."""
        return self.backbone.space

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool, drop_path: jax.Array | float = 0.0) -> Predictions:
        """Looks at images.

        Args:
          image: `[batch, height, width, any]` float, normalised; the sides a multiple of the coarsest stride.
          train: normalise by the batch and update the running statistics.
          drop_path: see `Network`.

        Returns:
          Predictions at `places((height, width), strides)`.
        """
        if any(side % self.strides[-1] for side in image.shape[1:3]):
            raise ValueError(
                f"images of {image.shape[1]}x{image.shape[2]} pixels under maps of stride {self.strides[-1]}: use "
                "sides that it divides."
            )
        states = self.backbone(image, train=train, drop_path=drop_path, features=True)
        maps, above = {}, None
        for stride in reversed(self.strides):
            state = ConvNorm(self.channels, name=f"lateral_{stride}")(states[stride], train)
            above = state if above is None else state + jnp.repeat(jnp.repeat(above, 2, 1), 2, 2)
            maps[stride] = ConvNorm(self.channels, 3, name=f"join_{stride}")(above, train)
        head = _Head(self.num_classes, self.channels, self.depth, name="head")
        outputs = [head(maps[stride], stride) for stride in self.strides]
        return Predictions(*(jnp.concatenate(parts, 1) for parts in zip(*outputs, strict=True)))


class _Head(nn.Module):
    """The head, the same for every map but for a factor of its distances."""

    num_classes: int
    channels: int
    depth: int

    @nn.compact
    def __call__(self, x: jax.Array, stride: int) -> Predictions:
        for index in range(self.depth):
            # Normalised by groups of channels within an image: maps of unlike statistics share these weights.
            x = nn.GroupNorm(self.channels // 4, name=f"norm_{index}")(x)
            x = Conv(self.channels, 3, name=f"conv_{index}")(nn.relu(x))
        x = nn.relu(nn.GroupNorm(self.channels // 4, name="norm")(x))
        y = Conv(self.num_classes + 5, 3, name="outputs")(x).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes + 5,)) + _start(self.num_classes)
        y = (y + bias.reshape(1, 1, 1, -1)).reshape(y.shape[0], -1, self.num_classes + 5)
        factor = 1.0 + self.param(f"factor_{stride}", nn.initializers.zeros, (1,))
        distances = stride * nn.softplus(factor.reshape(1, 1, 1) * y[..., -4:])
        return Predictions(y[..., : self.num_classes], y[..., self.num_classes], distances)


def _start(num_classes: int) -> np.ndarray:
    """What an untrained head says: classes are rare; the fit is undecided; boxes are four strides wide and high."""
    prior = [np.log(_PRIOR / (1 - _PRIOR))] * num_classes
    return np.array([*prior, 0.0, *[np.log(np.expm1(2.0))] * 4], np.float32)


class Targets(NamedTuple):
    """What one image wants at every place."""

    label: Array  # [num_places] int32; -1: nothing
    boxes: Array  # [num_places, 4] float32, pixels; 0 where there is nothing
    counts: Array  # [num_places] bool: False where an ignored box makes nothing right or wrong


def assign(where: Places, boxes: Array, label: Array, ignored: Array, *, radius: float = 1.5) -> Targets:
    """Gives every place the box that it has to find.

    A place is a candidate for a box if it lies in it, within `radius` strides of its centre in both directions, and its
    map is the one for that size. Of several boxes the smallest wins. A place without a box that lies in an ignored one
    does not count.

    Args:
      where: the places.
      boxes: `[most_boxes, 4]` in pixels.
      label: `[most_boxes]` int32; -1: no box.
      ignored: `[most_boxes]` bool.
      radius: in strides.

    Returns:
      The targets.

    Reference: Tian et al., "FCOS: fully convolutional one-stage object detection", ICCV 2019, with centre sampling.
    """
    chosen, positive, inside = _chosen(where, boxes, label, ignored, radius)
    in_ignored = (inside & ((label >= 0) & ignored)[None]).any(-1)
    return Targets(
        jnp.where(positive, label[chosen], -1),
        jnp.where(positive[:, None], boxes[chosen], 0.0),
        positive | ~in_ignored,
    )


def reached(where: Places, boxes: Array, label: Array, ignored: Array, *, radius: float = 1.5) -> Array:
    """Which boxes some place has to find, as `assign` gives them out.

    A box that is smaller than the finest stride may hold no place, and the places of one may all have smaller ones.

    >>> from jnas.nets.boxes import places
    >>> boxes = jnp.array([[1.0, 1, 7, 7], [5.0, 5, 11, 11]])
    >>> reached(places((16, 16), (8,)), boxes, jnp.array([0, 0]), jnp.array([False, False])).tolist()
    [True, False]

    Args:
      where: as for `assign`.
      boxes: as for `assign`.
      label: as for `assign`.
      ignored: as for `assign`.
      radius: as for `assign`.

    Returns:
      `[most_boxes]` bool; False where there is no box.
    """
    chosen, positive, _ = _chosen(where, boxes, label, ignored, radius)
    return jnp.zeros(len(label), bool).at[chosen].max(positive)


def _chosen(where: Places, boxes: Array, label: Array, ignored: Array, radius: float) -> tuple[Array, Array, Array]:
    """The box of each place, whether there is one, and which boxes it lies in."""
    centre = jnp.asarray(where.centre)[:, None]
    distances = to_distances(centre, boxes[None])
    middle = (boxes[None, :, :2] + boxes[None, :, 2:]) / 2
    near = jnp.max(jnp.abs(centre - middle), -1) <= radius * jnp.asarray(where.stride)[:, None]
    inside, largest = distances.min(-1) > 0, distances.max(-1)
    of_size = (largest >= jnp.asarray(where.least)[:, None]) & (largest < jnp.asarray(where.most)[:, None])
    candidate = inside & near & of_size & ((label >= 0) & ~ignored)[None]
    size = jnp.where(candidate, area(boxes)[None], jnp.inf)
    return jnp.argmin(size, -1), candidate.any(-1), inside


def detection_loss(
    predictions: Predictions, targets: Targets, where: Places, *, alpha: float = 0.25, gamma: float = 2.0
) -> tuple[Array, dict[str, Array]]:
    """Focal loss of the classes, `1 - GIoU` of the boxes, and cross-entropy of their fit with its own overlap.

    Args:
      predictions: of a batch.
      targets: of it, with leading axis `[batch]`.
      where: the places.
      alpha: weight of a class that is there, `1 - alpha` of one that is not.
      gamma: power by which what is already sure counts less.

    Returns:
      The sum of the three, each divided by the number of places that have a box, [] float32; and the three.

    Reference: Lin et al., "Focal loss for dense object detection", ICCV 2017; Rezatofighi et al., CVPR 2019.
    """
    positive = targets.label >= 0
    number = jnp.maximum(positive.sum().astype(jnp.float32), 1.0)
    wanted = jax.nn.one_hot(targets.label, predictions.logit.shape[-1], dtype=jnp.float32)  # all 0 for -1
    focal = optax.sigmoid_focal_loss(predictions.logit, wanted, alpha=alpha, gamma=gamma)
    classes = jnp.where(targets.counts[..., None], focal, 0.0).sum() / number
    boxes = to_boxes(jnp.asarray(where.centre)[None], predictions.distances)
    # Where there is no box the prediction stands in for it: a box of no size would have a gradient that is not finite.
    real = jnp.where(positive[..., None], targets.boxes, jax.lax.stop_gradient(boxes))
    place = jnp.where(positive, 1.0 - generalised_overlap(boxes, real), 0.0).sum() / number
    fit = jax.lax.stop_gradient(overlap(boxes, real))
    entropy = fit * jax.nn.softplus(-predictions.quality) + (1 - fit) * jax.nn.softplus(predictions.quality)
    quality = jnp.where(positive, entropy, 0.0).sum() / number
    parts = {"class_loss": classes, "box_loss": place, "quality_loss": quality}
    mean_fit = jnp.where(positive, fit, 0.0).sum() / number
    return classes + place + quality, {**parts, "mean_overlap": mean_fit}


def detect(
    predictions: Predictions, shape: tuple[int, int], strides: tuple[int, ...], *, most: int, most_overlap: float
) -> Found:
    """The boxes found in a batch of images.

    The score of a class is the geometric mean of its probability and of how well the box is said to fit.

    Args:
      predictions: of a batch.
      shape: (height, width) of the images in pixels.
      strides: of the maps.
      most: boxes an image.
      most_overlap: of two boxes of one class, beyond which the surer one alone stands.

    Returns:
      What was found, leading axis `[batch]`, clipped to the image.
    """
    centre = jnp.asarray(places(shape, strides).centre)
    limits = jnp.asarray([*shape[::-1], *shape[::-1]], jnp.float32)[None]

    def one(single: Predictions) -> Found:
        score = jnp.sqrt(jax.nn.sigmoid(single.logit) * jax.nn.sigmoid(single.quality)[:, None])
        boxes = jnp.clip(to_boxes(centre, single.distances), 0.0, limits)
        return decode(score, boxes, most=most, most_overlap=most_overlap)

    return jax.vmap(one)(predictions)
