"""Approximate `H^-1 v` from products with H: the truncated Neumann series and conjugate gradients."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jnas.bilevel.problem import axpy
from jnas.types import Array, Batch, Metrics, State, Weights

Product = Callable[[Weights, Batch | None], Weights]  # (v, batch or None for the inner batch) -> H v


class Solver(NamedTuple):
    """A linear solver of `(H + damping I) p = v`.

    Attributes:
      init: `weights -> state`, what is kept between steps (the eigenvalue estimate).
      solve: `(product, v, batches, state, refresh) -> (p, state, metrics)`. `batches` is None or has the leading axis
        [num_batches]; `refresh`, a [] bool that may be traced, says whether the state is renewed.
      num_batches: how many fresh batches it can use, 0 where one operator is needed throughout.
      damping: added to the diagonal of H.
    """

    init: Callable[[Weights], State]
    solve: Callable[[Product, Weights, Batch | None, State, Array | bool], tuple[Weights, State, Metrics]]
    num_batches: int
    damping: float


class PowerState(NamedTuple):
    """A running estimate of the largest absolute eigenvalue."""

    fresh: Array  # [] bool: nothing is known yet
    vector: Weights  # unit vector
    eigenvalue: Array  # [] of the weights' dtype, a lower bound of |lambda|_max on the batches seen


def neumann(
    num_terms: int = 2,
    *,
    step_size: float | None = None,
    damping: float = 0.0,
    power_steps: int = 1,
    unroll: bool = False,
) -> Solver:
    """The Neumann series `p = eta * sum_{q=0}^{Q} (I - eta H)^q v`, an approximation of `H^-1 v`.

        v_0 = v ;   v_{q+1} = v_q - eta H v_q ;   p = eta (v_0 + ... + v_Q)
        p = H^-1 (I - (I - eta H)^(Q+1)) v

    It converges where `0 < eta < 2 / lambda_max`. `eta` is a setting of its own and not the learning rate.

    Without a `step_size`, `eta_q = 1 / max(power estimate, |H v_q|^2 / <v_q, H v_q>)`, not increasing in q. The first
    is one power
    iteration a step from the vector of the step before; the second is the largest step that cannot lengthen `v_q` if
    H is
    positive definite, known from the product that the series needs anyway, so that a poor first estimate does no harm.
    With steps that vary, p is `sum_q eta_q v_q`, the Richardson iteration; with constant ones it is the series.

    Args:
      num_terms: Q, the products with H; Q + 1 terms in all.
      step_size: eta > 0; None chooses it as above.
      damping: added to the diagonal of H, >= 0; for indefinite Hessians.
      power_steps: power iterations a step when `step_size` is None, each one product.
      unroll: write the products out one after another. By default they are the trips of one loop, power iterations
        included, so that a product is compiled once.

    Returns:
      A solver. Metrics: `neumann_step_size` (the last eta), `neumann_growth` (`|v_Q| / |v_0|`: above 1 the series
      expands),
      `neumann_diverged` (1.0 if it expanded or is not finite, else 0.0).

    Raises:
      ValueError: for a negative number of terms, a step size or damping out of range.

    References:
      Lorraine, Vicol, Duvenaud, "Optimizing millions of hyperparameters by implicit differentiation", AISTATS 2020.

    Example:
      >>> import jax.numpy as jnp
      >>> solver = neumann(50, step_size=0.5)
      >>> p, _, metrics = solver.solve(lambda v, batch: 2.0 * v, jnp.array([4.0]), None, ())
      >>> float(p[0]), float(metrics["neumann_diverged"])
      (2.0, 0.0)
    """
    if num_terms < 0:
        raise ValueError(f"neumann: num_terms is {num_terms}; give 0 or more products with the Hessian.")
    if step_size is not None and not step_size > 0:
        raise ValueError(f"neumann: step_size is {step_size}; give a positive number, or None to have it chosen.")
    if damping < 0:
        raise ValueError(f"neumann: damping is {damping}; give 0 or more.")
    if power_steps < 1:
        raise ValueError(f"neumann: power_steps is {power_steps}; give 1 or more, or fix step_size.")

    num_power = 0 if step_size is not None else power_steps

    def init(weights: Weights) -> State:
        if step_size is not None:
            return ()
        return PowerState(jnp.asarray(True), jax.tree.map(jnp.zeros_like, weights), jnp.zeros((), _dtype(weights)))

    def solve(product: Product, v: Weights, batches: Batch | None, state: State, refresh: Array | bool = True):
        dtype = _dtype(v)
        tiny = jnp.finfo(dtype).tiny
        known = jnp.asarray(1 / step_size, dtype) if step_size is not None else state.eigenvalue

        def power_trip(carry, image):
            # A batch may show less curvature than the last ones did: forget slowly, too large a step is worse.
            return (_unit(image), jnp.maximum(optax.tree.norm(image), 0.9 * known)), carry[1]

        def series_trip(carry, image):
            (power, eigenvalue), (vector, total) = carry
            if step_size is None:
                eigenvalue = jnp.maximum(eigenvalue, _safe_eigenvalue(vector, image))
            eta = _inverse(eigenvalue, tiny)
            return (power, eigenvalue), (axpy(-eta, image, vector), axpy(eta, vector, total))

        def trip(number, carry):
            (power, _), (vector, _) = carry
            is_power = number < num_power
            factor = _select(is_power, power, vector) if num_power else vector
            image = axpy(damping, factor, product(factor, _row(batches, number - num_power)))
            after = series_trip(carry, image)
            return _select(is_power, power_trip(carry, image), after) if num_power else after

        power = _unit(_select(state.fresh, v, state.vector)) if num_power else ()
        carry = ((power, known), (v, jax.tree.map(jnp.zeros_like, v)))
        if unroll:
            for number in range(num_power):
                carry = _select(refresh, trip(number, carry), carry)
            for number in range(num_power, num_power + num_terms):
                carry = trip(number, carry)
        elif num_power + num_terms:
            first = jnp.where(refresh, 0, num_power)
            carry = jax.lax.fori_loop(first, num_power + num_terms, trip, carry)
        (power, eigenvalue), (vector, total) = carry
        eta = _inverse(eigenvalue, tiny)
        total = axpy(eta, vector, total)
        if num_power:
            state = _select(refresh, PowerState(jnp.asarray(False), power, eigenvalue), state)
        growth = optax.tree.norm(vector) / jnp.maximum(optax.tree.norm(v), tiny)
        diverged = 1.0 - (growth <= 1.0 + 1e-3).astype(dtype)  # a NaN counts as diverged; 1e-3: rounding
        metrics = {"neumann_step_size": eta, "neumann_growth": growth, "neumann_diverged": diverged}
        return total, state, metrics

    return Solver(init, solve, num_batches=num_terms, damping=damping)


def conjugate_gradient(num_steps: int, *, damping: float = 0.0, tolerance: float | None = None) -> Solver:
    """At most `num_steps` steps of conjugate gradients on `(H + damping I) p = v`, H positive definite.

    The most accurate per product where H is positive definite on ONE batch; with an indefinite Hessian use damping or a
    Gauss-Newton curvature. It stops early at a relative residual of `tolerance`, by default the rounding unit.

    Args:
      num_steps: products with H, >= 1.
      damping: added to the diagonal of H, >= 0.
      tolerance: relative residual at which it stops.

    Returns:
      A solver without metrics: the estimator measures its residual.

    Raises:
      ValueError: for a number of steps below 1 or a negative damping.
    """
    if num_steps < 1:
        raise ValueError(f"conjugate_gradient: num_steps is {num_steps}; give 1 or more.")
    if damping < 0:
        raise ValueError(f"conjugate_gradient: damping is {damping}; give 0 or more.")

    def solve(product: Product, v: Weights, batches: Batch | None, state: State, refresh: Array | bool = True):
        del batches, refresh
        stop = float(jnp.finfo(_dtype(v)).eps) if tolerance is None else tolerance
        operator = lambda u: axpy(damping, u, product(u, None))
        solution, _ = jax.scipy.sparse.linalg.cg(operator, v, tol=stop, maxiter=num_steps)
        return solution, state, {}

    return Solver(lambda weights: (), solve, num_batches=0, damping=damping)


def _select(condition, yes, no):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _row(batches: Batch | None, number) -> Batch | None:
    """Batch `number`, the first one for a power iteration; None where there are none."""
    return None if batches is None else jax.tree.map(lambda leaf: leaf[jnp.maximum(number, 0)], batches)


def _dtype(tree: Weights):
    return jnp.result_type(*jax.tree.leaves(tree))


def _unit(tree: Weights) -> Weights:
    norm = optax.tree.norm(tree)
    scale = _inverse(norm, jnp.finfo(norm.dtype).tiny)
    return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), tree)


def _inverse(value: Array, tiny) -> Array:
    # 1 / 0 would turn a flat loss (H v = 0) into NaN; 0 leaves v out instead.
    return jnp.where(value > tiny, 1.0 / jnp.maximum(value, tiny), 0.0)


def _safe_eigenvalue(vector: Weights, image: Weights) -> Array:
    """`|Hv|^2 / <v, Hv>`, whose inverse is the minimal-residual step; along negative curvature `|Hv| / |v|`."""
    tiny = jnp.finfo(_dtype(vector)).tiny
    along, length = jnp.asarray(optax.tree.vdot(vector, image)), optax.tree.norm(image)
    positive = length * (length / jnp.maximum(along, tiny))
    negative = length / jnp.maximum(optax.tree.norm(vector), tiny)
    return jnp.where(along > 0, positive, negative)
