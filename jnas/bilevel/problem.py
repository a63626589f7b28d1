"""A bilevel problem, a point of it, what an estimator of its hypergradient is, and what a solver that it uses.

min_a L_val(w*(a), a)   subject to   w*(a) = argmin_w L_tr(w, a)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.core
import jax.numpy as jnp

from jnas.types import Alpha, Array, Aux, Batch, Batches, Context, Key, Loss, Metrics, PyTree, State, Weights


class Bilevel(NamedTuple):
    """Two losses of one signature, `(weights, alpha, batch, context) -> (scalar, Aux)`.

    Weights and alpha are any pytrees of arrays, of several dtypes if need be: nothing here knows of architectures.
    """

    inner: Loss  # L_tr, minimised over the weights
    outer: Loss  # L_val, minimised over alpha


class Point(NamedTuple):
    """An iterate, or a direction at one."""

    weights: Weights
    alpha: Alpha
    adjoint: Weights = ()  # the iterate of an estimator that keeps one from step to step, of the weights' structure


Init = Callable[[Key], tuple[Point, PyTree]]  # key -> (point, variables such as batch-norm statistics)


class Estimator(NamedTuple):
    """Estimates the joint direction `Point(weights=grad_w L_tr, alpha=hypergradient)`.

    Both come out of one call, so that what they share is computed once. An estimator with an iterate of its own reads
    it from `point.adjoint` and gives the direction of that, too: the optimiser then moves all three.

    Attributes:
      init: `point -> state`.
      estimate: `(problem, point, batches, context, state, *, learning_rate=None, refresh=True)` to
        `(direction, state, aux)`. `aux.variables` are those of the inner loss at `point`; `aux.metrics` are scalars.
        With `refresh=False` (it may be traced) whatever the estimator keeps between steps, such as an eigenvector, is
        used and not renewed: so the second of two points that are to be compared is evaluated.
    """

    init: Callable[[Point], State]
    estimate: Callable[..., tuple[Point, State, Aux]]


# (v, a row of the batches, or None for the inner batch) -> (H v, whatever else that pass yields, or an empty tree)
Product = Callable[[Weights, Batch | None], tuple[Weights, PyTree]]


class Solution(NamedTuple):
    """What a solver found."""

    p: Weights  # approximately (H + damping I)^-1 v
    state: State
    metrics: Metrics
    last: tuple[Weights, PyTree] | None  # product(p) on the inner batch, where the solver made it


class Solver(NamedTuple):
    """A linear solver of `(H + damping I) p = v`.

    Attributes:
      init: `weights -> state`, what is kept between steps (the eigenvalue estimate).
      solve: `(product, v, batches, state, refresh=True) -> Solution`. `batches` is None, or has the leading axis
        [num_batches + 1], the last row being the inner batch; `refresh`, a [] bool that may be traced, says whether the
        state is renewed.
      num_batches: how many fresh batches it can use, 0 where one operator is needed throughout.
      damping: added to the diagonal of H.
    """

    init: Callable[[Weights], State]
    solve: Callable[..., Solution]
    num_batches: int
    damping: float


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


def second_derivatives(problem: Bilevel, point: Point, batch: Batch, context: Context, v: Weights):
    """`(H v, (d_a d_w L_tr) v, grad_w L_tr, aux)` from one forward-over-reverse pass."""

    def gradients(weights: Weights):
        (value, aux), slopes = jax.value_and_grad(problem.inner, argnums=(0, 1), has_aux=True)(
            weights, point.alpha, batch, context
        )
        return slopes, (value, aux)

    (gradient, _), (image, mixed), (value, aux) = jax.jvp(gradients, (point.weights,), (v,), has_aux=True)
    return image, mixed, gradient, Aux(aux.variables, level_metrics("inner", value, aux))


def level_metrics(level: str, value: jax.Array, aux: Aux) -> Metrics:
    """The loss and the metrics of one level under that level's name."""
    return {f"{level}_loss": value, **{f"{level}_{name}": metric for name, metric in aux.metrics.items()}}


def estimated(direction: Point, state: State, aux: Aux, metrics: Metrics) -> tuple[Point, State, Aux]:
    """What `estimate` returns: the metrics of both levels and the Euclidean norms of the direction put together."""
    norms = {"weight_gradient_norm": norm(direction.weights), "hypergradient_norm": norm(direction.alpha)}
    return direction, state, Aux(aux.variables, {**aux.metrics, **metrics, **norms})


def needed_rate(learning_rate: Any, name: str) -> Any:
    """The extra argument `learning_rate`, or the sentence that says who wants it."""
    if learning_rate is None:
        raise ValueError(f"{name}: learning_rate is None; give the learner a learning_rate (a number or a schedule).")
    return learning_rate


def known(value: Any) -> bool:
    """Whether a number can be checked: one that differs between the runs of a program is known when it runs."""
    return not isinstance(value, jax.core.Tracer)


def check_alike(direction: PyTree, point: PyTree) -> None:
    """Refuse a direction that is not laid out as the point it is of, when it is traced.

    Raises:
      ValueError: naming the difference.
    """
    try:
        chex.assert_trees_all_equal_structs(direction, point)
        chex.assert_trees_all_equal_shapes_and_dtypes(direction, point)
    except AssertionError as error:
        raise ValueError(f"the direction is not of the point's structure, shapes and dtypes: {error}") from error


def vdot(x: PyTree, y: PyTree) -> Array:
    """`<x, y>` of two trees as of two vectors, [] in the widest dtype of x, float32 at least."""
    dtype = _widest(x)
    products = [jnp.vdot(a.astype(dtype), b.astype(dtype)) for a, b in zip(*map(jax.tree.leaves, (x, y)), strict=True)]
    return sum(products, jnp.zeros((), dtype))


def norm(tree: PyTree) -> Array:
    """Euclidean norm of a tree as of one vector, [] in its widest dtype, float32 at least."""
    return jnp.sqrt(vdot(tree, tree))


def axpy(scale: Any, x: PyTree, y: PyTree) -> PyTree:
    """`scale * x + y`, leaf by leaf, in the dtype of `y`."""
    return jax.tree.map(lambda a, b: jnp.asarray(scale, b.dtype) * a + b, x, y)


def inverse(value: Array) -> Array:
    """`1 / value`, and 0 where it is 0 or less: a flat loss then leaves a term out instead of filling it with NaN."""
    tiny = jnp.finfo(value.dtype).tiny
    return jnp.where(value > tiny, 1.0 / jnp.maximum(value, tiny), 0.0)


def _widest(tree: PyTree):
    widths = [jnp.result_type(leaf) for leaf in jax.tree.leaves(tree)]
    return max([jnp.dtype(jnp.float32), *widths], key=lambda dtype: dtype.itemsize)
