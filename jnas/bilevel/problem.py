"""A bilevel problem, a point of it, and what an estimator of its hypergradient is.

min_a L_val(w*(a), a)   subject to   w*(a) = argmin_w L_tr(w, a)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jnas.types import Alpha, Array, Aux, Batch, Batches, Context, Key, Loss, Metrics, PyTree, State, Weights


class Bilevel(NamedTuple):
    """Two losses of one signature, `(weights, alpha, batch, context) -> (scalar, Aux)`.

    Weights and alpha are any pytrees of arrays: nothing here knows of architectures.
    """

    inner: Loss  # L_tr, minimised over the weights
    outer: Loss  # L_val, minimised over alpha


class Point(NamedTuple):
    """An iterate, or a direction at one."""

    weights: Weights
    alpha: Alpha


Init = Callable[[Key], tuple[Point, PyTree]]  # key -> (point, variables such as batch-norm statistics)


class Estimator(NamedTuple):
    """Estimates the joint direction `Point(weights=grad_w L_tr, alpha=hypergradient)`.

    Both come out of one call, so that what they share is computed once.

    Attributes:
      init: `point -> state`.
      estimate: `(problem, point, batches, context, state, *, learning_rate=None, refresh=True)` to
        `(direction, state, aux)`.
        `aux.variables` are those of the inner loss at `point`; `aux.metrics` are scalars. With `refresh=False` (it may
        be traced) whatever the estimator keeps between steps, such as an eigenvector, is used and not renewed: so the
        second of two points that are to be compared is evaluated.
    """

    init: Callable[[Point], State]
    estimate: Callable[..., tuple[Point, State, Aux]]


def inner_gradient(problem: Bilevel, point: Point, batch: Batch, context: Context) -> tuple[Weights, Aux]:
    """`G = grad_w L_tr(w, a)` and the auxiliary output, its metrics named `inner_*`."""
    (value, aux), gradient = jax.value_and_grad(problem.inner, has_aux=True)(point.weights, point.alpha, batch, context)
    return gradient, Aux(aux.variables, level_metrics("inner", value, aux))


def outer_gradient(problem: Bilevel, point: Point, batches: Batches, context: Context) -> tuple[Point, Metrics]:
    """`Point(grad_w L_val, grad_a L_val)` and metrics named `outer_*`."""
    (value, aux), gradients = jax.value_and_grad(problem.outer, argnums=(0, 1), has_aux=True)(
        point.weights, point.alpha, batches.outer, context
    )
    return Point(*gradients), level_metrics("outer", value, aux)


def level_metrics(level: str, value: jax.Array, aux: Aux) -> Metrics:
    """The loss and the metrics of one level under that level's name."""
    return {f"{level}_loss": value, **{f"{level}_{name}": metric for name, metric in aux.metrics.items()}}


def direction_metrics(direction: Point) -> Metrics:
    """Euclidean norms of the two parts of a direction."""
    return {
        "weight_gradient_norm": norm(direction.weights),
        "hypergradient_norm": norm(direction.alpha),
    }


def norm(tree: PyTree) -> Array:
    """Euclidean norm of a tree, as of one vector: a program of one reduction and not of one for each leaf."""
    return jnp.linalg.norm(ravel_pytree(tree)[0])


def axpy(scale: Any, x: PyTree, y: PyTree) -> PyTree:
    """`scale * x + y`, leaf by leaf, in the dtype of `y`."""
    return jax.tree.map(lambda a, b: jnp.asarray(scale, b.dtype) * a + b, x, y)


class Packing(NamedTuple):
    """How an optimiser sees a point: as it is, or with all weights in one vector."""

    pack: Callable[[Point], Point]
    unpack: Callable[[Point], Point]


def packing(point: Point, one_vector: bool) -> Packing:
    """Makes the two conversions for points like this one.

    Args:
      point: the weights must share one dtype if they become one vector.
      one_vector: whether they do.

    Returns:
      The conversions, identities without `one_vector`.

    Raises:
      ValueError: for weights of several dtypes.
    """
    if not one_vector:
        return Packing(lambda point: point, lambda point: point)
    dtypes = sorted({str(jnp.result_type(leaf)) for leaf in jax.tree.leaves(point.weights)})
    if len(dtypes) > 1:
        raise ValueError(f"one_vector: the weights are {' and '.join(dtypes)}; give them one dtype, or leave it off.")
    unravel = ravel_pytree(point.weights)[1]
    return Packing(
        lambda point: Point(ravel_pytree(point.weights)[0], point.alpha),
        lambda point: Point(unravel(point.weights), point.alpha),
    )
