"""Approximate `H^-1 v` from products with H: the truncated Neumann series and conjugate gradients."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jnas.bilevel.problem import axpy, norm
from jnas.types import Array, Batch, Metrics, PyTree, State, Weights

Product = Callable[[Weights, Batch | None], Weights]  # (v, batch or None for the inner batch) -> H v
Joint = Callable[[Weights, Batch | None], tuple[Weights, PyTree]]  # the same with what else comes out of that pass


class Solver(NamedTuple):
    """A linear solver of `(H + damping I) p = v`.

    Attributes:
      init: `weights -> state`, what is kept between steps (the eigenvalue estimate).
      solve: `(product, v, batches, state, refresh) -> (p, state, metrics)`. `batches` is None or has the leading axis
        [num_batches]; `refresh`, a [] bool that may be traced, says whether the state is renewed.
      solve_jointly: `(joint, v, batches, state, refresh) -> (p, state, metrics, joint(p))`, where `joint` gives a
        product and whatever else the same pass yields, and `batches`, if not None, has one entry more, that of the
        last product: all products in one loop, so that the pass is compiled once. None: not offered.
      num_batches: how many fresh batches it can use, 0 where one operator is needed throughout.
      damping: added to the diagonal of H.
    """

    init: Callable[[Weights], State]
    solve: Callable[[Product, Weights, Batch | None, State, Array | bool], tuple[Weights, State, Metrics]]
    num_batches: int
    damping: float
    solve_jointly: Callable[..., tuple[Weights, State, Metrics, tuple[Weights, PyTree]]] | None = None


class PowerState(NamedTuple):
    """A running estimate of the largest absolute eigenvalue."""

    fresh: Array  # [] bool: nothing is known yet
    vector: Array  # [num_weights], a unit vector
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
      step_size: eta > 0, which may be traced; None chooses it as above.
      damping: added to the diagonal of H, >= 0, which may be traced; for indefinite Hessians.
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
    if step_size is not None and _known(step_size) and not step_size > 0:
        raise ValueError(f"neumann: step_size is {step_size}; give a positive number, or None to have it chosen.")
    if _known(damping) and damping < 0:
        raise ValueError(f"neumann: damping is {damping}; give 0 or more.")
    if power_steps < 1:
        raise ValueError(f"neumann: power_steps is {power_steps}; give 1 or more, or fix step_size.")

    num_power = 0 if step_size is not None else power_steps

    def init(weights: Weights) -> State:
        if step_size is not None:
            return ()
        flat = ravel_pytree(weights)[0]  # one vector: a program of one operation, not of one for each leaf
        return PowerState(jnp.asarray(True), jnp.zeros_like(flat), jnp.zeros((), flat.dtype))

    def run(joint: Joint, v: Weights, batches: Batch | None, state: State, refresh: Array | bool, num_last: int):
        """Power iterations, terms, and `num_last` (0 or 1) products with the result."""
        v, unravel = ravel_pytree(v)
        tiny = jnp.finfo(v.dtype).tiny
        known = jnp.asarray(1 / step_size, v.dtype) if step_size is not None else state.eigenvalue

        def apply(vector: Array, number):
            image, extra = joint(unravel(vector), _row(batches, number - num_power))
            return ravel_pytree(image)[0], extra

        def result(eigenvalue, vector, total):
            return axpy(_inverse(eigenvalue, tiny), vector, total)

        def power_trip(carry, image):
            # A batch may show less curvature than the last ones did: forget slowly, too large a step is worse.
            return (_unit(image), jnp.maximum(norm(image), 0.9 * known)), carry[1]

        def series_trip(carry, image):
            (power, eigenvalue), (vector, total) = carry
            if step_size is None:
                eigenvalue = jnp.maximum(eigenvalue, _safe_eigenvalue(vector, image))
            eta = _inverse(eigenvalue, tiny)
            return (power, eigenvalue), (axpy(-eta, image, vector), axpy(eta, vector, total))

        def trip(number, carry):
            inside, _ = carry
            (power, eigenvalue), (vector, total) = inside
            is_power, is_last = number < num_power, number == num_power + num_terms
            factor = jnp.where(is_power, power, vector) if num_power else vector
            factor = jnp.where(is_last, result(eigenvalue, vector, total), factor)
            image, extra = apply(factor, number)
            damped = axpy(damping, factor, image)
            after = series_trip(inside, damped)
            after = _select(is_power, power_trip(inside, damped), after) if num_power else after
            return _select(is_last, inside, after), ((image, extra) if num_last else None)

        power = _unit(jnp.where(state.fresh, v, state.vector)) if num_power else ()
        num_trips = num_power + num_terms + num_last
        empty = None
        if num_last:
            empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(apply, v, num_power))
        carry = (((power, known), (v, jnp.zeros_like(v))), empty)
        if unroll:
            for number in range(num_trips):
                after = trip(number, carry)
                carry = _select(refresh, after, carry) if number < num_power else after
        elif num_trips:
            carry = jax.lax.fori_loop(jnp.where(refresh, 0, num_power), num_trips, trip, carry)
        ((power, eigenvalue), (vector, total)), last = carry
        if num_power:
            state = _select(refresh, PowerState(jnp.asarray(False), jnp.asarray(power), eigenvalue), state)
        growth = norm(vector) / jnp.maximum(norm(v), tiny)
        diverged = 1.0 - (growth <= 1.0 + 1e-3).astype(v.dtype)  # a NaN counts as diverged; 1e-3: rounding
        eta = _inverse(eigenvalue, tiny)
        metrics = {"neumann_step_size": eta, "neumann_growth": growth, "neumann_diverged": diverged}
        last = None if last is None else (unravel(last[0]), last[1])
        return unravel(result(eigenvalue, vector, total)), state, metrics, last

    def solve(product: Product, v: Weights, batches: Batch | None, state: State, refresh: Array | bool = True):
        return run(lambda vector, batch: (product(vector, batch), ()), v, batches, state, refresh, 0)[:3]

    def solve_jointly(joint: Joint, v: Weights, batches: Batch | None, state: State, refresh: Array | bool = True):
        p, state, metrics, last = run(joint, v, batches, state, refresh, 1)
        assert last is not None
        return p, state, metrics, last

    return Solver(init, solve, num_batches=num_terms, damping=damping, solve_jointly=solve_jointly)


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
    if _known(damping) and damping < 0:
        raise ValueError(f"conjugate_gradient: damping is {damping}; give 0 or more.")

    def solve(product: Product, v: Weights, batches: Batch | None, state: State, refresh: Array | bool = True):
        del batches, refresh
        stop = float(jnp.finfo(_dtype(v)).eps) if tolerance is None else tolerance
        operator = lambda u: axpy(damping, u, product(u, None))
        solution, _ = jax.scipy.sparse.linalg.cg(operator, v, tol=stop, maxiter=num_steps)
        return solution, state, {}

    return Solver(lambda weights: (), solve, num_batches=0, damping=damping)


def _known(value) -> bool:
    """Whether a number can be checked: one that differs between the runs of a program is known when it runs."""
    return not isinstance(value, jax.core.Tracer)


def _select(condition, yes, no):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _row(batches: Batch | None, number) -> Batch | None:
    """Batch `number`, the first one for a power iteration; None where there are none."""
    return None if batches is None else jax.tree.map(lambda leaf: leaf[jnp.maximum(number, 0)], batches)


def _dtype(tree: Weights):
    return jnp.result_type(*jax.tree.leaves(tree))


def _unit(vector: Array) -> Array:
    length = norm(vector)
    return vector * _inverse(length, jnp.finfo(length.dtype).tiny)


def _inverse(value: Array, tiny) -> Array:
    # 1 / 0 would turn a flat loss (H v = 0) into NaN; 0 leaves v out instead.
    return jnp.where(value > tiny, 1.0 / jnp.maximum(value, tiny), 0.0)


def _safe_eigenvalue(vector: Array, image: Array) -> Array:
    """`|Hv|^2 / <v, Hv>`, whose inverse is the minimal-residual step; along negative curvature `|Hv| / |v|`."""
    tiny = jnp.finfo(vector.dtype).tiny
    along, length = jnp.vdot(vector, image), norm(image)
    positive = length * (length / jnp.maximum(along, tiny))
    negative = length / jnp.maximum(norm(vector), tiny)
    return jnp.where(along > 0, positive, negative)
