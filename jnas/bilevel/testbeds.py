"""Bilevel problems whose hypergradient is known in closed form: oracles for estimators, solvers and momentum."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jnas.bilevel.problem import Bilevel, Point
from jnas.types import Array, Aux, Batches, Context, Key


class Noise(NamedTuple):
    """One sample of the stochastic quadratic: additive errors of the gradients and a relative one of the Hessian."""

    weights: Array  # [num_weights], added to grad_w
    alpha: Array  # [num_alpha], added to grad_a
    hessian: Array  # [num_weights, num_weights], added to H (inner level only)


class Quadratic(NamedTuple):
    """A quadratic bilevel problem and what is known of it.

    L_tr(w, a) = w^T H w / 2 - w^T B a ;     w*(a) = H^-1 B a
    L_val(w, a) = |w - t_k|^2 / 2 + rho |a|^2 / 2     at step k of the context: t_k = t + k drift d, |d| = 1
    """

    problem: Bilevel  # over batches of `Noise`
    hessian: Array  # H, [num_weights, num_weights]
    coupling: Array  # B, [num_weights, num_alpha]
    target: Array  # t, [num_weights]
    implicit: Callable[..., Array]  # (point, step=0, damping=0) -> grad_a L_val + B^T (H + damping I)^-1 grad_w L_val
    response: Callable[[Array], Array]  # w*(a)
    sample: Callable[[Key, float], Batches]  # independent noise of the given scale for both levels


def quadratic(
    key: Key,
    num_weights: int = 12,
    num_alpha: int = 5,
    *,
    spectrum: tuple[float, float] = (0.5, 1.8),
    rho: float = 0.1,
    drift: float = 0.0,
) -> Quadratic:
    """A quadratic with a Hessian of the given spectrum, in the default float dtype.

    Args:
      key: of the instance.
      num_weights: n >= 2.
      num_alpha: m.
      spectrum: smallest and largest eigenvalue of H; the others are spread evenly between.
      rho: curvature of the outer loss in alpha.
      drift: how far the target moves a step, so that what is kept from step to step has something to follow.

    Returns:
      The problem and its closed forms.

    Example:
      >>> import jax
      >>> bed = quadratic(jax.random.key(0))
      >>> bed.hessian.shape, bed.coupling.shape
      ((12, 12), (12, 5))
    """
    keys = jax.random.split(key, 3)
    basis, _ = jnp.linalg.qr(jax.random.normal(keys[0], (num_weights, num_weights)))
    hessian = basis @ jnp.diag(jnp.linspace(*spectrum, num_weights)) @ basis.T
    coupling = jax.random.normal(keys[1], (num_weights, num_alpha))
    target = jax.random.normal(keys[2], (num_weights,))
    target_at = lambda step: target + jnp.asarray(step, target.dtype) * (drift / num_weights**0.5)  # d all alike

    def inner(w: Array, a: Array, noise: Noise, context: Context) -> tuple[Array, Aux]:
        noisy = hessian + noise.hessian
        return 0.5 * w @ noisy @ w - w @ coupling @ a + w @ noise.weights + a @ noise.alpha, Aux(context.variables)

    def outer(w: Array, a: Array, noise: Noise, context: Context) -> tuple[Array, Aux]:
        value = 0.5 * jnp.sum((w - target_at(context.step)) ** 2) + 0.5 * rho * jnp.sum(a**2)
        return value + w @ noise.weights + a @ noise.alpha, Aux(context.variables)

    def implicit(point: Point, step=0, damping=0.0) -> Array:
        damped = hessian + damping * jnp.eye(num_weights)
        return rho * point.alpha + coupling.T @ jnp.linalg.solve(damped, point.weights - target_at(step))

    def draw(key: Key, scale: float) -> Noise:
        w, a, h = jax.random.split(key, 3)
        square = jax.random.normal(h, (num_weights, num_weights))
        symmetric = (square + square.T) / (2 * num_weights)
        return Noise(
            scale * jax.random.normal(w, (num_weights,)), scale * jax.random.normal(a, (num_alpha,)), scale * symmetric
        )

    def sample(key: Key, scale: float) -> Batches:
        first, second = jax.random.split(key)
        return Batches(draw(first, scale), draw(second, scale))

    response = lambda a: jnp.linalg.solve(hessian, coupling @ a)
    return Quadratic(Bilevel(inner, outer), hessian, coupling, target, implicit, response, sample)
