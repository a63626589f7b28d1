"""Curvature of the inner loss in the weights, as matrix-free products `v -> B v`."""

from collections.abc import Callable

import jax

from jnas.bilevel.problem import Point
from jnas.types import Array, Batch, Context, Loss, PyTree, Weights

Curvature = Callable[[Loss, Point, Batch, Context, Weights], Weights]


def hessian(loss: Loss, point: Point, batch: Batch, context: Context, vector: Weights) -> Weights:
    """The exact product `H v`, `H = hessian_ww L(w, a)`, as a jvp of the gradient (forward over reverse).

    Reverse over reverse gives the same numbers at several times the time and memory.

    Args:
      loss: the inner loss.
      point: where.
      batch: its examples.
      context: batch-norm statistics and key, the same ones as everything this product is combined with.
      vector: `v`, of the structure of the weights.

    Returns:
      `H v`, of the structure of the weights.

    References:
      Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6(1), 1994.
    """
    gradient = lambda weights: jax.grad(loss, has_aux=True)(weights, point.alpha, batch, context)[0]
    return jax.jvp(gradient, (point.weights,), (vector,))[1]


def identity(loss: Loss, point: Point, batch: Batch, context: Context, vector: Weights) -> Weights:
    """`B v = v`: no curvature at all, the control of every claim that curvature helps, at no cost.

    In `single_loop(damping=d, curvature=identity, largest=1.0)` v becomes an average of `grad_w L_val / (1 + d)`.

    References:
      Luketina et al., "Scalable gradient-based tuning of continuous regularization hyperparameters" (T1-T2), ICML 2016.
    """
    del loss, point, batch, context
    return vector


def gauss_newton(
    model: Callable[[PyTree, PyTree, Batch, Context], PyTree], objective: Callable[[PyTree, Batch], Array]
) -> Curvature:
    """The generalised Gauss-Newton product `J^T (hessian_zz objective) J v`, `z = model(w, a, batch, context)`.

    Positive semi-definite wherever the objective is convex in the outputs `z` (cross-entropy of logits is), while the
    Hessian of a network with ReLU and batch norm is not; one jvp and one vjp, so cheaper than the exact product. It
    keeps the inverse stable and drops the curvature of the network itself.

    Args:
      model: `(weights, alpha, batch, context) -> outputs z`.
      objective: `(outputs, batch) -> scalar`, such that the inner loss is `objective(model(...), batch)`.

    Returns:
      A value for `implicit(solver, curvature=...)`.

    References:
      Schraudolph, "Fast curvature matrix-vector products", Neural Computation 14(7), 2002.
    """

    def product(loss: Loss, point: Point, batch: Batch, context: Context, vector: Weights) -> Weights:
        del loss  # the same function, given here as its two factors
        outputs_of = lambda weights: model(weights, point.alpha, batch, context)
        outputs, tangent = jax.jvp(outputs_of, (point.weights,), (vector,))
        curved = jax.jvp(jax.grad(lambda z: objective(z, batch)), (outputs,), (tangent,))[1]
        return jax.vjp(outputs_of, point.weights)[1](curved)[0]

    return product
