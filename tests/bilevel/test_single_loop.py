"""The linear system solved along with the search: what it converges to, what it follows, what it costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jnas import bilevel
from jnas.bilevel import testbeds
from jnas.types import Aux, Context

pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")

LABELS = bilevel.Point("weights", "alpha", "adjoint")


def relative(a, b):
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def still(bed, estimator, num_steps, scale=0.0, quiet_from=None):
    """Weights and alpha stand still, v takes full steps: the last direction, its metrics, and the largest |v|.

    From step `quiet_from` on, if it is given, batches have no noise.
    """
    w, a = jax.random.split(jax.random.key(2))
    size = bed.target.shape
    point = bilevel.Point(jax.random.normal(w, size), jax.random.normal(a, (5,)), jnp.zeros(size))

    @jax.jit
    def run(point):
        def step(carry, number):
            v, state = carry
            loud = scale if quiet_from is None else jnp.where(number < quiet_from, scale, 0.0)
            batches = bed.sample(jax.random.fold_in(jax.random.key(3), number), loud)
            now = point._replace(adjoint=v)
            direction, state, aux = estimator.estimate(bed.problem, now, batches, Context(), state)
            return (v - direction.adjoint, state), (direction.alpha, aux.metrics)

        return jax.lax.scan(step, (point.adjoint, estimator.init(point)), jnp.arange(num_steps))[1]

    alphas, metrics = run(point)
    return point, alphas[-1], metrics


@pytest.mark.parametrize("spectrum", [(0.5, 40.0), (-2.6, 39.0)], ids=["definite", "indefinite"])
def test_at_a_standing_point_it_converges_to_the_damped_hypergradient(spectrum):
    """From a damping below |lambda_min| on, too: the rule raises it before v has grown."""
    bed = testbeds.quadratic(jax.random.key(0), 30, spectrum=spectrum)
    dampings = jnp.array([0.0, 1.0, 4.0])
    # Without any noise v can stand still for good where <v, H v> falls to 0 from above: the step size falls with it.
    run = lambda damping: still(bed, bilevel.single_loop(damping=damping), 2500, 1e-6, quiet_from=500)
    point, alphas, metrics = jax.vmap(run)(dampings)
    point = jax.tree.map(lambda leaf: leaf[0], point)
    slope = float(jnp.linalg.norm(point.weights - bed.target))
    assert float(metrics["adjoint_norm"].max()) < 2 * slope / (0.5 if spectrum[0] > 0 else 1.0)
    assert float(metrics["adjoint_residual"][:, -1].max()) < 1e-9
    for damping, used, alpha in zip(dampings, metrics["damping"][:, -1], alphas, strict=True):
        assert used >= damping
        assert (used == damping) == (spectrum[0] > 0 or damping == 4.0)
        assert relative(alpha, bed.implicit(point, damping=used)) < 1e-9


def test_its_bound_is_that_of_the_largest_eigenvalue_and_no_quotient_of_v():
    """`|A v|^2 / <v, A v>` of a v that has lost its steep part is far below it: that step size stalls or diverges."""
    bed = testbeds.quadratic(jax.random.key(0), 30, spectrum=(0.5, 40.0))
    _, _, metrics = still(bed, bilevel.single_loop(damping=0.0), 400)
    seen = np.asarray(metrics["largest_eigenvalue"])
    assert 0.85 * 40 < seen[0] <= 40 + 1e-9
    assert seen[-1] > 0.97 * 40


def follow_curvatures(curvatures, damping):
    """The metrics of an inner loss whose curvature, in three directions, is that of the step's batch."""

    def inner(weights, alpha, batch, context):
        return 0.5 * jnp.sum(batch * weights**2) + alpha * jnp.sum(weights), Aux((), {})

    problem = bilevel.Bilevel(inner, lambda weights, *_: (jnp.sum(weights), Aux((), {})))
    estimator = bilevel.single_loop(damping=damping)

    def step(carry, curvature):
        v, state = carry
        point, batches = bilevel.Point(jnp.ones(3), jnp.zeros(()), v), bilevel.Batches(curvature, curvature)
        direction, state, aux = estimator.estimate(problem, point, batches, Context(), state)
        return (v - direction.adjoint, state), (v, aux.metrics)

    start = bilevel.Point(jnp.ones(3), jnp.zeros(()), jnp.zeros(3))
    return jax.lax.scan(step, (start.adjoint, estimator.init(start)), curvatures)[1]


def test_a_batch_of_great_curvature_is_forgotten_within_some_tens_of_steps():
    """Else v nearly stands still for hundreds of steps, in which a search decides: measured 75, and 5 afterwards."""
    curvatures = jnp.full((301, 1), 5.0).at[:20].set(75.0).at[50].set(-40.0)
    _, metrics = follow_curvatures(curvatures, 1.0)
    bound, delta = np.asarray(metrics["largest_eigenvalue"]), np.asarray(metrics["damping"])
    assert bound[0] == 75
    assert (bound >= 5).all()
    assert bound[200] < 10
    assert round(delta[50]) == 60
    assert delta[300] == 1.0


def test_a_batch_steeper_than_those_that_were_measured_does_not_throw_v_away():
    """One batch in ten is 80 times as steep as the others, in a direction of its own; in a search v reached 1,000."""
    rare = jax.random.uniform(jax.random.key(0), (3000, 3)) < 0.1
    vs, _ = follow_curvatures(jnp.where(rare, 40.0, 0.5), 1.0)
    assert float(jnp.abs(vs).max()) < 1.0
    # Between the solutions for the mean and for the frequent curvature: the steep batches move v less.
    assert 1 / (1 + 0.9 * 0.5 + 0.1 * 40) < float(vs[200:].mean()) < 0.6 / (1 + 0.5)


