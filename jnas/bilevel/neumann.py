"""The truncated Neumann series."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from optax.tree import where

from jnas.bilevel.problem import Product, Solution, Solver, axpy, inverse, known, norm, vdot
from jnas.types import Array, Batch, Metrics, State, Weights


class PowerState(NamedTuple):
    """A running estimate of the largest absolute eigenvalue."""

    fresh: Array  # [] bool: nothing is known yet, or nothing but a vector of 0 was seen
    vector: Weights  # of unit length
    eigenvalue: Array  # [] float, a lower bound of |lambda|_max on the batches seen


class Series(NamedTuple):
    """Where a series stands."""

    power: Weights | tuple[()]  # the power iteration's unit vector; () where eta is given
    eigenvalue: Array  # [] float, 1 / eta
    term: Weights  # v_q
    total: Weights  # eta_0 v_0 + ... + eta_{q-1} v_{q-1}

    def sum(self) -> Weights:
        """`p`, the current term included."""
        return axpy(inverse(self.eigenvalue), self.term, self.total)


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
    is one power iteration a step from the vector of the step before; the second is the largest step that cannot
    lengthen `v_q` if H is positive definite, known from the product that the series needs anyway, so that a poor first
    estimate does no harm. With steps that vary, p is `sum_q eta_q v_q`, the Richardson iteration; with constant ones it
    is the series.

    Args:
      num_terms: Q, the products with H; Q + 1 terms in all.
      step_size: eta > 0, which may be traced; None chooses it as above.
      damping: added to the diagonal of H, >= 0, which may be traced; for indefinite Hessians.
      power_steps: power iterations a step when `step_size` is None, each one product.
      unroll: write the products out one after another. By default they are the trips of one loop, power iterations and
        the product with p included, so that a product is compiled once.

    Returns:
      A solver. Where a product yields more than its image, the product with p is made, too (`Solution.last`). Metrics:
      `neumann_step_size` (the last eta), `neumann_growth` (`|v_Q| / |v_0|`: above 1 the series expands),
      `neumann_diverged` (1.0 if it expanded or is not finite, else 0.0).

    Raises:
      ValueError: for a negative number of terms, a step size or damping out of range.

    References:
      Lorraine, Vicol, Duvenaud, "Optimizing millions of hyperparameters by implicit differentiation", AISTATS 2020.

    Example:
      >>> import jax.numpy as jnp
      >>> solver = neumann(50, step_size=0.5)
      >>> found = solver.solve(lambda v, batch: (2.0 * v, ()), jnp.array([4.0]), None, ())
      >>> float(found.p[0]), float(found.metrics["neumann_diverged"])
      (2.0, 0.0)
    """
    _check(num_terms, step_size, damping, power_steps)
    num_power = 0 if step_size is not None else power_steps
    end = num_power + num_terms  # trips: power iterations, terms, and perhaps the product with p

    def solve(product: Product, v: Weights, batches: Batch | None, state: State, refresh=True) -> Solution:
        outputs = jax.eval_shape(product, v, _row(batches, 0))
        num_trips = end + bool(jax.tree.leaves(outputs[1]))
        before = jnp.asarray(1 / step_size, norm(v).dtype) if step_size is not None else state.eigenvalue

        def trip(number, carry):
            series, _ = carry
            vector = where(number == end, series.sum(), series.term)
            vector = where(number < num_power, series.power, vector) if num_power else vector
            image, extra = product(vector, _row(batches, number - num_power))
            damped = axpy(damping, vector, image)
            after = _next_term(series, damped, fixed=step_size is not None)
            after = where(number < num_power, _next_power(series, damped, before), after) if num_power else after
            return where(number == end, series, after), (image, extra)

        power = unit(where(state.fresh, v, state.vector)) if num_power else ()
        series = Series(power, before, v, jax.tree.map(jnp.zeros_like, v))
        carry = (series, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), outputs))
        if unroll:
            for number in range(num_trips):
                after = trip(number, carry)
                carry = where(refresh, after, carry) if number < num_power else after
        else:
            carry = jax.lax.fori_loop(jnp.where(refresh, 0, num_power), num_trips, trip, carry)
        series, last = carry
        if num_power:
            state = where(refresh, PowerState(norm(series.power) == 0, series.power, series.eigenvalue), state)
        return Solution(series.sum(), state, _report(series, v), last if num_trips > end else None)

    init = _nothing_known if num_power else lambda weights: ()
    return Solver(init, solve, num_batches=num_terms, damping=damping)


def _nothing_known(weights: Weights) -> PowerState:
    return PowerState(jnp.asarray(True), jax.tree.map(jnp.zeros_like, weights), jnp.zeros_like(norm(weights)))


def unit(vector: Weights) -> Weights:
    """The vector at length 1, or 0 if it is 0."""
    scale = inverse(norm(vector))
    return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), vector)


def _next_power(series: Series, image: Weights, before: Array) -> Series:
    """One power iteration: `u <- H u / |H u|`, the eigenvalue about `|H u|`."""
    # A batch may show less curvature than the last ones did: forget slowly, too large a step is worse.
    return series._replace(power=unit(image), eigenvalue=jnp.maximum(norm(image), 0.9 * before))


def _next_term(series: Series, image: Weights, *, fixed: bool) -> Series:
    """`v_{q+1} = v_q - eta H v_q`, with `v_q` added to the sum."""
    eigenvalue = series.eigenvalue if fixed else jnp.maximum(series.eigenvalue, _safe_eigenvalue(series.term, image))
    eta = inverse(eigenvalue)
    return Series(series.power, eigenvalue, axpy(-eta, image, series.term), axpy(eta, series.term, series.total))


def _safe_eigenvalue(vector: Weights, image: Weights) -> Array:
    """`|Hv|^2 / <v, Hv>`, whose inverse is the minimal-residual step; along negative curvature `|Hv| / |v|`."""
    along, length = vdot(vector, image), norm(image)
    tiny = jnp.finfo(length.dtype).tiny
    positive = length * (length / jnp.maximum(along, tiny))
    negative = length / jnp.maximum(norm(vector), tiny)
    return jnp.where(along > 0, positive, negative)


def _report(series: Series, v: Weights) -> Metrics:
    """The last step, and whether the terms grew."""
    growth = norm(series.term) / jnp.maximum(norm(v), jnp.finfo(norm(v).dtype).tiny)
    diverged = 1.0 - (growth <= 1.0 + 1e-3).astype(growth.dtype)  # a NaN counts as diverged; 1e-3: rounding
    return {"neumann_step_size": inverse(series.eigenvalue), "neumann_growth": growth, "neumann_diverged": diverged}


def _row(batches: Batch | None, number: Any) -> Batch | None:
    """Batch `number`, the first one for a power iteration; None where there are none."""
    return None if batches is None else jax.tree.map(lambda leaf: leaf[jnp.maximum(number, 0)], batches)


def _check(num_terms: int, step_size: Any, damping: Any, power_steps: int) -> None:
    if num_terms < 0:
        raise ValueError(f"neumann: num_terms is {num_terms}; give 0 or more products with the Hessian.")
    if step_size is not None and known(step_size) and not step_size > 0:
        raise ValueError(f"neumann: step_size is {step_size}; give a positive number, or None to have it chosen.")
    if known(damping) and not damping >= 0:
        raise ValueError(f"neumann: damping is {damping}; give 0 or more.")
    if power_steps < 1:
        raise ValueError(f"neumann: power_steps is {power_steps}; give 1 or more, or fix step_size.")
