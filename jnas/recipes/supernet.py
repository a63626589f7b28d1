"""The supernet as a bilevel problem: where networks, spaces and bilevel problems meet."""

from typing import Literal

import jax.numpy as jnp

from jnas import distributed, nets, spaces
from jnas.bilevel import Bilevel, Curvature, gauss_newton
from jnas.recipes.classification import accuracy, cross_entropy
from jnas.recipes.flat import Unravel
from jnas.types import Array, Aux, Context, Examples


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
        space, channels=channels, depth=depth, num_classes=num_classes, remat=remat, edge_strategy=strategy,
        dtype=jnp.dtype(dtype).type,
    )  # fmt: skip


def supernet_problem(net: nets.Network, *, unravel: Unravel | None = None) -> tuple[Bilevel, Curvature]:
    """The search as a bilevel problem over `Batches` of `Examples`, with its Gauss-Newton curvature.

    Both losses are the cross-entropy of the supernet in training mode, mixed by the softmax of alpha; they differ in
    the batch only. The running statistics are a by-product: no loss depends on them.

    Args:
      net: a supernet; alpha is `{cell: [num_edges, num_ops]}` of its space.
      unravel: from the one vector that the weights are to the tree of parameters; None: they are that tree.

    Returns:
      The problem, and the generalised Gauss-Newton curvature of its inner loss.
    """

    def forward(weights, alpha, batch: Examples, context: Context):
        params = weights if unravel is None else unravel(weights)
        variables = {"params": params, "batch_stats": context.variables}
        mix = spaces.mixture(net.space, alpha)
        keys = {} if context.key is None else {"drop_path": context.key}  # the stream that noise reads, too
        return net.apply(variables, batch.image, mix, train=True, rngs=keys, mutable=["batch_stats"])

    def loss(weights, alpha, batch: Examples, context: Context) -> tuple[Array, Aux]:
        logits, updated = forward(weights, alpha, batch, context)
        metrics = {"accuracy": accuracy(logits.main, batch.label)}
        return cross_entropy(logits.main, batch.label), Aux(updated["batch_stats"], metrics)

    curvature = gauss_newton(
        lambda weights, alpha, batch, context: forward(weights, alpha, batch, context)[0].main,
        lambda logits, batch: cross_entropy(logits, batch.label),
    )
    return Bilevel(loss, loss), curvature