def test_the_identity_in_the_place_of_the_curvature_is_a_scaled_gradient():
    bed = testbeds.quadratic(jax.random.key(0))
    estimator = bilevel.single_loop(damping=2.0, curvature=bilevel.identity, largest=1.0)
    point, alpha, _ = still(bed, estimator, 3)
    expected = 0.1 * point.alpha + bed.coupling.T @ (point.weights - bed.target) / 3
    assert relative(alpha, expected) < 1e-14


def tracking(bed, estimator, first, coefficient, scale):
    """Mean relative error and cosine of the implicit part, along a search whose target drifts."""
    rates = {"weights": optax.sgd(0.02), "alpha": optax.sgd(0.0), "adjoint": optax.sgd(1.0)}
    labels = LABELS if coefficient.adjoint != () else LABELS._replace(adjoint=())
    tx = optax.chain(first(coefficient), optax.partition(rates, labels))

    def init(key):
        w, a = jax.random.split(key)
        return bilevel.Point(jax.random.normal(w, bed.target.shape), jax.random.normal(a, (5,))), ()

    start = init if coefficient.adjoint == () else bilevel.with_adjoint(init)
    learner = bilevel.simultaneous(bed.problem, estimator, start, tx)

    @jax.jit
    def run(key):
        def step(state, number):
            batches = bed.sample(jax.random.fold_in(key, number), scale)
            point = state.point
            state, _ = learner.update(state, batches, key)
            direction = state.optimiser[0]
            direction = getattr(direction, "average", getattr(direction, "direction", None)).alpha
            return state, (direction - 0.1 * point.alpha, bed.implicit(point, number, 3.0) - 0.1 * point.alpha)

        return jax.lax.scan(step, learner.init(key), jnp.arange(600))[1]

    found, exact = (np.asarray(part)[200:] for part in run(jax.random.key(5)))
    norms = np.linalg.norm(exact, axis=1)
    errors = np.linalg.norm(found - exact, axis=1) / norms
    return errors.mean(), ((found * exact).sum(1) / norms / np.linalg.norm(found, axis=1)).mean()


def test_on_a_drifting_noisy_quadratic_it_follows_better_than_the_truncated_series_at_equal_cost():
    """4 gradient units a step against 10, so the series gets batches of 2.5 times the size."""
    bed = testbeds.quadratic(jax.random.key(0), 20, spectrum=(0.5, 20.0), drift=0.05)
    loop, series = bilevel.single_loop(damping=3.0), bilevel.implicit(bilevel.neumann(2, damping=3.0))
    follow = functools.partial(tracking, bed)
    for decay in (1.0, 0.1):  # without a momentum on the hypergradient, and with
        truncated = follow(series, bilevel.moving_average, bilevel.Point(1.0, decay), 2.0 / 2.5**0.5)
        continued = follow(loop, bilevel.moving_average, bilevel.Point(1.0, decay, 1.0), 2.0)
        assert continued[0] < {1.0: 0.95, 0.1: 0.4}[decay] * truncated[0]
        assert continued[1] > truncated[1]
    recursive = follow(loop, bilevel.storm, bilevel.Point(1.0, 0.2, 0.5), 2.0)  # 8 units, and still below it
    assert recursive[0] < 0.5 * truncated[0]


@pytest.mark.parametrize("first", [bilevel.moving_average, bilevel.storm])
def test_a_step_evaluates_each_loss_once_a_point_and_the_power_iteration_now_and_then(first):
    """Counted when it runs: one pass of the inner loss a point, 8 more before the first step and 1 every 16 steps."""
    bed, calls = testbeds.quadratic(jax.random.key(0)), []

    def noted(name, loss):
        def counted(*args):
            jax.debug.callback(lambda: calls.append(name))
            return loss(*args)

        return counted

    problem = bilevel.Bilevel(noted("inner", bed.problem.inner), noted("outer", bed.problem.outer))
    tx = optax.chain(first(0.5), optax.partition(dict.fromkeys(LABELS, optax.sgd(0.01)), LABELS))
    start = bilevel.with_adjoint(lambda key: (bilevel.Point(jnp.ones(12), jnp.ones(5)), ()))
    learner = bilevel.simultaneous(problem, bilevel.single_loop(), start, tx)
    state, update = learner.init(jax.random.key(0)), jax.jit(learner.update)
    points = 1 if first is bilevel.moving_average else 2
    for step in range(18):
        calls.clear()
        state, _ = update(state, bed.sample(jax.random.key(step), 0.1), jax.random.key(1))
        jax.effects_barrier()
        assert calls.count("outer") == points, step
        assert calls.count("inner") == points + {0: 8, 16: 1}.get(step, 0), step


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: bilevel.single_loop(damping=-1.0), "single_loop: damping is -1.0; give 0 or more"),
        (lambda: bilevel.single_loop(largest=0.0), "single_loop: largest is 0.0; give a positive bound"),
        (
            lambda: bilevel.single_loop().init(bilevel.Point(jnp.ones(2), jnp.ones(1))),
            "the point has no adjoint of the weights' structure; begin by with_adjoint",
        ),
    ],
)
def test_a_bad_argument_is_one_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()
