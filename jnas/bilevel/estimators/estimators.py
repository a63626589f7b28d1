"""Estimators of the hypergradient: first order, finite difference, unrolled, implicit.

Every second derivative is the jvp of a gradient, never the gradient of a gradient: on accelerators the latter takes
several
times the time and memory and gathers whole batches of activations.
"""

import jax
import jax.numpy as jnp
import optax

from jnas.bilevel.curvature import Curvature, hessian
from jnas.bilevel.problem import (
    Bilevel,
    Estimator,
    Point,
    axpy,
    direction_metrics,
    inner_gradient,
    level_metrics,
    norm,
    outer_gradient,
)
from jnas.bilevel.solvers.solvers import Solver
from jnas.types import Array, Aux, Batch, Batches, Context, Metrics, State, Weights


def first_order() -> Estimator:
    """`grad_a L_val(w, a)`: as if the weights did not depend on alpha. The cheapest, and the baseline to beat.

    References:
      Liu, Simonyan, Yang, "DARTS: differentiable architecture search", ICLR 2019 (xi = 0).
    """

    def estimate(problem, point, batches, context, state, **extra) -> tuple[Point, State, Aux]:
        del extra
        gradient, aux = inner_gradient(problem, point, batches.inner, context)
        outer, metrics = outer_gradient(problem, point, batches, context)
        return _result(Point(gradient, outer.alpha), state, aux, metrics)

    return Estimator(lambda point: (), estimate)


def finite_difference(radius: float = 1e-2) -> Estimator:
    """DARTS' second order: one step of SGD, its mixed derivative by a central difference.

        w' = w - xi G ;  v = grad_w L_val(w', a) ;  eps = radius / |v|
        grad_a L_val(w', a) - xi (grad_a L_tr(w + eps v, a) - grad_a L_tr(w - eps v, a)) / (2 eps)

    Public copies often divide by 2 and multiply by eps, which makes the second term eps^2 too small. In float32 the
    difference loses about half of the digits; `unrolled(1)` is the same quantity, exact.

    Args:
      radius: length of the displacement, > 0, in units of the weights.

    Returns:
      An estimator that needs the extra argument `learning_rate`, xi.

    Raises:
      ValueError: for a radius that is not positive.

    References:
      Liu, Simonyan, Yang, "DARTS: differentiable architecture search", ICLR 2019, equation 8.
    """
    if not radius > 0:
        raise ValueError(f"finite_difference: radius is {radius}; give a positive length, such as 0.01.")

    def estimate(problem, point, batches, context, state, *, learning_rate=None, **extra) -> tuple[Point, State, Aux]:
        del extra
        xi = _needs_rate(learning_rate, "finite_difference")
        gradient, aux = inner_gradient(problem, point, batches.inner, context)
        stepped = Point(axpy(-xi, gradient, point.weights), point.alpha)
        outer, metrics = outer_gradient(problem, stepped, batches, context)
        eps = radius / norm(outer.weights)

        def alpha_gradient(scale: Array):
            weights = axpy(scale, outer.weights, point.weights)
            return jax.grad(problem.inner, argnums=1, has_aux=True)(weights, point.alpha, batches.inner, context)[0]

        difference = optax.tree.sub(alpha_gradient(eps), alpha_gradient(-eps))
        hypergradient = axpy(-xi / (2 * eps), difference, outer.alpha)
        return _result(Point(gradient, hypergradient), state, aux, metrics)

    return Estimator(lambda point: (), estimate)


def unrolled(num_steps: int = 1) -> Estimator:
    """The exact gradient of `L_val(w_K(a), a)` through K steps of SGD from the current weights, on one batch.

        forward:  w_{k+1} = w_k - xi grad_w L_tr(w_k, a)
        backward: v_K = grad_w L_val(w_K, a), h = grad_a L_val(w_K, a);
                  for k = K-1 .. 0:  h -= xi (d_a d_w L_tr)(w_k) v_{k+1} ;  v_k = v_{k+1} - xi H(w_k) v_{k+1}

    Both products of a backward step are one jvp of `grad_{w,a} L_tr` along `(v, 0)`. Memory: K copies of the weights.

    Args:
      num_steps: K >= 1.

    Returns:
      An estimator that needs the extra argument `learning_rate`, xi.

    Raises:
      ValueError: for a number of steps below 1.

    References:
      Franceschi et al., "Forward and reverse gradient-based hyperparameter optimization", ICML 2017.
    """
    if num_steps < 1:
        raise ValueError(f"unrolled: num_steps is {num_steps}; give 1 or more, or use first_order() for none.")

    def estimate(problem, point, batches, context, state, *, learning_rate=None, **extra) -> tuple[Point, State, Aux]:
        del extra
        xi = _needs_rate(learning_rate, "unrolled")
        gradient, aux = inner_gradient(problem, point, batches.inner, context)

        def forward(weights, _):
            slope, _ = inner_gradient(problem, Point(weights, point.alpha), batches.inner, context)
            return axpy(-xi, slope, weights), weights

        first = axpy(-xi, gradient, point.weights)
        last, later = jax.lax.scan(forward, first, length=num_steps - 1)
        outer, metrics = outer_gradient(problem, Point(last, point.alpha), batches, context)

        def backward(carry, weights):
            v, hypergradient = carry
            image, mixed, _, _ = _second_derivatives(problem, Point(weights, point.alpha), batches.inner, context, v)
            return (axpy(-xi, image, v), axpy(-xi, mixed, hypergradient)), None

        carry, _ = jax.lax.scan(backward, (outer.weights, outer.alpha), later, reverse=True)
        (_, hypergradient), _ = backward(carry, point.weights)
        return _result(Point(gradient, hypergradient), state, aux, metrics)

    return Estimator(lambda point: (), estimate)


