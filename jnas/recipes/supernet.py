"""The supernet as a bilevel problem: where networks, spaces and bilevel problems meet."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jnas import distributed, nets, spaces
from jnas.bilevel import Bilevel, Curvature, gauss_newton
from jnas.recipes.classification import accuracy, cross_entropy
from jnas.recipes.flat import Unravel
from jnas.types import Alpha, Array, Aux, Context, Examples


def supernet(
    space: spaces.CellSpace,
    *,
    channels: int,
    depth: int,
    num_classes: int,
    remat: bool | None = None,
    edges: Literal["auto", "scan", "unroll", "merge"] = "auto",
    dtype: str = "float32",
) -> nets.Network:
    """The network that holds every candidate.

    Args:
      space: of its cells.
      channels: of the first cells.
      depth: cells, or cells a stage for NAS-Bench-201.
      num_classes: of the classifier.
      remat: whether edges are computed again in the backward pass; None: as the network does by default.
      edges: "scan", "unroll", "merge", or "auto": a loop compiles fast and suits a CPU, wider operations suit matrix
        units.
      dtype: of the computation; parameters stay float32.

    Returns:
      The module.
    """
    strategy = edges if edges != "auto" else "scan" if distributed.backend() == "cpu" else "merge"
    return nets.network_for(
        space,
        channels=channels,
        depth=depth,
        num_classes=num_classes,
        remat=remat,
        edge_strategy=strategy,
        dtype=jnp.dtype(dtype).type,
    )


def supernet_problem(
    net: nets.Network,
    *,
    unravel: Unravel | None = None,
    temperature: optax.Schedule | None = None,
    statistics_groups: int = 1,
) -> tuple[Bilevel, Curvature]:
    """The search as a bilevel problem over `Batches` of `Examples`, with its Gauss-Newton curvature.

    Both losses are the cross-entropy of the supernet in training mode, mixed by the softmax of `alpha / T`; they differ
    in the batch only. The running statistics are a by-product: no loss depends on them.

    The temperature T is that of the step in all evaluations, both points of a recursion and every product included.
    Within an edge it changes no order, so the best operator of an edge is that of alpha; the weights by which edges are
    compared are those of `alpha / T`.

    Args:
      net: a supernet; alpha is `{cell: [num_edges, num_ops]}` of its space.
      unravel: from the one vector that the weights are to the tree of parameters; None: they are that tree.
      temperature: step to T > 0, such as `optax.exponential_decay(1.0, num_steps, 0.1)`; None: 1 throughout.
      statistics_groups: equal parts into which a batch is cut, each normalised by statistics of its own; running
        statistics follow the mean over the parts. As many as there are devices: what a framework does that leaves the
        statistics to each device. The losses stay means over the whole batch, on one device as on many.

    Returns:
      The problem, and the generalised Gauss-Newton curvature of its inner loss.

    References:
      Xie et al., "SNAS: stochastic neural architecture search", ICLR 2019 (temperature annealing of the relaxation).
    """

    def forward(weights, alpha, batch: Examples, context: Context):
        params = weights if unravel is None else unravel(weights)
        variables = {"params": params, "batch_stats": context.variables}
        mix = spaces.mixture(net.space, alpha if temperature is None else divided(alpha, temperature(context.step)))

        def part(image, key):
            keys = {} if key is None else {"drop_path": key}  # the stream that noise reads, too
            return net.apply(variables, image, mix, train=True, rngs=keys, mutable=["batch_stats"])

        if statistics_groups == 1:
            return part(batch.image, context.key)
        images = batch.image.reshape(statistics_groups, -1, *batch.image.shape[1:])
        keys = None if context.key is None else jax.random.split(context.key, statistics_groups)
        logits, updated = jax.vmap(part)(images, keys)
        joined = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), logits)
        return joined, jax.tree.map(lambda leaf: leaf.mean(0), updated)

    def loss(weights, alpha, batch: Examples, context: Context) -> tuple[Array, Aux]:
        logits, updated = forward(weights, alpha, batch, context)
        metrics = {"accuracy": accuracy(logits.main, batch.label)}
        return cross_entropy(logits.main, batch.label), Aux(updated["batch_stats"], metrics)

    curvature = gauss_newton(
        lambda weights, alpha, batch, context: forward(weights, alpha, batch, context)[0].main,
        lambda logits, batch: cross_entropy(logits, batch.label),
    )
    return Bilevel(loss, loss), curvature


def divided(alpha: Alpha, temperature: Any) -> Alpha:
    """`alpha / T`, what the mixtures are the softmax of."""
    return jax.tree.map(lambda leaf: leaf / jnp.asarray(temperature, leaf.dtype), alpha)
