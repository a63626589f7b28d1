"""Recursive momentum (STORM) and the moving average, as optax transformations, and how their coefficients decay."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import optax

from jnas.types import Array, PyTree

Decay = Any  # a number, a schedule (step [] int32 -> number), or a pytree prefix of the parameters with such leaves


class StormState(NamedTuple):
    """What the recursion remembers."""

    count: Array  # [] int32
    previous: PyTree  # the parameters of the step before
    direction: PyTree  # d_{t-1}


def storm(decay: Decay) -> optax.GradientTransformationExtraArgs:
    """Recursive momentum: the direction of the last step, corrected by how the gradient changed between two points.

        d_0 = g_0 ;   d_t = g_t + (1 - decay_t) (d_{t-1} - grad_fn(x_{t-1}))

    Both gradients are of the SAME samples: `grad_fn` recomputes, at the previous point, the gradient that `updates` is
    at the current one. With the stored g_{t-1} in its place the recursion collapses to `d_t = g_t`. Coefficient 1 gives
    `g_t` bit for bit.

    Put it first in a chain: a clip before it would clip g_t and not `grad_fn(x_{t-1})`, and a learner looks for the
    previous point there, so as to evaluate both points in one program. Put it outside `optax.partition`, so that one
    call of `grad_fn` serves all groups; the groups may still have coefficients of their own, `storm(Point(weights=...,
    alpha=...))`. Do not add heavy-ball momentum on top. Adam on top is a hybrid that the theory does not cover.

    Args:
      decay: the coefficient in (0, 1]: a number, a schedule, or a pytree prefix of the parameters with such leaves.

    Returns:
      A transformation whose `update` needs `params` and the extra argument `grad_fn`, `params -> gradient`.

    Raises:
      ValueError: for a number outside (0, 1]; in `update`, when `params` is missing.

    References:
      Cutkosky, Orabona, "Momentum-based variance reduction in non-convex SGD", NeurIPS 2019. On both levels of a
      bilevel problem: Yang, Ji, Liang, "Provably faster algorithms for bilevel optimization" (MRBO), NeurIPS 2021.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> loss = lambda x: 0.5 * jnp.sum(x**2)
      >>> tx = optax.chain(storm(0.1), optax.sgd(0.5))
      >>> x = jnp.array([4.0])
      >>> state = tx.init(x)
      >>> updates, state = tx.update(jax.grad(loss)(x), state, x, grad_fn=jax.grad(loss))
      >>> optax.apply_updates(x, updates)
      Array([2.], dtype=float32)
    """
    _check(decay, "storm")

    def init(params: PyTree) -> StormState:
        return StormState(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.zeros_like, params))

    def update(updates, state: StormState, params=None, *, grad_fn: Callable[[PyTree], PyTree], **extra):
        del extra
        if params is None:
            raise ValueError("storm: params is None; call update(updates, state, params, grad_fn=...).")
        before = grad_fn(state.previous)

        def corrected(coefficient, gradient, direction, old):
            plain = (state.count == 0) | (coefficient == 1.0)
            return jnp.where(plain, gradient, gradient + (1 - coefficient).astype(gradient.dtype) * (direction - old))

        direction = _map_prefix(corrected, decay, state.count, updates, state.direction, before)
        return direction, StormState(jnp.asarray(optax.safe_increment(state.count)), params, direction)

    # optax types a state as any tree of numbers, and extra arguments as any keywords: ours are narrower.
    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


class AverageState(NamedTuple):
    """What the moving average remembers."""

    count: Array  # [] int32
    average: PyTree  # g_{t-1}


def previous_point(state: PyTree) -> PyTree | None:
    """Where the first link of a chain will ask for the gradient again; None if that link is not `storm`.

    Args:
      state: of the optimiser. Found is `storm` by itself, or first in a chain, be it a chain within a chain; a state of
        your own that is a plain tuple passes for a chain, so name it.

    Returns:
      The parameters of the step before.
    """
    while type(state) is tuple and state:  # a chain's state is a plain tuple, its links' are named
        state = state[0]
    return state.previous if isinstance(state, StormState) else None


def moving_average(decay: Decay) -> optax.GradientTransformation:
    """The first form of momentum, `g_t = (1 - decay_t) g_{t-1} + decay_t grad_t`, with `g_0 = grad_0`.

    Unlike `optax.ema` it starts from the first gradient and takes a schedule. It averages gradients of old points: less
    noise, more bias, at no extra evaluation.

    Args:
      decay: the weight of the new gradient, in (0, 1]: a number, a schedule, or a pytree prefix with such leaves.

    Returns:
      An optax transformation.

    Raises:
      ValueError: for a number outside (0, 1].
    """
    _check(decay, "moving_average")

    def init(params: PyTree) -> AverageState:
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates, state: AverageState, params=None):
        del params

        def averaged(coefficient, gradient, old):
            plain = (state.count == 0) | (coefficient == 1.0)
            share = coefficient.astype(gradient.dtype)
            return jnp.where(plain, gradient, (1 - share) * old + share * gradient)

        average = _map_prefix(averaged, decay, state.count, updates, state.average)
        return average, AverageState(jnp.asarray(optax.safe_increment(state.count)), average)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType] - see `storm`


def decaying(
    initial: float = 0.9, *, offset: float = 100.0, power: float = 2 / 3, floor: float = 0.1
) -> optax.Schedule:
    """A coefficient that decreases at every iteration, `max(floor, initial * (1 + k / offset)^-power)`.

    The exponent 2/3 is the theory's (its coefficient is proportional to the step size squared, the step size to
    k^(-1/3)). Without offset and floor the coefficient would end near 7e-4 after 50 epochs and the direction would
    hardly see new gradients.

    Args:
      initial: at k = 0, in (0, 1].
      offset: steps after which the decay begins to bite, > 0.
      power: exponent, >= 0.
      floor: lower bound, in [0, initial].

    Returns:
      A schedule `k -> coefficient`.

    Raises:
      ValueError: for a value out of range.

    Example:
      >>> schedule = decaying(0.9, offset=100, floor=0.1)
      >>> round(float(schedule(0)), 3), round(float(schedule(700)), 3), round(float(schedule(100000)), 3)
      (0.9, 0.225, 0.1)
    """
    known = not any(isinstance(value, jax.core.Tracer) for value in (initial, offset, power, floor))
    if known and not (0 < initial <= 1 and offset > 0 and power >= 0 and 0 <= floor <= initial):
        raise ValueError(
            f"decaying: initial={initial}, offset={offset}, power={power}, floor={floor}; "
            "give 0 < initial <= 1, offset > 0, power >= 0 and 0 <= floor <= initial."
        )

    def schedule(step):
        ratio = 1.0 + jnp.asarray(step, jnp.result_type(float)) / offset
        return jnp.maximum(floor, initial * ratio**-power)

    return schedule


def _check(decay: Decay, name: str) -> None:
    for leaf in jax.tree.leaves(decay):
        if not callable(leaf) and not isinstance(leaf, jax.core.Tracer) and not 0 < leaf <= 1:
            raise ValueError(f"{name}: decay is {leaf}; give a coefficient in (0, 1], or a schedule of such.")


def _map_prefix(function, decay: Decay, count: Array, *trees: PyTree) -> PyTree:
    """Maps over the leaves of `trees`, each with the coefficient whose prefix it stands under."""

    def under(leaf, *subtrees):
        coefficient = jnp.asarray(leaf(count) if callable(leaf) else leaf, jnp.result_type(float))
        return jax.tree.map(lambda *leaves: function(coefficient, *leaves), *subtrees)

    return jax.tree.map(under, decay, *trees)