def implicit(solver: Solver, *, curvature: Curvature = hessian) -> Estimator:
    """The implicit function theorem, with an approximate inverse of the curvature.

        p = solver(H, grad_w L_val)                        ~ H^-1 grad_w L_val
        hypergradient = grad_a L_val - (d_a d_w L_tr) p

    One jvp of `grad_{w,a} L_tr` along `(p, 0)` gives the mixed product, `G = grad_w L_tr` and `H p`, hence the
    residual of the
    solve, at once. With Q terms of `neumann` at a fixed step that is 1 gradient and Q + 1 Hessian-vector products.

    Args:
      solver: `neumann(...)` or `conjugate_gradient(...)`.
      curvature: `hessian`, or `gauss_newton(model, objective)`.

    Returns:
      An estimator. Metrics beside the solver's own: `inverse_residual`, `|v - (H + damping I) p| / |v|` with the
      exact Hessian of the
      inner batch; 0 is a perfect solve, 1 no better than p = 0.

    Raises:
      ValueError: when traced with `batches.curvature` of another length than the solver can use.

    References:
      Lorraine, Vicol, Duvenaud, AISTATS 2020; Zhang et al., "iDARTS", ICML 2021; Ji, Yang, Liang, "stocBiO", ICML 2021.
    """

    def estimate(problem, point, batches, context, state, *, refresh=True, **extra) -> tuple[Point, State, Aux]:
        del extra
        _check_curvature_batches(batches, solver)
        outer, metrics = outer_gradient(problem, point, batches, context)

        def product(v: Weights, batch: Batch | None) -> Weights:
            return curvature(problem.inner, point, batches.inner if batch is None else batch, context, v)

        def joint(v: Weights, batch: Batch | None):
            inner = batches.inner if batch is None else batch
            image, mixed, gradient, aux = _second_derivatives(problem, point, inner, context, v)
            return image, (mixed, gradient, aux)

        if curvature is hessian and solver.solve_jointly is not None:
            rows = batches.curvature
            if rows is not None:
                rows = jax.tree.map(lambda row, last: jnp.concatenate((row, last[None])), rows, batches.inner)
            p, state, solver_metrics, last = solver.solve_jointly(joint, outer.weights, rows, state, refresh)
        else:
            p, state, solver_metrics = solver.solve(product, outer.weights, batches.curvature, state, refresh)
            last = joint(p, None)
        image, (mixed, gradient, aux) = last
        missing = optax.tree.sub(outer.weights, axpy(solver.damping, p, image))
        residual = norm(missing) / jnp.maximum(norm(outer.weights), 1e-30)
        metrics = {**metrics, **solver_metrics, "inverse_residual": residual}
        return _result(Point(gradient, optax.tree.sub(outer.alpha, mixed)), state, aux, metrics)

    return Estimator(lambda point: solver.init(point.weights), estimate)


def _second_derivatives(problem: Bilevel, point: Point, batch: Batch, context: Context, v: Weights):
    """`(H v, (d_a d_w L_tr) v, grad_w L_tr, aux)` from one forward-over-reverse pass."""

    def gradients(weights: Weights):
        (value, aux), slopes = jax.value_and_grad(problem.inner, argnums=(0, 1), has_aux=True)(
            weights, point.alpha, batch, context
        )
        return slopes, (value, aux)

    (gradient, _), (image, mixed), (value, aux) = jax.jvp(gradients, (point.weights,), (v,), has_aux=True)
    return image, mixed, gradient, Aux(aux.variables, level_metrics("inner", value, aux))


def _result(direction: Point, state: State, aux: Aux, metrics: Metrics) -> tuple[Point, State, Aux]:
    return direction, state, Aux(aux.variables, {**aux.metrics, **metrics, **direction_metrics(direction)})


def _needs_rate(learning_rate, name: str):
    if learning_rate is None:
        raise ValueError(f"{name}: learning_rate is None; give the learner a learning_rate (a number or a schedule).")
    return learning_rate


def _check_curvature_batches(batches: Batches, solver: Solver) -> None:
    if batches.curvature is None:
        return
    length = jax.tree.leaves(batches.curvature)[0].shape[0]
    if length != solver.num_batches:
        raise ValueError(
            f"implicit: batches.curvature holds {length} batches and the solver uses {solver.num_batches}; "
            "give one a term of the Neumann series, or None."
        )
