"""Losses for programs that split a batch by hand, under `jax.pmap` or `jax.shard_map`."""

import jax
from jax.custom_derivatives import linear_call

from jnas.bilevel.curvature import Curvature
from jnas.bilevel.problem import Bilevel, Point
from jnas.types import Alpha, Array, Aux, Batch, Context, Loss, PyTree, Weights


def synchronised(problem: Bilevel, axis_name: str) -> Bilevel:
    r"""The problem whose losses are means over the devices of a mapped axis, each of which sees a part of the batch.

    Use it where a script of your own maps the step with an axis name: `jax.pmap(learner.update, axis_name)`. Under
    `jax.jit` with shardings, as `jnas.fit` does it, a loss is that of the whole batch already, and this has no place.

    Not a mean of the loss but a mean of every GRADIENT MAP, before it is differentiated again:

        w, a  ->  identity on the way in, mean over devices of the cotangents on the way back

    so that G, Hessian-vector products and mixed products are those of the mean loss. Averaging only the final
    hypergradient is silently wrong: a Neumann series needs the global product at each of its terms. Variables and
    metrics are averaged too, the loss as a metric included. Batch-norm statistics remain those of each device's part.

    Args:
      problem: of the parts.
      axis_name: of the mapped axis. Under `jax.shard_map` pass `check_vma=False`.

    Returns:
      The problem.
    """
    return Bilevel(_synchronised(problem.inner, axis_name), _synchronised(problem.outer, axis_name))


def averaged(curvature: Curvature, axis_name: str) -> Curvature:
    """The mean over devices of the products of a curvature with functions of its own, as `gauss_newton` has them.

    `hessian` needs none of this: it is a derivative of the `synchronised` loss.

    Args:
      curvature: whose products are those of each device's part of the batch.
      axis_name: of the mapped axis.

    Returns:
      The curvature of the whole batch.
    """

    def product(loss: Loss, point: Point, batch: Batch, context: Context, vector: Weights) -> Weights:
        return jax.lax.pmean(curvature(loss, point, batch, context, vector), axis_name)

    return product


def _synchronised(loss: Loss, axis_name: str) -> Loss:
    def enter(tree: PyTree) -> PyTree:
        # A rule for the transpose alone: forward-over-reverse differentiates it like any other linear function.
        return linear_call(lambda _, x: x, lambda _, cotangent: jax.lax.pmean(cotangent, axis_name), (), tree)

    def mean_loss(weights: Weights, alpha: Alpha, batch: Batch, context: Context) -> tuple[Array, Aux]:
        value, aux = loss(enter(weights), enter(alpha), batch, context)
        # The value is for the eye: its derivative is that of this device's part, averaged on the way back.
        shown = value + jax.lax.stop_gradient(jax.lax.pmean(value, axis_name) - value)
        return shown, Aux(*jax.lax.pmean((aux.variables, aux.metrics), axis_name))

    return mean_loss
