"""The supernet as a bilevel problem: where networks, spaces and bilevel problems meet."""

from jnas import nets, spaces
from jnas.bilevel import Bilevel, Curvature, gauss_newton
from jnas.recipes.classification import accuracy, cross_entropy
from jnas.recipes.flat import Unravel
from jnas.types import Array, Aux, Context, Examples


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
