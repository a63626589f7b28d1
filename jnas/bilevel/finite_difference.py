"""DARTS' second order."""

import jax
import jax.numpy as jnp
import optax

from jnas.bilevel.problem import (
    Estimator,
    Point,
    axpy,
    estimated,
    inner_gradient,
    inverse,
    needed_rate,
    norm,
    outer_gradient,
)
from jnas.types import Array, Aux, State


def finite_difference(radius: float = 1e-2) -> Estimator:
    """DARTS' second order: one step of SGD, its mixed derivative by a central difference.

        w' = w - xi G ;  v = grad_w L_val(w', a) ;  eps = radius / |v|
        grad_a L_val(w', a) - xi (grad_a L_tr(w + eps v, a) - grad_a L_tr(w - eps v, a)) / (2 eps)

    Public copies often divide by 2 and multiply by eps, which makes the second term eps^2 too small. In float32 the
    difference loses about half of the digits; `unrolled(1)` is the same quantity, exact. Where v is 0 the second term
    is 0.

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
        xi = needed_rate(learning_rate, "finite_difference")
        gradient, aux = inner_gradient(problem, point, batches.inner, context)
        stepped = Point(axpy(-xi, gradient, point.weights), point.alpha)
        outer, metrics = outer_gradient(problem, stepped, batches, context)
        length = norm(outer.weights)
        xi, eps = jnp.asarray(xi, length.dtype), radius * inverse(length)

        def alpha_gradient(scale: Array):
            weights = axpy(scale, outer.weights, point.weights)
            return jax.grad(problem.inner, argnums=1, has_aux=True)(weights, point.alpha, batches.inner, context)[0]

        difference = optax.tree.sub(alpha_gradient(eps), alpha_gradient(-eps))
        hypergradient = axpy(-xi * length / (2 * radius), difference, outer.alpha)  # 1 / eps, which may be infinite
        return estimated(Point(gradient, hypergradient), state, aux, metrics)

    return Estimator(lambda point: (), estimate)
