"""Recursive momentum: exactness, the negative control, variance, and the double recursion against NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jnas import bilevel
from jnas.bilevel import testbeds

pytestmark = pytest.mark.usefixtures("x64")


def trajectory(tx, gradient, x, num_steps):
    """Yields (x, direction) where `tx` is followed by plain descent of step 0.1 and `gradient(x, k)` is of sample k."""

    @jax.jit
    def step(x, state, k):
        of_sample = lambda y: gradient(y, k)
        direction, state = tx.update(of_sample(x), state, x, grad_fn=of_sample)
        return x - 0.1 * direction, state, direction

    state = optax.with_extra_args_support(tx).init(x)
    tx = optax.with_extra_args_support(tx)
    for k in range(num_steps):
        following, state, direction = step(x, state, k)
        yield x, direction
        x = following


def stored_storm(decay):
    """The public bug: the gradient that was stored in place of the one recomputed at the previous point."""

    def update(updates, state, params=None, *, grad_fn, **extra):
        count, stored, direction = state
        new = jax.tree.map(
            lambda g, s, d: jnp.where(count == 0, g, g + (1 - decay) * (d - s)), updates, stored, direction
        )
        return new, (count + 1, updates, new)

    init = lambda params: (jnp.zeros((), jnp.int32), *2 * (jax.tree.map(jnp.zeros_like, params),))
    return optax.GradientTransformationExtraArgs(init, update)


def convex(x, k):
    return jax.grad(lambda y: jnp.sum(jnp.cosh(y)) + 0.5 * y @ y)(x)


def noisy(x, k):
    """The noise depends on the sample AND smoothly on x, as that of mini-batches does."""
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(7), k), (2, *x.shape))
    return convex(x, k) + 3.0 * noise[0] * (1 + 0.1 * x) + noise[1] * 0.1


START = np.array([1.0, -0.5, 0.3])


def test_without_noise_the_direction_is_the_gradient():
    for x, direction in trajectory(bilevel.storm(0.05), convex, jnp.asarray(START), 40):
        np.testing.assert_allclose(direction, convex(x, 0), rtol=1e-12, atol=1e-13)


def test_coefficient_one_is_the_plain_method_bit_for_bit():
    plain = trajectory(optax.identity(), noisy, jnp.asarray(START), 30)
    for tx in (bilevel.storm(1.0), bilevel.moving_average(1.0)):
        for (x, g), (y, d) in zip(plain, trajectory(tx, noisy, jnp.asarray(START), 30), strict=False):
            assert x.tobytes() == y.tobytes()
            assert g.tobytes() == d.tobytes()


def test_negative_zero_survives_coefficient_one():
    tx = bilevel.storm(1.0)
    state = tx.init(jnp.ones(1))
    for _ in range(2):
        direction, state = tx.update(jnp.array([-0.0]), state, jnp.ones(1), grad_fn=lambda x: x)
        assert np.signbit(np.asarray(direction))[0]


def test_the_stored_gradient_is_no_momentum_at_all():
    stored = trajectory(stored_storm(0.1), noisy, jnp.asarray(START), 50)
    plain = trajectory(optax.identity(), noisy, jnp.asarray(START), 50)
    recursive = trajectory(bilevel.storm(0.1), noisy, jnp.asarray(START), 50)
    far = 0.0
    for (_, a), (_, b), (_, c) in zip(stored, plain, recursive, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
        far = max(far, float(jnp.abs(c - b).max()))
    assert far > 1.0


def test_each_group_has_its_own_coefficient():
    params = bilevel.Point(weights={"w": jnp.ones(2)}, alpha=jnp.ones(3))
    tx = bilevel.storm(bilevel.Point(weights=1.0, alpha=lambda k: 0.25))
    state = tx.init(params)
    ones = jax.tree.map(jnp.ones_like, params)
    _, state = tx.update(ones, state, params, grad_fn=lambda p: ones)
    two, four = (jax.tree.map(lambda x, f=f: f * x, ones) for f in (2.0, 4.0))
    direction, _ = tx.update(four, state, params, grad_fn=lambda p: two)
    np.testing.assert_array_equal(direction.weights["w"], 4.0 * np.ones(2))
    np.testing.assert_array_equal(direction.alpha, (4.0 + 0.75 * (1.0 - 2.0)) * np.ones(3))


def test_moving_average_is_the_first_form():
    gradients = jax.random.normal(jax.random.key(0), (6, 3))
    tx, expected = bilevel.moving_average(0.3), gradients[0]
    state = tx.init(gradients[0])
    for k, gradient in enumerate(gradients):
        expected = gradient if k == 0 else 0.7 * expected + 0.3 * gradient
        direction, state = tx.update(gradient, state)
        np.testing.assert_allclose(direction, expected, rtol=1e-14)


def test_coefficients_decrease_at_every_iteration_down_to_the_floor():
    values = np.asarray(jax.vmap(bilevel.decaying(0.9, offset=100, floor=0.1))(jnp.arange(5000)))
    above = values > 0.1
    assert values[0] == pytest.approx(0.9)
    assert (np.diff(values[above]) < 0).all()
    assert values[-1] == pytest.approx(0.1)


def double_recursion(bed, estimator, steps, batches_at, num_steps, decay):
    """Runs `simultaneous`; returns the points and the directions, stacked over steps."""
    tx = optax.chain(
        bilevel.storm(decay) if decay is not None else optax.identity(),
        optax.partition(
            {"weights": optax.sgd(steps.weights), "alpha": optax.sgd(steps.alpha)}, bilevel.Point("weights", "alpha")
        ),
    )
    init = lambda key: (bilevel.Point(jnp.zeros_like(bed.target), jnp.ones(bed.coupling.shape[1])), ())
    learner = bilevel.simultaneous(bed.problem, estimator, init, tx)

    def body(state, k):
        new, _ = learner.update(state, batches_at(k), jax.random.key(0))
        direction = new.optimiser[0].direction if decay is not None else None
        return new, (state.point, direction)

    return jax.jit(lambda: jax.lax.scan(body, learner.init(jax.random.key(0)), jnp.arange(num_steps))[1])()


def test_simultaneous_equals_mrbo_written_in_numpy():
    bed = testbeds.quadratic(jax.random.key(0))
    eta, q, gamma, lam, num_steps = 0.5, 3, 0.02, 0.05, 60
    c, d = bilevel.decaying(0.9, offset=5), bilevel.decaying(0.8, offset=9)
    batches_at = lambda k: bed.sample(jax.random.fold_in(jax.random.key(3), k), 0.5)
    points, _ = double_recursion(
        bed,
        bilevel.implicit(bilevel.neumann(q, step_size=eta)),
        bilevel.Point(optax.constant_schedule(lam), optax.constant_schedule(gamma)),
        batches_at,
        num_steps,
        bilevel.Point(weights=d, alpha=c),
    )
    H, B, t = (np.asarray(x) for x in (bed.hessian, bed.coupling, bed.target))

    def gradients(w, a, noise):
        Hn = H + noise.inner.hessian
        v = w - t + noise.outer.weights
        p = eta * v
        for _ in range(q):
            v = v - eta * Hn @ v
            p = p + eta * v
        return Hn @ w - B @ a + noise.inner.weights, 0.1 * a + noise.outer.alpha + B.T @ p

    w, a = np.zeros(12), np.ones(5)
    w_old = a_old = u = v = None
    for k in range(num_steps):
        np.testing.assert_allclose(points.weights[k], w, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(points.alpha[k], a, rtol=1e-10, atol=1e-12)
        noise = jax.tree.map(np.asarray, batches_at(k))
        g_w, g_a = gradients(w, a, noise)
        if k:
            old_w, old_a = gradients(w_old, a_old, noise)
            u, v = g_w + (1 - float(d(k))) * (u - old_w), g_a + (1 - float(c(k))) * (v - old_a)
        else:
            u, v = g_w, g_a
        w_old, a_old = w, a
        w, a = w - lam * u, a - gamma * v


def test_recursive_momentum_lowers_the_error_of_the_hypergradient():
    bed = testbeds.quadratic(jax.random.key(0), num_weights=20)
    estimator = bilevel.implicit(bilevel.neumann(20, step_size=0.5))
    rates = bilevel.Point(optax.constant_schedule(0.02), optax.constant_schedule(0.002))
    errors = {}
    for name, decay in (("plain", 1.0), ("storm", 0.1)):

        @jax.jit
        def late_error(key, decay=decay):
            batches_at = lambda k: bed.sample(jax.random.fold_in(key, k), 1.0)
            points, directions = double_recursion(bed, estimator, rates, batches_at, 1000, decay)
            exact = jax.vmap(lambda w, a: bed.implicit(bilevel.Point(w, a)))(points.weights, points.alpha)
            return jnp.linalg.norm(directions.alpha - exact, axis=1)[-500:].mean()

        errors[name] = np.mean([late_error(jax.random.key(100 + seed)) for seed in range(2)])
    assert errors["storm"] < 0.6 * errors["plain"], errors


@pytest.mark.parametrize(
    "make", [lambda: bilevel.storm(0.0), lambda: bilevel.moving_average(1.5), lambda: bilevel.storm((0.5, 2.0))]
)
def test_a_coefficient_out_of_range_is_one_sentence(make):
    with pytest.raises(ValueError, match=r"give a coefficient in \(0, 1\]"):
        make()


def test_bad_schedules_are_one_sentence():
    with pytest.raises(ValueError, match="floor=2"):
        bilevel.decaying(0.9, floor=2)


class VariantsTest(chex.TestCase):
    """The recursion as it is called: by hand, compiled, and mapped over runs."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_a_step_of_the_recursion_is_its_formula(self):
        tx = bilevel.storm(0.25)
        gradient = lambda x, batch: 2.0 * x - batch
        first, second = jnp.array([1.0, -2.0]), jnp.array([0.5, -1.0])

        @self.variant
        def two_steps(x, y):
            d, state = tx.update(gradient(x, 3.0), tx.init(x), x, grad_fn=lambda p: gradient(p, 3.0))
            e, _ = tx.update(gradient(y, 5.0), state, y, grad_fn=lambda p: gradient(p, 5.0))
            return d, e

        d, e = two_steps(first, second)
        np.testing.assert_allclose(d, 2 * first - 3, rtol=1e-6)
        np.testing.assert_allclose(e, (2 * second - 5) + 0.75 * ((2 * first - 3) - (2 * first - 5)), rtol=1e-6)
