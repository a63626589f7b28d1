"""Learners: how directions become steps. Run them with `jnas.fit`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jnas.bilevel.momentum import StormState
from jnas.bilevel.problem import Bilevel, Estimator, Init, Point, inner_gradient, norm, packing
from jnas.types import Array, Aux, Batch, Batches, Context, Key, Learner, Loss, Metrics, PyTree, State

LearningRate = float | optax.Schedule | None


class SearchState(NamedTuple):
    """The whole state of a learner: what a checkpoint holds."""

    step: Array  # [] int32
    point: Point  # weights and alpha
    variables: PyTree  # running batch-norm statistics
    estimator: State
    optimiser: State  # of the chain; under `alternating` the pair (weights, alpha)


def simultaneous(
    problem: Bilevel,
    estimator: Estimator,
    init: Init,
    tx: optax.GradientTransformationExtraArgs,
    *,
    learning_rate: LearningRate = None,
    unroll: bool = False,
    one_vector: bool = False,
) -> Learner:
    """One step of weights and alpha together, both from the same iterate. With `storm` first in `tx`, the double
    recursion.

        v_k = Hyper(a_k, w_k) + (1 - c_k) (v_{k-1} - Hyper(a_{k-1}, w_{k-1}))        both on the batches and the key
        of step k
        u_k = G(a_k, w_k)     + (1 - d_k) (u_{k-1} - G(a_{k-1}, w_{k-1}))
        a_{k+1} = a_k - step(v_k) ;   w_{k+1} = w_k - step(u_k)

    `tx = optax.chain(storm(Point(weights=d, alpha=c)), optax.partition({...}, Point("weights", "alpha")))`.

    Args:
      problem: the two losses.
      estimator: of the joint direction.
      init: `key -> (point, variables)`.
      tx: optimiser of the whole point; it receives `grad_fn`, `point -> direction`, on the batches and key of this
      step.
      learning_rate: for estimators that need one (`unrolled`, `finite_difference`): a number or a schedule.
      unroll: write the two points of the recursion out one after the other. By default they are two trips of one loop,
        so that the estimator is compiled once. Inside loops XLA runs the gradients of ordinary convolutions many times
        slower on a CPU (not those of `jnas.nets`): there unroll this and `neumann`.
      one_vector: give `tx` all weights as one vector [num_weights], and alpha as it is: the same arithmetic in a
        program that does not grow with the number of arrays, which a supernet has hundreds of. Leave it off for an
        optimiser that treats arrays differently.

    Returns:
      A learner over `Batches`.

    References:
      Yang, Ji, Liang, "Provably faster algorithms for bilevel optimization" (MRBO), NeurIPS 2021.
    """
    tx = optax.with_extra_args_support(tx)

    def start(key: Key) -> SearchState:
        point, variables = init(key)
        optimiser = tx.init(packing(point, one_vector).pack(point))
        return SearchState(jnp.zeros((), jnp.int32), point, variables, estimator.init(point), optimiser)

    def update(state: SearchState, batches: Batches, key: Key) -> tuple[SearchState, Metrics]:
        context, rate = Context(state.variables, key), _at(learning_rate, state.step)
        pack, unpack = packing(state.point, one_vector)
        current = pack(state.point)

        def direction_at(kept: State, point: Point, refresh: Array | bool):
            direction, kept, aux = estimator.estimate(
                problem, unpack(point), batches, context, kept, learning_rate=rate, refresh=refresh
            )
            return kept, (pack(direction), aux)

        previous = _previous_point(state.optimiser)
        if previous is None:
            kept, (direction, aux) = direction_at(state.estimator, current, True)
            before = direction  # not asked for
        else:
            points = jax.tree.map(lambda *leaves: jnp.stack(leaves), current, previous)
            kept, (directions, auxes) = jax.lax.scan(
                lambda kept, each: direction_at(kept, *each),
                state.estimator,
                (points, jnp.array([True, False])),
                unroll=unroll or 1,
            )
            (direction, aux), (before, _) = (jax.tree.map(lambda x, n=n: x[n], (directions, auxes)) for n in range(2))

        def grad_fn(point: Point) -> Point:  # the same samples, key and running statistics, at another point
            return before if point is previous else direction_at(kept, point, False)[1][0]

        steps, optimiser = tx.update(direction, state.optimiser, current, grad_fn=grad_fn)
        point: Any = optax.apply_updates(current, steps)
        return SearchState(state.step + 1, unpack(point), aux.variables, kept, optimiser), aux.metrics

    return Learner(start, update)


def alternating(
    problem: Bilevel,
    estimator: Estimator,
    init: Init,
    weight_tx: optax.GradientTransformation,
    alpha_tx: optax.GradientTransformation,
    *,
    inner_steps: int = 1,
    learning_rate: LearningRate = None,
    one_vector: bool = False,
) -> Learner:
    """A step of alpha along the hypergradient, then steps of the weights at the new alpha: DARTS, iDARTS, stocBiO.

    `storm` in `weight_tx` or `alpha_tx` is that of one level only: its `grad_fn` varies what that optimiser moves and
    holds the other
    level at its current value, so the recursion misses the change due to the other level. The double recursion is
    `simultaneous`.

    Args:
      problem: the two losses.
      estimator: only its hypergradient is used.
      init: `key -> (point, variables)`.
      weight_tx: optimiser of the weights.
      alpha_tx: optimiser of alpha.
      inner_steps: weight steps a step of alpha. Above 1, `Batches.inner` has a leading axis [inner_steps]; the
      estimator sees
        its first entry.
      learning_rate: for estimators that need one: a number or a schedule.
      one_vector: give `weight_tx` all weights as one vector, see `simultaneous`.

    Returns:
      A learner over `Batches`. The metrics of the inner level are those of the last weight step.

    Raises:
      ValueError: for `inner_steps` below 1.

    References:
      Liu, Simonyan, Yang, "DARTS", ICLR 2019; Ji, Yang, Liang, "Bilevel optimization: convergence analysis and
      enhanced design", ICML 2021.
    """
    if inner_steps < 1:
        raise ValueError(f"alternating: inner_steps is {inner_steps}; give 1 or more weight steps a step of alpha.")
    weight_tx, alpha_tx = optax.with_extra_args_support(weight_tx), optax.with_extra_args_support(alpha_tx)

    def start(key: Key) -> SearchState:
        point, variables = init(key)
        optimiser = (weight_tx.init(packing(point, one_vector).pack(point).weights), alpha_tx.init(point.alpha))
        return SearchState(jnp.zeros((), jnp.int32), point, variables, estimator.init(point), optimiser)

    def alpha_step(state: SearchState, batches: Batches, context: Context):
        weights, rate = state.point.weights, _at(learning_rate, state.step)
        direction, kept, aux = estimator.estimate(
            problem, state.point, batches, context, state.estimator, learning_rate=rate
        )

        def grad_fn(alpha):
            point = Point(weights, alpha)
            again = estimator.estimate(problem, point, batches, context, kept, learning_rate=rate, refresh=False)
            return again[0].alpha

        steps, optimiser = alpha_tx.update(direction.alpha, state.optimiser[1], state.point.alpha, grad_fn=grad_fn)
        return optax.apply_updates(state.point.alpha, steps), kept, optimiser, aux.metrics

    def weight_step(point: Point, variables, optimiser, batch: Batch, key: Key):
        context = Context(variables, key)
        pack, unpack = packing(point, one_vector)

        def gradient_at(weights):
            gradient, aux = inner_gradient(problem, unpack(Point(weights, point.alpha)), batch, context)
            return pack(Point(gradient, point.alpha)).weights, aux

        weights = pack(point).weights
        gradient, aux = gradient_at(weights)
        steps, optimiser = weight_tx.update(gradient, optimiser, weights, grad_fn=lambda w: gradient_at(w)[0])
        metrics = {**aux.metrics, "weight_gradient_norm": norm(gradient)}
        point = unpack(Point(optax.apply_updates(weights, steps), point.alpha))
        return point, aux.variables, optimiser, metrics

    def update(state: SearchState, batches: Batches, key: Key) -> tuple[SearchState, Metrics]:
        alpha_key, *weight_keys = jax.random.split(key, 1 + inner_steps)
        inner = (
            [batches.inner]
            if inner_steps == 1
            else [jax.tree.map(lambda leaf, k=k: leaf[k], batches.inner) for k in range(inner_steps)]
        )
        first = batches._replace(inner=inner[0])
        alpha, kept, alpha_optimiser, metrics = alpha_step(state, first, Context(state.variables, alpha_key))
        point, variables, optimiser = Point(state.point.weights, alpha), state.variables, state.optimiser[0]
        for batch, weight_key in zip(inner, weight_keys, strict=True):
            point, variables, optimiser, seen = weight_step(point, variables, optimiser, batch, weight_key)
            metrics = {**metrics, **seen}  # in place of the estimator's, which then need not be computed
        new = SearchState(state.step + 1, point, variables, kept, (optimiser, alpha_optimiser))
        return new, metrics

    return Learner(start, update)


def supervised(loss: Loss, init: Init, tx: optax.GradientTransformation, *, one_vector: bool = False) -> Learner:
    """One level: weights and alpha follow the same gradient of the same loss on the same batch.

    For retraining and predictors alpha is the empty pytree `()`; for one-level search `tx` is an `optax.partition`
    with an optimiser for
    each part of the point. One forward and one backward pass a step.

    Args:
      loss: `(weights, alpha, batch, context) -> (scalar, Aux)`.
      init: `key -> (point, variables)`.
      tx: optimiser of the whole point.
      one_vector: give `tx` all weights as one vector, see `simultaneous`.

    Returns:
      A learner over batches of the loss. Metrics: `loss`, those of the loss's `Aux`, `gradient_norm`.
    """
    tx = optax.with_extra_args_support(tx)

    def start(key: Key) -> SearchState:
        point, variables = init(key)
        optimiser = tx.init(packing(point, one_vector).pack(point))
        return SearchState(jnp.zeros((), jnp.int32), point, variables, (), optimiser)

    def update(state: SearchState, batch: Batch, key: Key) -> tuple[SearchState, Metrics]:
        context = Context(state.variables, key)
        pack, unpack = packing(state.point, one_vector)
        current = pack(state.point)

        def gradient_at(point: Point) -> tuple[Point, Array, Aux]:
            (value, aux), slopes = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
                *unpack(point), batch, context
            )
            return pack(Point(*slopes)), value, aux

        gradient, value, aux = gradient_at(current)
        steps, optimiser = tx.update(gradient, state.optimiser, current, grad_fn=lambda p: gradient_at(p)[0])
        point: Any = unpack(optax.apply_updates(current, steps))  # pyright: ignore[reportArgumentType]
        metrics = {"loss": value, **aux.metrics, "gradient_norm": norm(gradient)}
        return SearchState(state.step + 1, point, aux.variables, (), optimiser), metrics

    return Learner(start, update)


def _previous_point(optimiser: PyTree) -> Point | None:
    """The point at which the recursion of a chain will ask for the gradient again, if there is one."""
    leaves = jax.tree.leaves(optimiser, is_leaf=lambda node: isinstance(node, StormState))
    found = [leaf.previous for leaf in leaves if isinstance(leaf, StormState)]
    return found[0] if len(found) == 1 and isinstance(found[0], Point) else None


def _at(schedule: LearningRate, step: Array):
    return schedule(step) if callable(schedule) else schedule
