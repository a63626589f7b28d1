"""What a data set is like, cheaply: size, pixels, and how well frozen features tell its classes apart."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnas.data.arrays import Dataset
from jnas.data.sources import padded
from jnas.types import Array, PyTree

# (weights, pixels [batch, height, width, channels] in [0, 1]) -> features [batch, dimension]
Features = Callable[[PyTree, Array], Array]
LEAST_WIDTH = 128  # of the features, as the program for the scores sees them
ITERATIONS = 30  # of LogME's fixed point; the publication stops at 11 or at a change of a thousandth


class Description(NamedTuple):
    """Numbers about a data set, all finite, in one order: `Description._fields`."""

    log_examples: float  # log10 of the number of images
    log_classes: float
    log_examples_a_class: float
    imbalance: float  # 1 - entropy of the labels / log(classes): 0 when all classes are equally frequent
    log_pixels: float  # log10 of height * width
    channels: float
    mean: float  # of all pixels; black 0, white 1
    contrast: float  # mean over images of the deviation of their pixels
    variety: float  # deviation over images of their mean pixel
    roughness: (
        float  # mean absolute difference of neighbouring pixels over twice the contrast: 0 smooth, about .56 noise
    )
    nearest_centroid: float  # share of images nearest to the centroid of their own class, each left out of its centroid
    logme: float  # log evidence of a linear model of the classes on the features, nats an example


def describe(
    dataset: Dataset, features: Features | None = None, weights: PyTree = (), *, most: int = 2048, batch_size: int = 256
) -> Description:
    """Describe a data set by one compiled pass over a part of it; nothing is trained.

    Args:
      dataset: of images; use the training images, the test set chooses nothing.
      features: of a frozen network; None: the pixels, averaged to at most 8 x 8. Build it once and keep it: another
        function compiles again.
      weights: of the network.
      most: images to look at, spread evenly over the data set.
      batch_size: images at a time.

    Returns:
      The description.

    Raises:
      ValueError: if there are fewer than 2 images.

    Reference: You et al., "LogME: Practical assessment of pre-trained models for transfer learning", ICML 2021.
    """
    if len(dataset) < 2:
        raise ValueError(f"data set {dataset.name!r} has {len(dataset)} images: give at least 2 to describe")
    part = dataset
    if len(dataset) > most:
        part = dataset.part(np.random.default_rng(0).permutation(len(dataset))[:most])
    batches = padded(part, min(batch_size, len(part)))
    images, labels, mask = (jnp.asarray(x) for x in batches)
    rows, *pixels = _look(features or small_pixels, weights, images, dataset.shape)
    # Columns of zeros change neither score, and networks of different widths share one program for the scores.
    width = max(LEAST_WIDTH, 1 << (rows.shape[1] - 1).bit_length())
    rows = jnp.pad(rows, ((0, 0), (0, width - rows.shape[1])))
    measured = _score(rows, *pixels, labels, mask, dataset.num_classes)
    counts = np.bincount(dataset.labels, minlength=dataset.num_classes)
    share = counts[counts > 0] / len(dataset)
    most_even = math.log(dataset.num_classes) if dataset.num_classes > 1 else 1.0
    height, width, channels = dataset.shape
    return Description(
        math.log10(len(dataset)),
        math.log10(dataset.num_classes),
        math.log10(len(dataset) / dataset.num_classes),
        1.0 + float(np.sum(share * np.log(share))) / most_even,
        math.log10(height * width),
        float(channels),
        *(float(value) for value in measured),
    )


def small_pixels(weights: PyTree, image: Array) -> Array:
    """Features without a network: pixels averaged over blocks, at most 8 x 8 of them."""
    batch, height, width, channels = image.shape
    rows, columns = max(1, height // 8), max(1, width // 8)
    cut = image[:, : height // rows * rows, : width // columns * columns]
    blocks = cut.reshape(batch, height // rows, rows, width // columns, columns, channels)
    return blocks.mean((2, 4)).reshape(batch, -1)


def nearest_centroid(features: Array, labels: Array, mask: Array, num_classes: int) -> Array:
    """Share of examples that lie nearest to the centroid of their own class, without themselves in it.

    Args:
      features: `[n, dimension]`.
      labels: `[n]` int32.
      mask: `[n]` bool, examples that count.
      num_classes: number of classes; static. One without examples attracts none.

    Returns:
      A scalar in [0, 1]; an example alone in its class counts as missed.
    """
    member = jax.nn.one_hot(labels, num_classes, dtype=features.dtype) * mask[:, None].astype(features.dtype)
    counts = member.sum(0)
    centroids = (member.T @ features) / jnp.maximum(counts, 1)[:, None]
    distance = jnp.sum(features**2, -1, keepdims=True) - 2 * features @ centroids.T + jnp.sum(centroids**2, -1)[None, :]
    distance = jnp.where(counts[None, :] > 0, distance, jnp.inf)
    # Without x the centroid of its n examples moves away from x by the factor n / (n - 1).
    size = counts[labels]
    factor = jnp.where(size > 1, size / jnp.maximum(size - 1, 1), jnp.inf) ** 2
    own = jnp.take_along_axis(distance, labels[:, None], 1)[:, 0] * factor
    others = jnp.where(jax.nn.one_hot(labels, num_classes, dtype=bool), jnp.inf, distance).min(1)
    return jnp.sum((own < others) & mask) / mask.sum()


def logme(features: Array, labels: Array, mask: Array, num_classes: int) -> Array:
    """The maximal log evidence of Bayesian linear models of the classes, one against the rest, an example and class.

    For each class y in {0, 1}^n: maximise over (alpha, beta) the evidence of y = F w + e, w ~ N(0, I / alpha),
    e ~ N(0, I / beta),

    `L = n/2 log beta + d/2 log alpha - n/2 log 2 pi - beta/2 |F m - y|^2 - alpha/2 |m|^2 - 1/2 log det A`,
    `A = alpha I + beta F'F`, `m = beta A^-1 F'y`,

    by the fixed point `gamma = sum_i beta s_i / (alpha + beta s_i)`, `alpha = gamma / |m|^2`,
    `beta = (n - gamma) / |F m - y|^2`, with s_i the eigenvalues of F'F. L / n, averaged over the classes.

    Args:
      features: `[n, dimension]`.
      labels: `[n]` int32.
      mask: `[n]` bool, examples that count.
      num_classes: number of classes; static.

    Returns:
      A scalar.

    Reference: You et al. 2021, algorithm 1.
    """
    dtype = features.dtype
    kept = jnp.where(mask[:, None], features, jnp.zeros((), dtype))
    count = mask.sum().astype(dtype)
    target = jax.nn.one_hot(labels, num_classes, dtype=dtype) * mask[:, None].astype(dtype)
    # Rows outside the mask are zero in both and add nothing to F'F, F'y or y'y.
    left, singular, _ = jnp.linalg.svd(kept, full_matrices=False)
    spectrum = singular**2  # [k]
    inside = (left.T @ target) ** 2  # [k, classes]: the squared part of y along each axis
    outside = jnp.maximum(jnp.sum(target**2, 0) - inside.sum(0), 0.0)
    tiny = jnp.asarray(1e-5, dtype)

    def one(inside, outside):
        def norms(ratio):  # alpha / beta
            share = spectrum / (spectrum + ratio)
            weights = jnp.sum(spectrum * inside / (spectrum + ratio) ** 2)
            return jnp.sum(share), weights, jnp.sum(((1 - share) ** 2) * inside) + outside

        def step(carry, _):
            alpha, beta = carry
            gamma, weights, residual = norms(alpha / beta)
            return (gamma / (weights + tiny), (count - gamma) / (residual + tiny)), None

        first = (jnp.ones((), dtype), jnp.ones((), dtype))
        (alpha, beta), _ = jax.lax.scan(step, first, length=ITERATIONS)
        _, weights, residual = norms(alpha / beta)
        # The other dimension - k eigenvalues of A are alpha.
        missing = features.shape[1] - len(spectrum)
        log_det = jnp.sum(jnp.log(alpha + beta * spectrum)) + missing * jnp.log(alpha)
        evidence = (
            0.5 * count * (jnp.log(beta) - math.log(2 * math.pi)) + 0.5 * features.shape[1] * jnp.log(alpha)
            - 0.5 * beta * residual - 0.5 * alpha * weights - 0.5 * log_det
        )  # fmt: skip
        return evidence / count

    return jax.vmap(one, in_axes=(1, 0))(inside, outside).mean()


@functools.partial(jax.jit, static_argnums=(0, 3))
def _look(features: Features, weights, images, shape):
    """The one pass over the images: features `[n, dimension]`, and mean, contrast and change of each image `[n]`."""

    def look(batch):
        image = batch.reshape(-1, *shape).astype(jnp.float32) / 255.0
        mean, deviation = image.mean((1, 2, 3)), image.std((1, 2, 3))
        down = jnp.abs(jnp.diff(image, axis=1)).mean((1, 2, 3)) if shape[0] > 1 else jnp.zeros(len(image))
        across = jnp.abs(jnp.diff(image, axis=2)).mean((1, 2, 3)) if shape[1] > 1 else jnp.zeros(len(image))
        return features(weights, image), mean, deviation, (down + across) / 2

    found, *pixels = jax.lax.map(look, images)
    return found.reshape(-1, found.shape[-1]), *(part.ravel() for part in pixels)


@functools.partial(jax.jit, static_argnums=6)
def _score(rows, mean, deviation, change, labels, mask, num_classes):
    labels, mask = labels.ravel(), mask.ravel()
    counted = mask.astype(jnp.float32)
    share = counted / counted.sum()
    average, contrast = (jnp.sum(share * part) for part in (mean, deviation))
    variety = jnp.sqrt(jnp.sum(share * (mean - average) ** 2))
    roughness = jnp.sum(share * change) / jnp.maximum(2 * contrast, 1e-4)  # below that there is rounding alone
    centre = share @ rows
    scale = jnp.sqrt(jnp.maximum(share @ (rows - centre[None]) ** 2, 0.0).sum())
    scale = jnp.where(scale > 1e-5 * jnp.linalg.norm(centre), scale + 1e-6, jnp.inf)  # else it is rounding
    rows = (rows - centre[None]) / scale  # the scores compare networks: their features have one scale
    told = nearest_centroid(rows, labels, mask, num_classes)
    bias = jnp.concatenate([rows, jnp.ones((len(rows), 1))], 1)
    return average, contrast, variety, roughness, told, logme(bias, labels, mask, num_classes)
