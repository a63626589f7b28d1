"""Unrolled steps of SGD."""

import jax

from jnas.bilevel.problem import (
    Estimator,
    Point,
    axpy,
    estimated,
    inner_gradient,
    needed_rate,
    outer_gradient,
    second_derivatives,
)
from jnas.types import Aux, State


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
        xi = needed_rate(learning_rate, "unrolled")
        gradient, aux = inner_gradient(problem, point, batches.inner, context)

        def forward(weights, _):
            slope, _ = inner_gradient(problem, Point(weights, point.alpha), batches.inner, context)
            return axpy(-xi, slope, weights), weights

        first = axpy(-xi, gradient, point.weights)
        last, later = jax.lax.scan(forward, first, length=num_steps - 1)
        outer, metrics = outer_gradient(problem, Point(last, point.alpha), batches, context)

        def backward(carry, weights):
            v, hypergradient = carry
            image, mixed, _, _ = second_derivatives(problem, Point(weights, point.alpha), batches.inner, context, v)
            return (axpy(-xi, image, v), axpy(-xi, mixed, hypergradient)), None

        carry, _ = jax.lax.scan(backward, (outer.weights, outer.alpha), later, reverse=True)
        (_, hypergradient), _ = backward(carry, point.weights)
        return estimated(Point(gradient, hypergradient), state, aux, metrics)

    return Estimator(lambda point: (), estimate)
