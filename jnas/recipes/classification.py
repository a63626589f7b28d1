"""The loss and the measurements of image classifiers."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jnas import data
from jnas.types import Array, Aux, Context, Examples, PyTree


def cross_entropy(logits: Array, label: Array, smoothing: float = 0.0) -> Array:
    """Mean cross-entropy of `[batch, classes]` logits against `[batch]` labels, [] float32, in nats.

    Args:
      logits: unnormalised log-probabilities.
      label: the true classes.
      smoothing: mass spread evenly over all classes, in [0, 1).

    Returns:
      The mean over the batch.
    """
    target = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype), smoothing)
    return optax.softmax_cross_entropy(logits, target).mean()


def accuracy(logits: Array, label: Array) -> Array:
    """Share of rows whose largest logit is the label's, [] float32 in [0, 1]."""
    return jnp.mean((jnp.argmax(logits, -1) == label).astype(jnp.float32))


def training_loss(
    net: nn.Module,
    weights: Mapping[str, PyTree],
    batch: Examples,
    context: Context,
    mix: Mapping[str, Array] | None = None,
    *,
    smoothing: float = 0.0,
    auxiliary: float = 0.0,
    **options: Any,
) -> tuple[Array, Aux]:
    """The cross-entropy of a network in a training step, and what the step yields beside it.

    Args:
      net: the network.
      weights: its parameters, and further collections beside the statistics, `{"params": ...}`.
      batch: the examples.
      context: of the step.
      mix: of a supernet.
      smoothing: see `cross_entropy`.
      auxiliary: weight of the auxiliary head's loss, where the network has one.
      **options: further arguments of the network.

    Returns:
      The loss, [] float32, and the new statistics and the accuracy.
    """
    variables = {**weights, "batch_stats": context.variables}
    logits, updated = net.apply(variables, batch.image, mix, train=True, mutable=["batch_stats"], **options)
    value = cross_entropy(logits.main, batch.label, smoothing)
    if logits.auxiliary is not None:
        value += auxiliary * cross_entropy(logits.auxiliary, batch.label, smoothing)
    return value, Aux(updated["batch_stats"], {"accuracy": accuracy(logits.main, batch.label)})


def evaluate(
    net: nn.Module,
    variables: Mapping[str, PyTree],
    dataset: data.Dataset,
    augment: data.Augment,
    *,
    mix: Mapping[str, Array] | None = None,
    batch_size: int = 250,
) -> dict[str, float]:
    """Loss and accuracy on a data set, with the running statistics, every example counted once.

    Args:
      net: the network.
      variables: its parameters and running statistics, `{"params", "batch_stats"}`.
      dataset: the images.
      augment: its normalisation is used and nothing else of it.
      mix: the mixture, for a supernet.
      batch_size: examples at a time.

    Returns:
      `{"loss": mean cross-entropy in nats, "accuracy": in [0, 1]}`.
    """
    batches = data.padded(dataset, min(batch_size, len(dataset)))
    loss, correct = _totals(net, variables, mix, batches, augment, dataset.shape)
    return {"loss": float(loss) / len(dataset), "accuracy": int(correct) / len(dataset)}


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _totals(net, variables, mix, batches: data.Padded, augment: data.Augment, shape):
    def one(batch: data.Padded):
        image = data.augment(augment, None, jnp.asarray(batch.images), shape)
        logits = net.apply(variables, image, mix, train=False).main
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        hits = (jnp.argmax(logits, -1) == batch.labels) & batch.mask
        return jnp.where(batch.mask, losses, 0.0).sum(), hits.sum()

    losses, hits = jax.lax.map(one, jax.tree.map(jnp.asarray, batches))
    return losses.sum(), hits.sum()
