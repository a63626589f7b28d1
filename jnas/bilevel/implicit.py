"""The implicit function theorem."""

import jax
import jax.numpy as jnp
import optax

from jnas.bilevel.curvature import Curvature, hessian
from jnas.bilevel.problem import Estimator, Point, Solver, axpy, estimated, norm, outer_gradient, second_derivatives
from jnas.types import Aux, Batch, Batches, State, Weights


def implicit(solver: Solver, *, curvature: Curvature = hessian) -> Estimator:
    """The implicit function theorem, with an approximate inverse of the curvature.

        p = solver(H, grad_w L_val)                        ~ H^-1 grad_w L_val
        hypergradient = grad_a L_val - (d_a d_w L_tr) p

    One jvp of `grad_{w,a} L_tr` along `(p, 0)` gives the mixed product, `G = grad_w L_tr` and `H p`, hence the residual
    of the solve, at once. With Q terms of `neumann` at a fixed step that is 1 gradient and Q + 1 Hessian-vector
    products.

    Args:
      solver: `neumann(...)` or `conjugate_gradient(...)`.
      curvature: `hessian`, or `gauss_newton(model, objective)`.

    Returns:
      An estimator. Metrics beside the solver's own: `inverse_residual`, `|v - (H + damping I) p| / |v|` with the exact
      Hessian of the inner batch; 0 is a perfect solve, 1 no better than p = 0.

    Raises:
      ValueError: when traced with `batches.further` of another length than the solver can use.

    References:
      Lorraine, Vicol, Duvenaud, AISTATS 2020; Zhang et al., "iDARTS", ICML 2021; Ji, Yang, Liang, "stocBiO", ICML 2021.
    """

    def estimate(problem, point, batches, context, state, *, refresh=True, **extra) -> tuple[Point, State, Aux]:
        del extra
        outer, metrics = outer_gradient(problem, point, batches, context)

        def exact(v: Weights, batch: Batch | None):
            inner = batches.inner if batch is None else batch
            image, *rest = second_derivatives(problem, point, inner, context, v)
            return image, rest

        def approximate(v: Weights, batch: Batch | None):
            inner = batches.inner if batch is None else batch
            return curvature(problem.inner, point, inner, context, v), ()

        product = exact if curvature is hessian else approximate
        found = solver.solve(product, outer.weights, _rows(batches, solver), state, refresh)
        image, (mixed, gradient, aux) = exact(found.p, None) if found.last is None else found.last
        missing = optax.tree.sub(outer.weights, axpy(solver.damping, found.p, image))
        residual = norm(missing) / jnp.maximum(norm(outer.weights), 1e-30)
        metrics = {**metrics, **found.metrics, "inverse_residual": residual}
        return estimated(Point(gradient, optax.tree.sub(outer.alpha, mixed)), found.state, aux, metrics)

    return Estimator(lambda point: solver.init(point.weights), estimate)


def _rows(batches: Batches, solver: Solver) -> Batch | None:
    """The fresh batches with the inner one behind them, on which the last product is formed."""
    if batches.further is None:
        return None
    length = jax.tree.leaves(batches.further)[0].shape[0]
    if length != solver.num_batches:
        raise ValueError(
            f"implicit: batches.further holds {length} batches and the solver uses {solver.num_batches}; "
            "give one a term of the Neumann series, or None."
        )
    return jax.tree.map(lambda row, last: jnp.concatenate((row, last[None])), batches.further, batches.inner)
