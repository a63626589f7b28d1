"""Learners: one table of implementations, one list of invariants; then what sets each apart."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jnas import bilevel
from jnas.bilevel import testbeds
from jnas.types import Context

pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")

LABELS = bilevel.Point("weights", "alpha")


def chain(*first):
    return optax.chain(*first, optax.partition({"weights": optax.sgd(0.1), "alpha": optax.adam(0.02)}, LABELS))


def bed():
    return testbeds.quadratic(jax.random.key(0))


def init(key):
    w, a = jax.random.split(key)
    return bilevel.Point(jax.random.normal(w, (12,)), jax.random.normal(a, (5,))), ()


ESTIMATORS = {
    "first order": bilevel.first_order(),
    "finite difference": bilevel.finite_difference(),
    "unrolled": bilevel.unrolled(2),
    "neumann": bilevel.implicit(bilevel.neumann(2)),
    "conjugate gradient": bilevel.implicit(bilevel.conjugate_gradient(12)),
}


@functools.cache
def table():
    return dict(learners())


def learners():
    problem = bed().problem
    for name, estimator in ESTIMATORS.items():
        yield (
            f"alternating, {name}",
            bilevel.alternating(
                problem, estimator, init, optax.sgd(0.1, momentum=0.9), optax.adam(0.02), learning_rate=0.1
            ),
        )
        yield (
            f"simultaneous storm, {name}",
            bilevel.simultaneous(
                problem, estimator, init, chain(bilevel.storm(0.3)), learning_rate=optax.constant_schedule(0.1)
            ),
        )
    yield (
        "simultaneous average",
        bilevel.simultaneous(problem, ESTIMATORS["neumann"], init, chain(bilevel.moving_average(0.3))),
    )
    yield (
        "supervised",
        bilevel.supervised(
            lambda w, a, batches, context: problem.inner(w, a, batches.inner, context), init, chain(bilevel.storm(0.3))
        ),
    )


NAMES = [f"{learner}, {name}" for learner in ("alternating", "simultaneous storm") for name in ESTIMATORS]
NAMES += ["simultaneous average", "supervised"]


@pytest.mark.parametrize("name", NAMES)
def test_invariants(name):
    learner = table()[name]
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(learner.update, n=1))  # the second call does not recompile
    state = first = learner.init(jax.random.key(0))
    sample = bed().sample
    batch = sample(jax.random.key(1), 0.1)
    state, metrics = update(state, batch, jax.random.key(2))
    again, _ = update(first, batch, jax.random.key(2))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True))
    assert jax.tree.structure(state) == jax.tree.structure(first)
    assert [x.dtype for x in jax.tree.leaves(state)] == [x.dtype for x in jax.tree.leaves(first)]
    assert all(value.shape == () and np.isfinite(float(value)) for value in metrics.values())
    assert int(state.step) == 1
    state, _ = update(state, sample(jax.random.key(5), 0.1), jax.random.key(3))
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.point, first.point)
    assert all(value > 0 for value in jax.tree.leaves(moved))
    mapped = jax.vmap(learner.init)(jax.random.split(jax.random.key(0), 2))
    out, _ = jax.vmap(learner.update, in_axes=(0, None, None))(mapped, batch, jax.random.key(2))
    assert out.point.weights.shape == (2, 12)


@pytest.mark.parametrize("solver", [bilevel.conjugate_gradient(12), bilevel.neumann(60)])
@pytest.mark.parametrize("together", [False, True])
def test_without_noise_an_exact_hypergradient_leads_to_the_solution(solver, together):
    quadratic = bed()
    problem, estimator = quadratic.problem, bilevel.implicit(solver)
    if together:
        rates = {"weights": optax.sgd(0.3), "alpha": optax.sgd(0.003)}
        tx = optax.chain(bilevel.storm(bilevel.decaying(0.9)), optax.partition(rates, LABELS))
        learner = bilevel.simultaneous(problem, estimator, init, tx)
    else:
        learner = bilevel.alternating(problem, estimator, init, optax.sgd(0.3), optax.sgd(0.003))
    batch = quadratic.sample(jax.random.key(1), 0.0)
    body = lambda state, k: (learner.update(state, batch, jax.random.fold_in(jax.random.key(2), k))[0], None)
    state = jax.jit(lambda s: jax.lax.scan(body, s, jnp.arange(6000))[0])(learner.init(jax.random.key(0)))
    response = jnp.linalg.solve(quadratic.hessian, quadratic.coupling)
    best = jnp.linalg.solve(response.T @ response + 0.1 * jnp.eye(5), response.T @ quadratic.target)
    assert float(jnp.linalg.norm(state.point.alpha - best) / jnp.linalg.norm(best)) < 1e-3


def test_alternating_moves_alpha_first_and_then_the_weights_at_the_new_alpha():
    quadratic = bed()
    learner = bilevel.alternating(quadratic.problem, bilevel.first_order(), init, optax.sgd(0.1), optax.sgd(0.2))
    state = learner.init(jax.random.key(0))
    batch = quadratic.sample(jax.random.key(1), 0.0)
    new, _ = learner.update(state, batch, jax.random.key(2))
    alpha = state.point.alpha - 0.2 * 0.1 * state.point.alpha
    weights = state.point.weights - 0.1 * (quadratic.hessian @ state.point.weights - quadratic.coupling @ alpha)
    np.testing.assert_allclose(new.point.alpha, alpha, rtol=1e-12)
    np.testing.assert_allclose(new.point.weights, weights, rtol=1e-12)


def test_simultaneous_moves_both_from_the_same_iterate():
    quadratic = bed()
    tx = optax.chain(bilevel.storm(0.5), optax.partition({"weights": optax.sgd(0.1), "alpha": optax.sgd(0.2)}, LABELS))
    learner = bilevel.simultaneous(quadratic.problem, bilevel.first_order(), init, tx)
    state = learner.init(jax.random.key(0))
    new, _ = learner.update(state, quadratic.sample(jax.random.key(1), 0.0), jax.random.key(2))
    gradient = quadratic.hessian @ state.point.weights - quadratic.coupling @ state.point.alpha
    np.testing.assert_allclose(new.point.weights, state.point.weights - 0.1 * gradient, rtol=1e-12)
    np.testing.assert_allclose(new.point.alpha, state.point.alpha * (1 - 0.2 * 0.1), rtol=1e-12)


def test_several_inner_steps_use_their_batches_in_order():
    quadratic = bed()
    learner = bilevel.alternating(
        quadratic.problem, bilevel.first_order(), init, optax.sgd(0.1), optax.sgd(0.0), inner_steps=3
    )
    samples = [quadratic.sample(jax.random.key(k), 0.5) for k in range(3)]
    stacked = samples[0]._replace(further=jax.tree.map(lambda *x: jnp.stack(x), *[s.inner for s in samples[1:]]))
    state = learner.init(jax.random.key(0))
    new, _ = learner.update(state, stacked, jax.random.key(2))
    w = state.point.weights
    for sample in samples:
        w = w - 0.1 * jax.grad(quadratic.problem.inner, has_aux=True)(w, state.point.alpha, sample.inner, Context())[0]
    np.testing.assert_allclose(new.point.weights, w, rtol=1e-12)
    with pytest.raises(ValueError, match=r"batches.further has leading axes \[\]; give 2 further batches"):
        learner.update(state, samples[0], jax.random.key(2))
    with pytest.raises(ValueError, match="inner_steps is 0"):
        bilevel.alternating(
            quadratic.problem, bilevel.first_order(), init, optax.sgd(0.1), optax.sgd(0.1), inner_steps=0
        )


def test_storm_sees_the_batch_and_the_key_of_this_step_at_both_points():
    """The inner loss depends on the key: were the two keys different, the noise-free recursion would not be exact."""

    def inner(w, a, batch, context):
        mask = jax.random.bernoulli(context.key, 0.5, w.shape)
        return jnp.sum(jnp.where(mask, (w - batch) ** 2, 0.0)) + jnp.sum(a * w), bilevel.Aux(context.variables + 1)

    def outer(w, a, batch, context):
        return jnp.sum(w**2) + jnp.sum(a**2), bilevel.Aux()

    start = lambda key: (bilevel.Point(jnp.ones(4), jnp.ones(4)), jnp.zeros(()))
    tx = optax.chain(bilevel.storm(1e-6), optax.partition({"weights": optax.sgd(0.1), "alpha": optax.sgd(0.1)}, LABELS))
    learner = bilevel.simultaneous(bilevel.Bilevel(inner, outer), bilevel.first_order(), start, tx)
    state, before = learner.init(jax.random.key(0)), None
    for k in range(5):
        key = jax.random.fold_in(jax.random.key(1), k)
        old, state = state, learner.update(state, bilevel.Batches(jnp.asarray(0.5 * k), ()), key)[0]
        slope = lambda p, k=k, key=key: jax.grad(inner, has_aux=True)(
            p.weights, p.alpha, 0.5 * k, Context(jnp.zeros(()), key)
        )[0]
        if before is not None:
            expected = slope(old.point) + (1 - 1e-6) * (before.direction.weights - slope(before.previous))
            np.testing.assert_allclose(state.optimiser[0].direction.weights, expected, rtol=1e-9, atol=1e-9)
        before = state.optimiser[0]
    assert float(state.variables) == 5.0  # running statistics are taken once a step, from the current point


@pytest.mark.parametrize("unroll", [False, True])
def test_the_two_points_of_the_recursion_share_one_estimate(unroll):
    quadratic, calls = bed(), []
    inside = bilevel.implicit(bilevel.neumann(2, unroll=unroll))

    def counted(*args, **extra):
        calls.append(1)
        return inside.estimate(*args, **extra)

    tx = optax.chain(bilevel.storm(0.3), optax.partition({"weights": optax.sgd(0.1), "alpha": optax.sgd(0.1)}, LABELS))
    learner = bilevel.simultaneous(quadratic.problem, bilevel.Estimator(inside.init, counted), init, tx, unroll=unroll)
    state = learner.init(jax.random.key(0))
    plain = bilevel.simultaneous(quadratic.problem, bilevel.implicit(bilevel.neumann(2)), init, tx)
    batch = quadratic.sample(jax.random.key(1), 0.1)
    new, _ = jax.jit(learner.update)(state, batch, jax.random.key(2))
    assert len(calls) == 1
    expected, _ = plain.update(state, batch, jax.random.key(2))
    for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_one_level_search_equals_two_optimisers_side_by_side():
    quadratic = bed()
    loss = lambda w, a, batch, context: quadratic.problem.inner(w, a, batch.inner, context)
    weight_tx, alpha_tx = optax.sgd(0.1, momentum=0.9), optax.adam(0.02)
    learner = bilevel.supervised(loss, init, optax.partition({"weights": weight_tx, "alpha": alpha_tx}, LABELS))
    state = learner.init(jax.random.key(0))
    (w, a, _), w_state, a_state = state.point, weight_tx.init(state.point.weights), alpha_tx.init(state.point.alpha)
    for k in range(20):
        batch = quadratic.sample(jax.random.key(k), 0.3)
        state, _ = learner.update(state, batch, jax.random.key(0))
        g_w, g_a = jax.grad(lambda w, a, batch=batch: loss(w, a, batch, Context())[0], argnums=(0, 1))(w, a)
        u_w, w_state = weight_tx.update(g_w, w_state, w)
        u_a, a_state = alpha_tx.update(g_a, a_state, a)
        w, a = w + u_w, a + u_a
        np.testing.assert_allclose(state.point.weights, w, rtol=1e-12)
        np.testing.assert_allclose(state.point.alpha, a, rtol=1e-12)


def test_first_order_alternation_costs_two_gradients():
    """The estimator's own inner gradient, at the old alpha, serves nothing: the compiled step must not hold it."""

    def loss(weights, alpha, batch, context):
        return jnp.sum((jnp.tanh(batch @ weights) @ alpha) ** 2), bilevel.Aux()

    start = lambda key: (bilevel.Point(jnp.ones((64, 64)), jnp.ones((64,))), ())
    batch = jnp.ones((32, 64))

    def flops(function, *arguments):
        return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]

    tx = optax.sgd(0.1)
    learner = bilevel.alternating(bilevel.Bilevel(loss, loss), bilevel.first_order(), start, tx, tx)
    state = learner.init(jax.random.key(0))
    step = flops(learner.update, state, bilevel.Batches(batch, batch), jax.random.key(1))
    inner = flops(lambda w, a, b: jax.grad(loss, has_aux=True)(w, a, b, None), *state.point[:2], batch)
    outer = flops(lambda w, a, b: jax.grad(loss, argnums=1, has_aux=True)(w, a, b, None), *state.point[:2], batch)
    assert step < 1.2 * (inner + outer)


