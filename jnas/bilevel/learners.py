"""Learners: how directions become steps. Run them with `jnas.fit`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jnas.bilevel.momentum import previous_point
from jnas.bilevel.problem import Bilevel, Estimator, Init, Point, check_alike, inner_gradient, inverse, norm
from jnas.types import Array, Aux, Batch, Batches, Context, Key, Learner, Loss, Metrics, PyTree, State

LearningRate = float | optax.Schedule | None


class SearchState(NamedTuple):
    """The whole state of a learner: what a checkpoint holds."""

    step: Array  # [] int32
    point: Point  # weights, alpha, and an estimator's own iterate
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
) -> Learner:
    """One step of weights and alpha together, both from the same iterate. With `storm` first, the double recursion.

        v_k = Hyper(a_k, w_k) + (1 - c_k) (v_{k-1} - Hyper(a_{k-1}, w_{k-1}))
        u_k = G(a_k, w_k)     + (1 - d_k) (u_{k-1} - G(a_{k-1}, w_{k-1}))
        a_{k+1} = a_k - step(v_k) ;   w_{k+1} = w_k - step(u_k)

    Both evaluations are on the batches, the key and the running statistics of step k. With

        tx = optax.chain(storm(Point(weights=d, alpha=c)), optax.partition({...}, Point("weights", "alpha")))

    they are two trips of one loop, so that the estimator is compiled once; with `storm` in another place it is compiled
    twice; the metrics `weights_change` and `alpha_change` then say how far each level's gradient moved between the two
    points. A point with an adjoint, the iterate of an estimator of its own, moves as a third part of the same chain,
    whose coefficients and labels then need a third entry, too.

    Args:
      problem: the two losses.
      estimator: of the joint direction.
      init: `key -> (point, variables)`.
      tx: optimiser of the whole point; it gets `grad_fn`, `point -> direction`, on the batches and key of this step.
      learning_rate: for estimators that need one (`unrolled`, `finite_difference`): a number or a schedule.
      unroll: write the two points of the recursion out one after the other. Inside loops XLA runs the gradients of
        ordinary convolutions many times slower on a CPU (not those of `jnas.nets`): there unroll this and `neumann`.

    Returns:
      A learner over `Batches`.

    Raises:
      ValueError: when traced, if the estimator's direction is not laid out as the point.

    References:
      Yang, Ji, Liang, "Provably faster algorithms for bilevel optimization" (MRBO), NeurIPS 2021.
    """
    tx = optax.with_extra_args_support(tx)

    def start(key: Key) -> SearchState:
        point, variables = init(key)
        return SearchState(jnp.zeros((), jnp.int32), point, variables, estimator.init(point), tx.init(point))

    def update(state: SearchState, batches: Batches, key: Key) -> tuple[SearchState, Metrics]:
        context, rate = Context(state.variables, key, state.step), _at(learning_rate, state.step)

        def direction_at(kept: State, point: Point, refresh: Array | bool):
            direction, kept, aux = estimator.estimate(
                problem, point, batches, context, kept, learning_rate=rate, refresh=refresh
            )
            check_alike(direction, point)
            return kept, (direction, aux)

        previous = previous_point(state.optimiser)
        if previous is None:
            kept, (direction, aux) = direction_at(state.estimator, state.point, True)
            answers = []
        else:
            points = jax.tree.map(lambda *leaves: jnp.stack(leaves), state.point, previous)
            kept, both = jax.lax.scan(
                lambda kept, each: direction_at(kept, *each),
                state.estimator,
                (points, jnp.array([True, False])),
                unroll=unroll or 1,
            )
            (direction, aux), (before, _) = (jax.tree.map(lambda x, n=n: x[n], both) for n in range(2))
            answers = [before]
            aux = aux._replace(metrics=aux.metrics | _changes(direction, before))

        def grad_fn(point: Point) -> Point:
            # The first link of the chain asks first, and at its previous point; who asks later has a point of its own.
            return answers.pop() if answers else direction_at(kept, point, False)[1][0]

        steps, optimiser = tx.update(direction, state.optimiser, state.point, grad_fn=grad_fn)
        point: Any = optax.apply_updates(state.point, steps)
        return SearchState(state.step + 1, point, aux.variables, kept, optimiser), aux.metrics

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
) -> Learner:
    """A step of alpha along the hypergradient, then steps of the weights at the new alpha: DARTS, iDARTS, stocBiO.

    `storm` in `weight_tx` or `alpha_tx` is that of one level only: its `grad_fn` varies what that optimiser moves and
    holds the other level at its current value, so the recursion misses the change due to the other level. The double
    recursion is `simultaneous`.

    Args:
      problem: the two losses.
      estimator: its hypergradient is used, and the direction of an adjoint; not its gradient of the weights.
      init: `key -> (point, variables)`.
      weight_tx: optimiser of the weights.
      alpha_tx: optimiser of `Point((), alpha, adjoint)`: an adjoint, where there is one, moves with alpha.
      inner_steps: K, the weight steps a step of alpha, the first on `Batches.inner`, as the estimator, the others on
        the K - 1 batches of `Batches.further`.
      learning_rate: for estimators that need one: a number or a schedule.

    Returns:
      A learner over `Batches`. The metrics of the inner level are those of the last weight step.

    Raises:
      ValueError: for `inner_steps` below 1; when traced, if there are not K - 1 further batches.

    References:
      Liu, Simonyan, Yang, "DARTS", ICLR 2019; Ji, Yang, Liang, "Bilevel optimization: convergence analysis and
      enhanced design", ICML 2021.
    """
    if inner_steps < 1:
        raise ValueError(f"alternating: inner_steps is {inner_steps}; give 1 or more weight steps a step of alpha.")
    weight_tx, alpha_tx = optax.with_extra_args_support(weight_tx), optax.with_extra_args_support(alpha_tx)

    def start(key: Key) -> SearchState:
        point, variables = init(key)
        optimiser = (weight_tx.init(point.weights), alpha_tx.init(point._replace(weights=())))
        return SearchState(jnp.zeros((), jnp.int32), point, variables, estimator.init(point), optimiser)

    def alpha_step(state: SearchState, batches: Batches, context: Context):
        rate, upper = _at(learning_rate, state.step), state.point._replace(weights=())

        def estimate(upper: Point, kept: State, refresh: bool):
            point = upper._replace(weights=state.point.weights)
            direction, *rest = estimator.estimate(
                problem, point, batches, context, kept, learning_rate=rate, refresh=refresh
            )
            return direction._replace(weights=()), *rest

        direction, kept, aux = estimate(upper, state.estimator, True)
        check_alike(direction, upper)
        grad_fn = lambda upper: estimate(upper, kept, False)[0]
        steps, optimiser = alpha_tx.update(direction, state.optimiser[1], upper, grad_fn=grad_fn)
        moved: Any = optax.apply_updates(upper, steps)
        return moved._replace(weights=state.point.weights), kept, optimiser, aux.metrics

    def weight_step(point: Point, optimiser, batch: Batch, context: Context):
        def gradient_at(weights):
            return inner_gradient(problem, point._replace(weights=weights), batch, context)

        gradient, aux = gradient_at(point.weights)
        grad_fn = lambda weights: gradient_at(weights)[0]
        steps, optimiser = weight_tx.update(gradient, optimiser, point.weights, grad_fn=grad_fn)
        metrics = {**aux.metrics, "weight_gradient_norm": norm(gradient)}
        return point._replace(weights=optax.apply_updates(point.weights, steps)), aux.variables, optimiser, metrics

    def update(state: SearchState, batches: Batches, key: Key) -> tuple[SearchState, Metrics]:
        alpha_key, *weight_keys = jax.random.split(key, 1 + inner_steps)
        context = Context(state.variables, alpha_key, state.step)
        inner = [batches.inner]
        if inner_steps > 1:
            inner += _rows(batches.further, inner_steps - 1)
            batches = batches._replace(further=None)
        point, kept, alpha_optimiser, metrics = alpha_step(state, batches, context)
        variables, optimiser = state.variables, state.optimiser[0]
        for batch, weight_key in zip(inner, weight_keys, strict=True):
            context = Context(variables, weight_key, state.step)
            point, variables, optimiser, seen = weight_step(point, optimiser, batch, context)
            metrics = {**metrics, **seen}  # in place of the estimator's, which then need not be computed
        new = SearchState(state.step + 1, point, variables, kept, (optimiser, alpha_optimiser))
        return new, metrics

    return Learner(start, update)


def supervised(loss: Loss, init: Init, tx: optax.GradientTransformation) -> Learner:
    """One level: weights and alpha follow the same gradient of the same loss on the same batch.

    For retraining and predictors alpha is the empty pytree `()`; for one-level search `tx` is an `optax.partition`
    with an optimiser for each part of the point. One forward and one backward pass a step.

    Args:
      loss: `(weights, alpha, batch, context) -> (scalar, Aux)`.
      init: `key -> (point, variables)`.
      tx: optimiser of the whole point.

    Returns:
      A learner over batches of the loss. Metrics: `loss`, those of the loss's `Aux`, `gradient_norm`.
    """

    def estimate(problem, point, batch, context, state, **extra) -> tuple[Point, State, Aux]:
        del problem, extra
        (value, aux), slopes = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
            point.weights, point.alpha, batch, context
        )
        metrics = {"loss": value, **aux.metrics, "gradient_norm": norm(slopes)}
        return Point(*slopes), state, Aux(aux.variables, metrics)

    return simultaneous(
        Bilevel(loss, loss), Estimator(lambda point: (), estimate), init, optax.with_extra_args_support(tx)
    )


def _changes(direction: Point, before: Point) -> Metrics:
    """`|D_k - D_{k-1}| / |D_k|` of each level, on one batch: the larger, the less noise can the recursion remove."""
    moved = optax.tree.sub(direction, before)
    share = lambda level: norm(getattr(moved, level)) * inverse(norm(getattr(direction, level)))
    return {f"{level}_change": share(level) for level in ("weights", "alpha")}


def _rows(batches: Batch | None, num: int) -> list[Batch]:
    found = sorted({leaf.shape[0] for leaf in jax.tree.leaves(batches)})
    if found != [num]:
        raise ValueError(f"alternating: batches.further has leading axes {found}; give {num} further batches.")
    return [jax.tree.map(lambda leaf, k=k: leaf[k], batches) for k in range(num)]


def _at(schedule: LearningRate, step: Array):
    return schedule(step) if callable(schedule) else schedule
