"""Conjugate gradients."""

import jax
import jax.numpy as jnp
from optax.tree import where

from jnas.bilevel.problem import Product, Solution, Solver, axpy, inverse, known, norm, vdot
from jnas.types import Batch, State, Weights


def conjugate_gradient(num_steps: int, *, damping: float = 0.0, tolerance: float | None = None) -> Solver:
    """At most `num_steps` steps of conjugate gradients on `(H + damping I) x = v`, H positive definite.

        x_0 = 0 ;  r_0 = d_0 = v
        x_{k+1} = x_k + s_k d_k ;  r_{k+1} = r_k - s_k H d_k ;  s_k = |r_k|^2 / <d_k, H d_k>
        d_{k+1} = r_{k+1} + (|r_{k+1}|^2 / |r_k|^2) d_k

    The most accurate per product where H is positive definite on ONE batch. It stops at a relative residual of
    `tolerance`. Where it meets `<d, H d> <= 0` the system has no minimum to go to: it stops there with the iterate of
    the smallest residual so far, and says so; then use damping or a Gauss-Newton curvature.

    Args:
      num_steps: products with H, >= 1.
      damping: added to the diagonal of H, >= 0.
      tolerance: relative residual at which it stops; None: the rounding unit.

    Returns:
      A solver. Metrics: `conjugate_gradient_steps` (those that were taken), `conjugate_gradient_indefinite` (1.0 if it
      stopped for want of positive curvature, else 0.0).

    Raises:
      ValueError: for a number of steps below 1 or a negative damping.

    References:
      Hestenes, Stiefel, "Methods of conjugate gradients for solving linear systems", 1952.
    """
    if num_steps < 1:
        raise ValueError(f"conjugate_gradient: num_steps is {num_steps}; give 1 or more.")
    if known(damping) and not damping >= 0:
        raise ValueError(f"conjugate_gradient: damping is {damping}; give 0 or more.")

    def solve(product: Product, v: Weights, batches: Batch | None, state: State, refresh=True) -> Solution:
        del batches, refresh  # one operator throughout, and nothing is kept
        length = norm(v)
        target = length * (jnp.finfo(length.dtype).eps if tolerance is None else tolerance)
        zero = jax.tree.map(jnp.zeros_like, v)

        def going_on(carry):
            step, (_, r, _), _, indefinite = carry
            return (step < num_steps) & ~indefinite & (norm(r) > target)

        def iterate(carry):
            step, (x, r, d), (best, least), _ = carry
            image = axpy(damping, d, product(d, None)[0])
            along, old = vdot(d, image), vdot(r, r)
            sound = ~(along <= 0)  # a NaN goes on into the result, for all to see
            size = old / jnp.where(sound, along, 1.0)
            moved, left = axpy(size, d, x), axpy(-size, image, r)
            better = sound & (norm(left) < least)
            best, least = where(better, moved, best), jnp.where(better, norm(left), least)
            after = (moved, left, axpy(vdot(left, left) * inverse(old), d, left))
            return step + sound.astype(jnp.int32), where(sound, after, (x, r, d)), (best, least), ~sound

        start = (jnp.zeros((), jnp.int32), (zero, v, v), (zero, length), jnp.asarray(False))
        steps, (x, _, _), (best, _), indefinite = jax.lax.while_loop(going_on, iterate, start)
        metrics = {
            "conjugate_gradient_steps": steps.astype(length.dtype),
            "conjugate_gradient_indefinite": indefinite.astype(length.dtype),
        }
        return Solution(where(indefinite, best, x), state, metrics, None)

    return Solver(lambda weights: (), solve, num_batches=0, damping=damping)
