"""Gradient confusion: how far minibatches pull the weights in opposite directions, and the depth that matches it."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jnas import nets
from jnas.types import Array, Batch, Context, Key, Loss, PyTree, Source


class Confusion(NamedTuple):
    """What `gradient_confusion` measures."""

    smallest: float  # min over pairs i != j of <g_i, g_j>: the measure of the literature
    cosine: float  # min over pairs of <g_i, g_j> / (|g_i| |g_j|): independent of the gradients' size
    products: np.ndarray  # [num_batches, num_batches] float64, all <g_i, g_j>


def gradient_confusion(
    loss: Loss, weights: PyTree, alpha: PyTree, variables: PyTree, source: Source, *, num_batches: int = 10, key: Key
) -> Confusion:
    """The smallest inner product of the gradients of two minibatches, at one point.

        c = min over i != j of <g_i, g_j>,   g_i = grad_w loss(w, a, B_i)

    As defined here: `g_i` is the gradient in all weights, of the loss as it is trained (batch norm on the minibatch,
    no drop path, no auxiliary head, no weight decay), all at the same fresh weights; the minibatches are the first
    `num_batches` of an epoch of `source`, so they are disjoint and augmented, of the training's batch size. Deep
    networks have a smaller one at the same width: their minibatches disagree more, and training is slower.

    Args:
      loss: `(weights, alpha, batch, context) -> (scalar, Aux)`.
      weights: where; freshly initialised to compare depths.
      alpha: of a supernet its initial one, of a found network `()`.
      variables: running statistics.
      source: of batches, resident on the device.
      num_batches: n >= 2; all n (n - 1) / 2 pairs are compared.
      key: of the order and the augmentation.

    Returns:
      The smallest product, the smallest cosine and all products. Products grow with the square of the gradients, which
      differ between a supernet (averaged operators) and a found network: then match the cosine.

    Raises:
      ValueError: for fewer than two batches, or a source that streams from the host.

    References:
      Sankararaman et al., "The impact of neural network overparameterization on gradient confusion and stochastic
      gradient descent", ICML 2020; Li et al., "StacNAS", arXiv:1909.11926, which matches the depths of search and
      final network by it.
    """
    if num_batches < 2:
        raise ValueError(f"gradient_confusion: num_batches is {num_batches}; give 2 or more, for pairs.")
    if source.fetch is not None:
        raise ValueError("gradient_confusion: the source streams from the host; give one that lies on the device.")
    gradient = _gradient(loss, source.batch)
    rows = [gradient(weights, alpha, variables, source.arrays, jnp.int32(step), key) for step in range(num_batches)]
    # Products in double precision on the host: pairs of long vectors nearly cancel.
    table = np.stack([np.asarray(row) for row in rows]).astype(np.float64)
    products = table @ table.T
    apart = ~np.eye(num_batches, dtype=bool)
    norms = np.sqrt(np.diagonal(products))
    cosines = products / np.maximum(norms[:, None] * norms[None], 1e-300)
    return Confusion(float(products[apart].min()), float(cosines[apart].min()), products)


@functools.lru_cache(maxsize=16)
def _gradient(loss: Loss, batch_of):
    @jax.jit
    def gradient(weights, alpha, variables, arrays, step: Array, key: Key) -> Array:
        batch: Batch = batch_of(arrays, step, key)
        context = Context(variables, jax.random.fold_in(key, step))
        slopes = jax.grad(loss, has_aux=True)(weights, alpha, batch, context)[0]
        return ravel_pytree(slopes)[0]

    return gradient


def network_confusion(
    net: nets.Network,
    loss: Loss,
    alpha: PyTree,
    shape: tuple[int, int, int],
    source: Source,
    *,
    num_batches: int = 10,
    num_seeds: int = 3,
    key: Key,
) -> Confusion:
    """Gradient confusion of a network at fresh weights, averaged over initialisations.

    Args:
      net: a supernet or a found network.
      loss: of it.
      alpha: of a supernet, for instance `spaces.init_alpha`; of a found network `()`.
      shape: of an image.
      source: of batches of the loss.
      num_batches: see `gradient_confusion`.
      num_seeds: initialisations to average over, >= 1; every network compared under one key sees the same batches.
      key: of initialisations, order and augmentation.

    Returns:
      Means over the initialisations.
    """
    batches_key, *init_keys = jax.random.split(key, 1 + num_seeds)
    found = []
    for each in init_keys:
        params, stats = nets.initialise(net, each, shape)
        found.append(gradient_confusion(loss, params, alpha, stats, source, num_batches=num_batches, key=batches_key))
    return Confusion(
        float(np.mean([one.smallest for one in found])),
        float(np.mean([one.cosine for one in found])),
        np.mean([one.products for one in found], axis=0),
    )


def choose_depth(candidates: Mapping[int, float], target: float) -> int:
    """The depth of the search network whose gradient confusion is nearest to that of the final network.

    Args:
      candidates: number of cells -> measure of the search network.
      target: the same measure of the final network.

    Returns:
      A depth; of two that are equally near, the smaller one.

    Raises:
      ValueError: if there is no candidate, or a measure is not a number.

    >>> choose_depth({8: 0.1, 14: -0.2, 20: -0.4}, target=-0.15)
    14
    """
    if not candidates or not np.isfinite([*candidates.values(), target]).all():
        raise ValueError(f"choose_depth: {dict(candidates)} against {target}; give finite measures of some depths.")
    return min(sorted(candidates), key=lambda depth: abs(candidates[depth] - target))
