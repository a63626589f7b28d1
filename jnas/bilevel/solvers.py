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
      init: `weights -> state`.
      prepare: `(product, v, state) -> state`, renews what is kept between steps (the eigenvalue estimate).
      solve: `(product, v, batches, state) -> (p, metrics)`; `batches` is None or has the leading axis [num_batches].
      num_batches: how many fresh batches it can use, 0 where one operator is needed throughout.
      damping: added to the diagonal of H.
    """

    init: Callable[[Weights], State]
    prepare: Callable[[Product, Weights, State], State]
    solve: Callable[[Product, Weights, Batch | None, State], tuple[Weights, Metrics]]
    num_batches: int
    damping: float


class PowerState(NamedTuple):
    """A running estimate of the largest absolute eigenvalue."""

    count: Array  # [] int32
    vector: Weights  # unit vector
    eigenvalue: Array  # [] of the weights' dtype, a lower bound of |lambda|_max on the batches seen


def neumann(
    num_terms: int = 2,
    *,
    step_size: float | None = None,
    damping: float = 0.0,
    power_steps: int = 1,
    unroll: int | bool = 1,
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
      unroll: of the `lax.scan` over terms; True unrolls it whole.

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
      >>> p, metrics = solver.solve(lambda v, batch: 2.0 * v, jnp.array([4.0]), None, ())
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

    def damped(product: Product) -> Product:
        return lambda v, batch: axpy(damping, v, product(v, batch))

    def init(weights: Weights) -> State:
        if step_size is not None:
            return ()
        eigenvalue = jnp.zeros((), _dtype(weights))
        return PowerState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, weights), eigenvalue)

    def prepare(product: Product, v: Weights, state: State) -> State:
        if step_size is not None:
            return state
        start = jax.tree.map(lambda a, b: jnp.where(state.count == 0, a, b), v, state.vector)
        vector, eigenvalue = _unit(start), state.eigenvalue
        for _ in range(power_steps):
            image = damped(product)(vector, None)
            eigenvalue = optax.tree.norm(image)
            vector = _unit(image)
        # A batch may show less curvature than the last ones did: forget slowly, since too large a step is the worse
        # error.
        return PowerState(state.count + 1, vector, jnp.maximum(eigenvalue, 0.9 * state.eigenvalue))

    def solve(product: Product, v: Weights, batches: Batch | None, state: State) -> tuple[Weights, Metrics]:
        dtype = _dtype(v)
        tiny = jnp.finfo(dtype).tiny
        eigenvalue = jnp.asarray(1 / step_size, dtype) if step_size is not None else state.eigenvalue

        def term(carry, batch):
            vector, total, eigenvalue = carry
            image = damped(product)(vector, batch)
            if step_size is None:
                eigenvalue = jnp.maximum(eigenvalue, _safe_eigenvalue(vector, image))
            eta = _inverse(eigenvalue, tiny)
            return (axpy(-eta, image, vector), axpy(eta, vector, total), eigenvalue), None

        start = (v, jax.tree.map(jnp.zeros_like, v), eigenvalue)
        (vector, total, eigenvalue), _ = jax.lax.scan(term, start, batches, length=num_terms, unroll=unroll)
        eta = _inverse(eigenvalue, tiny)
        total = axpy(eta, vector, total)
        growth = optax.tree.norm(vector) / jnp.maximum(optax.tree.norm(v), tiny)
        diverged = 1.0 - (growth <= 1.0 + 1e-3).astype(dtype)  # a NaN counts as diverged; 1e-3: rounding
        return total, {"neumann_step_size": eta, "neumann_growth": growth, "neumann_diverged": diverged}

    return Solver(init, prepare, solve, num_batches=num_terms, damping=damping)


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

    def solve(product: Product, v: Weights, batches: Batch | None, state: State) -> tuple[Weights, Metrics]:
        del batches, state
        stop = float(jnp.finfo(_dtype(v)).eps) if tolerance is None else tolerance
        operator = lambda u: axpy(damping, u, product(u, None))
        solution, _ = jax.scipy.sparse.linalg.cg(operator, v, tol=stop, maxiter=num_steps)
        return solution, {}

    return Solver(lambda weights: (), lambda product, v, state: state, solve, num_batches=0, damping=damping)


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