@pytest.mark.parametrize("first", [True, False], ids=["first in the chain", "behind another link"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_recursion_costs_two_estimates_a_step_wherever_it_stands(first, wrapped):
    """Counted as they run. Points are told apart by position: an equal copy of the previous point changes nothing."""
    quadratic, calls = bed(), []
    inside = bilevel.first_order()

    def counted(problem, point, batches, context, state, **extra):
        jax.debug.callback(lambda: calls.append(1))
        return inside.estimate(problem, point, batches, context, state, **extra)

    storm = bilevel.storm(0.3)

    def copied(updates, state, params=None, *, grad_fn, **extra):
        asked = lambda point: grad_fn(jax.tree.map(lambda leaf: leaf + 0, point))
        return storm.update(updates, state, params, grad_fn=asked, **extra)

    link = optax.GradientTransformationExtraArgs(storm.init, copied) if wrapped else storm
    sgd = optax.partition({"weights": optax.sgd(0.1), "alpha": optax.sgd(0.1)}, LABELS)
    tx = optax.chain(link, sgd) if first else optax.chain(optax.scale(1.0), link, sgd)
    learner = bilevel.simultaneous(quadratic.problem, bilevel.Estimator(inside.init, counted), init, tx)
    plain = bilevel.simultaneous(quadratic.problem, inside, init, optax.chain(storm, sgd))
    state = expected = learner.init(jax.random.key(0))
    for step in range(3):
        batch = quadratic.sample(jax.random.key(step), 0.1)
        state, _ = jax.jit(learner.update)(state, batch, jax.random.key(9))
        expected, _ = plain.update(expected if step else plain.init(jax.random.key(0)), batch, jax.random.key(9))
    jax.block_until_ready(state)
    jax.effects_barrier()
    assert len(calls) == 2 * 3
    chex.assert_trees_all_close(state.point, expected.point, rtol=1e-12)


def test_a_later_link_asks_at_a_point_of_its_own():
    """`storm` first and behind it a link that looks at the gradient elsewhere: each gets the answer to its question."""
    quadratic, asked = bed(), []

    def update(updates, state, params=None, *, grad_fn, **extra):
        elsewhere = jax.tree.map(lambda leaf: leaf + 1.0, params)
        asked.append((elsewhere, grad_fn(elsewhere)))
        return updates, state

    looking = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    learner = bilevel.simultaneous(quadratic.problem, bilevel.first_order(), init, chain(bilevel.storm(0.3), looking))
    batch = quadratic.sample(jax.random.key(1), 0.1)
    learner.update(learner.init(jax.random.key(0)), batch, jax.random.key(2))
    ((point, answer),) = asked
    expected, _, _ = bilevel.first_order().estimate(quadratic.problem, point, batch, Context(), ())
    chex.assert_trees_all_close(answer, expected, rtol=1e-12)


def test_an_adjoint_moves_with_the_point_and_is_part_of_the_recursion():
    """Three variables in one chain, against the same recursion in NumPy."""
    quadratic, rates = bed(), {"weights": 0.1, "alpha": 0.02, "adjoint": 1.0}
    start = bilevel.with_adjoint(init)
    labels, decay = bilevel.Point("weights", "alpha", "adjoint"), bilevel.Point(0.4, 0.5, 0.6)
    tx = optax.chain(bilevel.storm(decay), optax.partition({k: optax.sgd(v) for k, v in rates.items()}, labels))
    learner = bilevel.simultaneous(quadratic.problem, bilevel.single_loop(damping=0.7, largest=2.0), start, tx)
    state, update = learner.init(jax.random.key(0)), jax.jit(learner.update)
    point = before = [np.asarray(leaf) for leaf in state.point]
    hessian, coupling = np.asarray(quadratic.hessian), np.asarray(quadratic.coupling)
    d = None

    def direction(point, inner, outer):
        (w, a, v), h = point, hessian + inner.hessian
        slope = w - np.asarray(quadratic.target) + outer.weights
        return [
            h @ w - coupling @ a + inner.weights,
            0.1 * a + outer.alpha + coupling.T @ v,
            (h @ v + 0.7 * v - slope) / 2.7,
        ]

    for step in range(5):
        sample = quadratic.sample(jax.random.key(step), 0.3)
        state, _ = update(state, sample, jax.random.key(9))
        inner, outer = jax.tree.map(np.asarray, (sample.inner, sample.outer))
        now = direction(point, inner, outer)
        if d is not None:
            old = direction(before, inner, outer)
            now = [g + (1 - c) * (m - o) for g, c, m, o in zip(now, decay, d, old, strict=True)]
        d, before = now, point
        point = [x - rate * g for x, rate, g in zip(point, rates.values(), d, strict=True)]
        for a, b in zip(state.point, point, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_alternating_moves_an_adjoint_once_for_several_weight_steps():
    """Moving averages on both levels, alpha and v in one chain, two weight steps at the new alpha: against NumPy."""
    quadratic, upper = bed(), bilevel.Point((), "alpha", "adjoint")
    steps = {"alpha": optax.sgd(0.02), "adjoint": optax.sgd(0.9)}
    learner = bilevel.alternating(
        quadratic.problem,
        bilevel.single_loop(damping=0.7, largest=2.0),
        bilevel.with_adjoint(init),
        optax.chain(bilevel.moving_average(0.4), optax.sgd(0.1)),
        optax.chain(bilevel.moving_average(bilevel.Point((), 0.5, 0.6)), optax.partition(steps, upper)),
        inner_steps=2,
    )
    state, update = learner.init(jax.random.key(0)), jax.jit(learner.update)
    w, a, v = (np.asarray(leaf) for leaf in state.point)
    hessian, coupling = np.asarray(quadratic.hessian), np.asarray(quadratic.coupling)
    averages = {}

    def averaged(name, share, gradient):
        averages[name] = (1 - share) * averages.get(name, gradient) + share * gradient
        return averages[name]

    for step in range(4):
        samples = [quadratic.sample(jax.random.key(10 * step + k), 0.3) for k in range(2)]
        batches = samples[0]._replace(further=jax.tree.map(lambda x: x[None], samples[1].inner))
        state, _ = update(state, batches, jax.random.key(9))
        first, second, outer = jax.tree.map(np.asarray, (samples[0].inner, samples[1].inner, samples[0].outer))
        slope = w - np.asarray(quadratic.target) + outer.weights
        of_alpha = averaged("a", 0.5, 0.1 * a + outer.alpha + coupling.T @ v)
        v = v - 0.9 * averaged("v", 0.6, ((hessian + first.hessian) @ v + 0.7 * v - slope) / 2.7)
        a = a - 0.02 * of_alpha
        for inner in (first, second):
            w = w - 0.1 * averaged("w", 0.4, (hessian + inner.hessian) @ w - coupling @ a + inner.weights)
        for found, expected in zip(state.point, (w, a, v), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_a_direction_of_another_layout_is_refused():
    estimator = bilevel.Estimator(
        lambda point: (), lambda p, point, b, c, s, **e: (point._replace(alpha=jnp.ones(3)), s, bilevel.Aux())
    )
    learner = bilevel.simultaneous(bed().problem, estimator, init, chain())
    with pytest.raises(ValueError, match="the direction is not of the point's structure"):
        learner.update(learner.init(jax.random.key(0)), bed().sample(jax.random.key(1), 0.1), jax.random.key(2))


@pytest.mark.parametrize("scheme", ["simultaneous", "alternating", "supervised"])
def test_losses_know_the_step_at_every_point(scheme):
    """A loss that follows a schedule: with the recursion both points, and every weight step, are of this step."""
    loss = lambda w, a, batch, context: (jnp.sum(w**2 + a**2) * (1.0 + context.step), bilevel.Aux())
    start = lambda key: (bilevel.Point(jnp.ones(3), jnp.ones(3)), ())
    problem, sgd = bilevel.Bilevel(loss, loss), optax.sgd(0.01)
    tx = optax.chain(bilevel.storm(0.3), sgd)
    if scheme == "simultaneous":
        learner = bilevel.simultaneous(problem, bilevel.first_order(), start, tx)
    elif scheme == "alternating":
        learner = bilevel.alternating(problem, bilevel.first_order(), start, tx, sgd)
    else:
        learner = bilevel.supervised(loss, start, tx)
    state, w, before, d = learner.init(jax.random.key(0)), 1.0, 1.0, 0.0
    for step in range(4):  # on one batch the recursion with the right steps at both points leads to
        state, _ = learner.update(state, bilevel.Batches((), ()), jax.random.key(0))
        slope = 2 * w * (1 + step)
        d = slope if step == 0 else slope + 0.7 * (d - 2 * before * (1 + step))
        before, w = w, w - 0.01 * d
        np.testing.assert_allclose(state.point.weights, w, rtol=1e-12)
