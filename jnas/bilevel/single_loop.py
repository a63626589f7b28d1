"""One loop: the solution of the linear system is kept from step to step, as a third variable."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jnas.bilevel.curvature import Curvature, hessian
from jnas.bilevel.neumann import unit
from jnas.bilevel.problem import (
    Estimator,
    Init,
    Point,
    axpy,
    estimated,
    inverse,
    known,
    norm,
    outer_gradient,
    second_derivatives,
    vdot,
)
from jnas.types import Array, Aux, Key, PyTree, State, Weights

START, EVERY = 8, 16  # power iterations before the first step; steps between two later ones


class Spectrum(NamedTuple):
    """What is known of the ends of the curvature's spectrum."""

    count: Array  # [] int32, steps so far
    top: Weights  # unit vector of the power iteration
    largest: Array  # [] float, a running maximum of |H top|
    lowest: Array  # [] float, a running minimum of <v, H v> / <v, v>, never above 0


def single_loop(*, damping: float = 1.0, curvature: Curvature = hessian, largest: float | None = None) -> Estimator:
    """The implicit function theorem, its linear system solved along with the search: one product a step.

        A = H + delta I ;   v ~ A^-1 grad_w L_val
        D_w = grad_w L_tr ;   D_v = (A v - grad_w L_val) / L ;   D_a = grad_a L_val - (d_a d_w L_tr) v

    all at one iterate and on one set of batches. The truncated series begins at 0 in every step and amplifies the noise
    of that step's batch; this one goes on where it stood and averages over batches. `v` is `point.adjoint`: the chain
    that moves weights and alpha moves it, too, and a momentum in it acts on all three.

    `L` is an upper bound of the eigenvalues of `A`, measured by a power iteration every 16th step, so that a
    step of 1 along `-D_v` is safe and the step size of v, in (0, 1], a share of it. (A quotient of v alone would not
    do, for v has lost its steep part. But a batch steeper than those that were measured would throw v away: there L is
    its own `|A v|^2 / <v, A v>`, so that `(I - A / L) v` is no longer than v, and steep batches weigh less.) Where H is
    indefinite v grows along the negative curvature and shows it: delta is at least 1.5 times the lowest
    `<v, H v> / <v, v>` seen, which stops that. Both ends are forgotten in tens of steps, for curvature soon falls.

    Args:
      damping: delta >= 0, which may be traced: the least that is added to the diagonal. The larger, the faster v
        follows and the less curvature is in it.
      curvature: `hessian`; `gauss_newton(...)`; or `identity`.
      largest: eigenvalue of the curvature, where it is known: then nothing is measured, and delta is the damping.

    Returns:
      An estimator of points that `with_adjoint` began. Its costs in gradients, a product counted as two: 4, with
      Gauss-Newton 6, under the recursion twice that; and 2 every 16th step. Metrics: `adjoint_norm`;
      `adjoint_residual`, `|L D_v| / |grad_w L_val|` on this step's batches, noise included; `damping`, the delta used;
      `largest_eigenvalue`, `lowest_eigenvalue`.

    Raises:
      ValueError: for a damping or bound out of range; in `init`, for a point without an adjoint.

    References:
      Dagréou, Ablin, Vaiter, Moreau, "A framework for bilevel optimization that enables stochastic and global variance
      reduction algorithms" (SOBA, SABA), NeurIPS 2022; Chen, Xiao, Balasubramanian (MA-SOBA), arXiv 2306.12067.
    """
    if known(damping) and not damping >= 0:
        raise ValueError(f"single_loop: damping is {damping}; give 0 or more.")
    if largest is not None and not largest > 0:
        raise ValueError(f"single_loop: largest is {largest}; give a positive bound, or None to have it measured.")

    def init(point: Point) -> Spectrum | tuple[()]:
        if jax.tree.structure(point.adjoint) != jax.tree.structure(point.weights):
            raise ValueError("single_loop: the point has no adjoint of the weights' structure; begin by with_adjoint.")
        zero = jnp.zeros_like(norm(point.weights))
        return () if largest is not None else Spectrum(jnp.zeros((), jnp.int32), point.adjoint, zero, zero)

    def estimate(problem, point, batches, context, state: Any, *, refresh=True, **extra) -> tuple[Point, State, Aux]:
        del extra
        outer, metrics = outer_gradient(problem, point, batches, context)
        v = point.adjoint
        product = lambda vector: curvature(problem.inner, point, batches.inner, context, vector)
        image, mixed, gradient, aux = second_derivatives(problem, point, batches.inner, context, v)
        image = image if curvature is hessian else product(v)
        if largest is None:
            state = optax.tree.where(refresh, _measured(state, product, outer.weights, v, image, refresh), state)
            delta, bound = jnp.maximum(damping, -1.5 * state.lowest), state.largest
            metrics |= {"largest_eigenvalue": state.largest, "lowest_eigenvalue": state.lowest}
        else:
            delta, bound = jnp.asarray(damping, norm(v).dtype), largest
        image = axpy(delta, v, image)
        missing = optax.tree.sub(image, outer.weights)
        steep = vdot(image, image) * inverse(vdot(v, image))
        scale = inverse(jnp.maximum(delta + bound, steep))
        step = jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), missing)
        residual = norm(missing) * inverse(norm(outer.weights))
        metrics |= {"adjoint_norm": norm(v), "adjoint_residual": residual, "damping": delta}
        return estimated(Point(gradient, optax.tree.sub(outer.alpha, mixed), step), state, aux, metrics)

    return Estimator(init, estimate)


def with_adjoint(init: Init) -> Init:
    """The same beginning with an adjoint of 0, for `single_loop`."""

    def start(key: Key) -> tuple[Point, PyTree]:
        point, variables = init(key)
        return point._replace(adjoint=jax.tree.map(jnp.zeros_like, point.weights)), variables

    return start


def _measured(state: Spectrum, product, start: Weights, v: Weights, image: Weights, refresh) -> Spectrum:
    """The spectrum with this step's power iterations, if it has any, and what the product with v says."""

    def trip(_, known: Spectrum) -> Spectrum:
        image = product(known.top)
        return known._replace(top=unit(image), largest=jnp.maximum(norm(image), 0.8 * known.largest))

    first = state.count == 0
    due = jnp.where(first, START, jnp.where(state.count % EVERY == 0, 1, 0))
    state = state._replace(top=optax.tree.where(first, unit(start), state.top))
    state = jax.lax.fori_loop(0, jnp.where(refresh, due, 0), trip, state)
    lowest = jnp.minimum(vdot(v, image) * inverse(vdot(v, v)), 0.98 * state.lowest)
    return state._replace(count=state.count + 1, lowest=lowest)
