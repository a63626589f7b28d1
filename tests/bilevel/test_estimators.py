"""Estimators and solvers against closed forms."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas import bilevel
from jnas.bilevel import testbeds
from jnas.types import Aux, Batches, Context

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture
def bed():
    return testbeds.quadratic(jax.random.key(0))


def at(bed, seed=1):
    w, a = jax.random.split(jax.random.key(seed))
    return bilevel.Point(jax.random.normal(w, bed.target.shape), jax.random.normal(a, bed.coupling.shape[1:]))


def estimate(estimator, bed, point, batches=None, **extra):
    batches = bed.sample(jax.random.key(9), 0.0) if batches is None else batches
    run = jax.jit(lambda p: estimator.estimate(bed.problem, p, batches, Context(), estimator.init(p), **extra))
    direction, _, aux = run(point)
    return direction, aux.metrics


def plain(bed):
    """The product with the Hessian, which yields nothing else."""
    return lambda u, _: (bed.hessian @ u, ())


def relative(a, b):
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


@pytest.mark.parametrize(
    "solver", [bilevel.conjugate_gradient(40), bilevel.neumann(400, step_size=0.5), bilevel.neumann(400)]
)
def test_implicit_matches_the_closed_form(bed, solver):
    point = at(bed)
    direction, metrics = estimate(bilevel.implicit(solver), bed, point)
    assert relative(direction.alpha, bed.implicit(point)) < 1e-10
    assert relative(direction.weights, bed.hessian @ point.weights - bed.coupling @ point.alpha) < 1e-13
    assert float(metrics["inverse_residual"]) < 1e-10


def test_neumann_is_the_truncated_series(bed):
    eta, v = 0.5, jax.random.normal(jax.random.key(3), bed.target.shape)
    rest = jnp.eye(12) - eta * bed.hessian
    for q in [0, 1, 2, 3, 5, 8, 20, 40, 80]:
        solver = bilevel.neumann(q, step_size=eta)
        p = jax.jit(lambda v, solver=solver: solver.solve(plain(bed), v, None, ()).p)(v)
        closed = jnp.linalg.solve(bed.hessian, v - jnp.linalg.matrix_power(rest, q + 1) @ v)
        assert relative(p, closed) < 1e-12, q


def test_unrolling_the_scan_changes_nothing(bed):
    point = at(bed)
    looped, _ = estimate(bilevel.implicit(bilevel.neumann(5, step_size=0.5)), bed, point)
    unrolled, _ = estimate(bilevel.implicit(bilevel.neumann(5, step_size=0.5, unroll=True)), bed, point)
    assert relative(looped.alpha, unrolled.alpha) < 1e-14


def test_truncation_error_falls_as_the_spectrum_says(bed):
    point, eta = at(bed), 0.5
    errors = {}
    for q in (1, 5, 20, 80):
        direction, metrics = estimate(bilevel.implicit(bilevel.neumann(q, step_size=eta)), bed, point)
        errors[q] = relative(direction.alpha, bed.implicit(point))
        v = point.weights - bed.target
        left = jnp.linalg.matrix_power(jnp.eye(12) - eta * bed.hessian, q + 1) @ v
        assert float(metrics["inverse_residual"]) == pytest.approx(
            float(jnp.linalg.norm(left) / jnp.linalg.norm(v)), rel=1e-9, abs=1e-14
        )
    assert errors[1] > 0.05 > errors[5] * 0.25
    assert errors[20] < 1e-2
    assert errors[80] < 1e-9


def test_unrolled_to_convergence_matches_the_closed_form(bed):
    alpha = at(bed).alpha
    point = bilevel.Point(bed.response(alpha), alpha)
    direction, _ = estimate(bilevel.unrolled(400), bed, point, learning_rate=0.5)
    assert relative(direction.alpha, bed.implicit(point)) < 1e-12


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_unrolled_equals_reverse_mode_through_the_steps(bed, num_steps):
    point, rate, batches = at(bed), 0.3, bed.sample(jax.random.key(4), 0.2)

    def after(alpha):
        w = point.weights
        for _ in range(num_steps):
            w = w - rate * jax.grad(bed.problem.inner, has_aux=True)(w, alpha, batches.inner, Context())[0]
        return bed.problem.outer(w, alpha, batches.outer, Context())[0]

    direction, _ = estimate(bilevel.unrolled(num_steps), bed, point, batches, learning_rate=rate)
    assert relative(direction.alpha, jax.grad(after)(point.alpha)) < 1e-13


def test_finite_difference_is_one_unrolled_step(bed):
    point, batches = at(bed), bed.sample(jax.random.key(4), 0.2)
    exact, _ = estimate(bilevel.unrolled(1), bed, point, batches, learning_rate=0.3)
    difference, _ = estimate(bilevel.finite_difference(1e-2), bed, point, batches, learning_rate=0.3)
    first, _ = estimate(bilevel.first_order(), bed, point, batches)
    assert relative(difference.alpha, exact.alpha) < 5e-13
    assert relative(first.alpha, exact.alpha) > 0.1  # so that a lost second-order term (times eps^2) cannot pass


def test_the_smallest_example_tells_the_estimators_apart():
    """First order gives -4, one exact step 2, and 0 without its implicit term: github.com/quark0/darts/issues/116."""
    inner = lambda w, a, batch, context: (w * w - 2 * a * w + a * a, Aux(context.variables))
    outer = lambda w, a, batch, context: (a * w - 2 * a + 1, Aux(context.variables))
    problem, point = bilevel.Bilevel(inner, outer), bilevel.Point(jnp.asarray(-2.0), jnp.asarray(2.0))
    run = lambda e: e.estimate(problem, point, Batches((), ()), Context(), e.init(point), learning_rate=0.5)[0].alpha
    assert float(run(bilevel.first_order())) == -4.0
    assert float(run(bilevel.unrolled(1))) == 2.0
    assert float(run(bilevel.finite_difference(1e-2))) == pytest.approx(2.0, abs=1e-9)


@pytest.mark.parametrize("largest", [1e-2, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("num_terms", [1, 3, 20])
def test_the_automatic_step_never_diverges(largest, num_terms):
    solver = bilevel.neumann(num_terms)

    @jax.jit
    def step(hessian, v, state):
        p, state, metrics, _ = solver.solve(lambda u, _: (hessian @ u, ()), v, None, state)
        return state, p, metrics

    for seed in range(5):
        key = jax.random.key(seed)
        bed = testbeds.quadratic(key, spectrum=(largest * 1e-3, largest))
        # A right-hand side with hardly any of the largest eigenvector is what fools a power iteration.
        values, vectors = jnp.linalg.eigh(bed.hessian)
        v = vectors @ (jax.random.normal(key, values.shape) * jnp.where(values > 0.5 * largest, 1e-6, 1.0))
        state = solver.init(v)
        for _ in range(3):
            state, p, metrics = step(bed.hessian, v, state)
            assert float(metrics["neumann_diverged"]) == 0.0
            assert float(metrics["neumann_growth"]) <= 1.0 + 1e-12
            assert float(jnp.linalg.norm(v - bed.hessian @ p)) <= float(jnp.linalg.norm(v)) * (1 + 1e-12)
        assert float(state.eigenvalue) <= largest * (1 + 1e-9)


def test_a_forced_divergence_is_reported():
    bed = testbeds.quadratic(jax.random.key(0), spectrum=(0.5, 5.4))
    _, metrics = estimate(bilevel.implicit(bilevel.neumann(20, step_size=1.0)), bed, at(bed))
    assert float(metrics["neumann_diverged"]) == 1.0
    assert float(metrics["inverse_residual"]) > 1e6
    _, metrics = estimate(bilevel.implicit(bilevel.neumann(20)), bed, at(bed))
    assert float(metrics["neumann_diverged"]) == 0.0


def test_not_a_number_counts_as_divergence():
    solver = bilevel.neumann(2, step_size=1.0)
    found = solver.solve(lambda v, _: (v * jnp.nan, ()), jnp.ones(3), None, ())
    assert float(found.metrics["neumann_diverged"]) == 1.0


def test_a_flat_loss_gives_a_finite_answer():
    solver = bilevel.neumann(3)
    v = jnp.ones(3)
    found = solver.solve(lambda v, _: (0.0 * v, ()), v, None, solver.init(v))
    assert np.isfinite(np.asarray(found.p)).all()
    assert float(found.metrics["neumann_diverged"]) == 0.0


def test_damping_solves_the_damped_system(bed):
    v = jax.random.normal(jax.random.key(3), bed.target.shape)
    closed = jnp.linalg.solve(bed.hessian + 0.7 * jnp.eye(12), v)
    for solver in (bilevel.neumann(200, step_size=0.5, damping=0.7), bilevel.conjugate_gradient(50, damping=0.7)):
        assert relative(solver.solve(plain(bed), v, None, solver.init(v)).p, closed) < 1e-10


def test_a_fresh_batch_for_every_term_is_used_in_order(bed):
    point, eta = at(bed), 0.4
    base = bed.sample(jax.random.key(4), 0.3)
    terms = [bed.sample(jax.random.key(10 + q), 0.3).inner for q in range(3)]
    batches = base._replace(further=jax.tree.map(lambda *leaves: jnp.stack(leaves), *terms))
    direction, _ = estimate(bilevel.implicit(bilevel.neumann(3, step_size=eta)), bed, point, batches)
    v = point.weights - bed.target + base.outer.weights
    p = eta * v
    for noise in terms:
        v = v - eta * (bed.hessian + noise.hessian) @ v
        p = p + eta * v
    expected = 0.1 * point.alpha + base.outer.alpha + bed.coupling.T @ p
    assert relative(direction.alpha, expected) < 1e-13


def test_a_wrong_number_of_curvature_batches_is_refused(bed):
    point = at(bed)
    batches = bed.sample(jax.random.key(4), 0.3)
    batches = batches._replace(further=jax.tree.map(lambda leaf: leaf[None], batches.inner))
    with pytest.raises(ValueError, match=r"holds 1 batches and the solver uses 2"):
        estimate(bilevel.implicit(bilevel.neumann(2, step_size=0.4)), bed, point, batches)


@functools.cache
def classifier():
    """A tanh network on made-up data, whose inner problem is not quadratic."""
    keys = jax.random.split(jax.random.key(5), 4)
    data = (jax.random.normal(keys[0], (30, 3)), jax.random.randint(keys[1], (30,), 0, 4))

    def model(w, a, batch, context):
        return jnp.tanh(batch[0] @ w["one"] * jax.nn.softmax(a)[None]) @ w["two"]

    def objective(z, batch):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), batch[1][:, None], 1))

    def loss(w, a, batch, context):
        return objective(model(w, a, batch, context), batch), Aux()

    weights = {"one": jax.random.normal(keys[2], (3, 6)), "two": jax.random.normal(keys[3], (6, 4))}
    return model, objective, loss, weights, jnp.linspace(-1.0, 1.0, 6), data


def test_curvature_products_equal_dense_matrices():
    model, objective, loss, weights, alpha, data = classifier()
    flat, back = jax.flatten_util.ravel_pytree(weights)
    v = jax.random.normal(jax.random.key(6), flat.shape)
    point = bilevel.Point(weights, alpha)
    hessian = jax.hessian(lambda f: loss(back(f), alpha, data, None)[0])(flat)
    product = bilevel.hessian(loss, point, data, Context(), back(v))
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(product)[0], hessian @ v, rtol=1e-10, atol=1e-12)
    outputs = lambda f: model(back(f), alpha, data, None).ravel()
    jacobian = jax.jacobian(outputs)(flat)
    curved = jax.hessian(lambda z: objective(z.reshape(30, 4), data))(outputs(flat))
    dense = jacobian.T @ curved @ jacobian
    product = bilevel.gauss_newton(model, objective)(loss, point, data, Context(), back(v))
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(product)[0], dense @ v, rtol=1e-10, atol=1e-12)
    assert float(jnp.linalg.eigvalsh(hessian).min()) < -1e-4  # indefinite, as networks are
    assert float(jnp.linalg.eigvalsh(dense).min()) > -1e-12


def test_implicit_with_gauss_newton_inverts_gauss_newton():
    model, objective, loss, weights, alpha, data = classifier()
    flat, back = jax.flatten_util.ravel_pytree(weights)
    outputs = lambda f: model(back(f), alpha, data, None).ravel()
    jacobian = jax.jacobian(outputs)(flat)
    dense = jacobian.T @ jax.hessian(lambda z: objective(z.reshape(30, 4), data))(outputs(flat)) @ jacobian
    estimator = bilevel.implicit(
        bilevel.conjugate_gradient(200, damping=0.1), curvature=bilevel.gauss_newton(model, objective)
    )
    problem = bilevel.Bilevel(loss, lambda w, a, b, c: (jnp.sum(w["two"] ** 2) + jnp.sum(a * w["one"][0]), Aux()))
    point = bilevel.Point(weights, alpha)
    direction, _, aux = estimator.estimate(problem, point, Batches(data, ()), Context(), estimator.init(point))
    v = jax.flatten_util.ravel_pytree(jax.grad(lambda w: problem.outer(w, alpha, (), None)[0])(weights))[0]
    p = jnp.linalg.solve(dense + 0.1 * jnp.eye(len(flat)), v)
    mixed = jax.jacfwd(lambda f: jax.grad(lambda a: loss(back(f), a, data, None)[0])(alpha))(flat) @ p
    np.testing.assert_allclose(direction.alpha, weights["one"][0] - mixed, rtol=1e-8)
    assert float(aux.metrics["inverse_residual"]) > 1e-3  # measured against the exact Hessian, which is another matrix


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: bilevel.neumann(-1), "num_terms is -1"),
        (lambda: bilevel.neumann(2, step_size=0.0), "step_size is 0.0"),
        (lambda: bilevel.neumann(2, damping=-1.0), "damping is -1.0"),
        (lambda: bilevel.neumann(2, power_steps=0), "power_steps is 0"),
        (lambda: bilevel.conjugate_gradient(0), "num_steps is 0"),
        (lambda: bilevel.unrolled(0), "num_steps is 0"),
        (lambda: bilevel.finite_difference(0.0), "radius is 0.0"),
    ],
)
def test_a_bad_argument_is_one_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("estimator", [bilevel.unrolled(1), bilevel.finite_difference()])
def test_a_missing_learning_rate_is_one_sentence(bed, estimator):
    with pytest.raises(ValueError, match="learning_rate is None"):
        estimate(estimator, bed, at(bed))


@pytest.mark.parametrize("step_size", [0.5, None])
@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_product_that_yields_more_is_made_with_the_result_too(bed, step_size, unroll, fresh):
    """The last trip of the loop, on the inner batch whatever the terms were formed on; the result is the same."""
    solver = bilevel.neumann(3, step_size=step_size, damping=0.1, unroll=unroll)
    v = jax.random.normal(jax.random.key(3), bed.target.shape)
    scales = jnp.array([1.0, 1.2, 0.9, 0.7]) if fresh else None  # of each batch's Hessian; the last: the inner batch's
    image = lambda u, scale: (1.0 if scale is None else scale) * (bed.hessian @ u)
    bare = lambda u, scale: (image(u, scale), ())
    joint = lambda u, scale: (
        image(u, scale),
        {"sum": jnp.sum(u), "scale": jnp.asarray(-1.0 if scale is None else scale)},
    )
    found, more = (
        jax.jit(lambda v, each=each: solver.solve(each, v, scales, solver.init(v)))(v) for each in (bare, joint)
    )
    assert found.last is None
    last, extra = more.last
    assert relative(more.p, found.p) < 1e-13
    assert relative(last, image(more.p, scales[3] if fresh else None)) < 1e-13
    assert float(extra["sum"]) == pytest.approx(float(more.p.sum()), rel=1e-12)
    assert float(extra["scale"]) == (0.7 if fresh else -1.0)
    chex.assert_trees_all_close((found.state, found.metrics), (more.state, more.metrics), rtol=1e-12)


class TestConjugateGradient:
    def solve(self, matrix, v, num_steps=5, **options):
        solver = bilevel.conjugate_gradient(num_steps, **options)
        return jax.jit(lambda v: solver.solve(lambda u, _: (jnp.asarray(matrix) @ u, ()), v, None, ()))(jnp.asarray(v))

    @pytest.mark.parametrize("num_steps", [1, 3, 7])
    def test_its_iterates_are_those_of_scipy(self, bed, num_steps):
        v = jax.random.normal(jax.random.key(3), bed.target.shape)
        theirs, _ = jax.scipy.sparse.linalg.cg(lambda u: bed.hessian @ u, v, tol=0.0, maxiter=num_steps)
        found = self.solve(bed.hessian, v, num_steps)
        assert relative(found.p, theirs) < 1e-13
        assert float(found.metrics["conjugate_gradient_steps"]) == num_steps
        assert float(found.metrics["conjugate_gradient_indefinite"]) == 0.0

    def test_it_stops_at_the_tolerance(self, bed):
        v = jax.random.normal(jax.random.key(3), bed.target.shape)
        found = self.solve(bed.hessian, v, 100, tolerance=1e-3)
        assert relative(bed.hessian @ found.p, v) < 1e-3
        assert float(found.metrics["conjugate_gradient_steps"]) < 12

    @pytest.mark.parametrize("diagonal", [(1.0, 0.0), (1.0, -1.0), (0.0, 0.0), (-1.0, -2.0), (3.0, 1.0, -1e-3)])
    def test_without_positive_curvature_it_stops_with_the_best_iterate_and_says_so(self, diagonal):
        matrix, v = jnp.diag(jnp.array(diagonal)), jnp.ones(len(diagonal))
        found = self.solve(matrix, v, 50)
        assert float(found.metrics["conjugate_gradient_indefinite"]) == 1.0
        assert jnp.isfinite(found.p).all()
        assert float(jnp.linalg.norm(v - matrix @ found.p)) <= float(jnp.linalg.norm(v)) + 1e-12  # no worse than 0

    def test_damping_makes_the_system_definite(self):
        found = self.solve(jnp.diag(jnp.array([1.0, -1.0])), jnp.ones(2), damping=2.0)
        np.testing.assert_allclose(found.p, [1 / 3, 1.0], rtol=1e-12)
        assert float(found.metrics["conjugate_gradient_indefinite"]) == 0.0

    def test_nothing_to_solve_is_solved(self):
        found = self.solve(jnp.eye(2), jnp.zeros(2))
        assert found.p.tolist() == [0.0, 0.0]
        assert float(found.metrics["conjugate_gradient_steps"]) == 0


@pytest.mark.parametrize("estimator", [bilevel.finite_difference(), bilevel.unrolled(1)])
def test_an_outer_loss_that_ignores_the_weights_leaves_its_own_gradient(bed, estimator):
    problem = bed.problem._replace(outer=lambda w, a, batch, context: (jnp.sum(jnp.sin(a)), Aux()))
    point, batches = at(bed), bed.sample(jax.random.key(9), 0.0)
    direction, _, _ = estimator.estimate(problem, point, batches, Context(), (), learning_rate=0.1)
    np.testing.assert_allclose(direction.alpha, jnp.cos(point.alpha), rtol=1e-12)


MIXED = {"wide": jnp.float32, "narrow": jnp.bfloat16}


@pytest.mark.parametrize(
    "estimator",
    [
        bilevel.first_order(), bilevel.finite_difference(), bilevel.unrolled(2), bilevel.implicit(bilevel.neumann(2)),
        bilevel.implicit(bilevel.conjugate_gradient(2)),
    ],
    ids=["first_order", "finite_difference", "unrolled", "neumann", "conjugate_gradient"],
)  # fmt: skip
def test_weights_may_have_several_dtypes(estimator):
    def inner(w, a, batch, context):
        return sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in w.values()) + jnp.sum(a * w["wide"]), Aux()

    def outer(w, a, batch, context):
        return jnp.sum((w["narrow"].astype(jnp.float32) - 1) ** 2) + jnp.sum(w["wide"]) + jnp.sum(a), Aux()

    point = bilevel.Point({name: jnp.ones(4, dtype) for name, dtype in MIXED.items()}, jnp.ones(4, jnp.float32))
    run = lambda p: estimator.estimate(
        bilevel.Bilevel(inner, outer), p, Batches((), ()), Context(), estimator.init(p), learning_rate=0.1
    )
    direction, _, aux = jax.jit(run)(point)
    chex.assert_trees_all_equal_shapes_and_dtypes(direction, point)
    assert all(jnp.isfinite(value) for value in aux.metrics.values())


def test_a_flat_step_does_not_end_the_power_iteration(bed):
    """Where the outer gradient was 0 once, nothing is known of the curvature; the next step begins anew."""
    solver, zero = bilevel.neumann(1, power_steps=3), jnp.zeros(12)
    state = solver.solve(plain(bed), zero, None, solver.init(zero)).state
    v = jax.random.normal(jax.random.key(3), (12,))
    for _ in range(20):
        state = solver.solve(plain(bed), v, None, state).state
    assert float(state.eigenvalue) == pytest.approx(1.8, rel=1e-3)  # the largest


def test_a_product_that_is_not_a_number_is_not_hidden():
    solver = bilevel.conjugate_gradient(3)
    found = solver.solve(lambda v, _: (v * jnp.nan, ()), jnp.ones(3), None, ())
    assert np.isnan(np.asarray(found.p)).all()


@pytest.mark.parametrize(("rate", "weights"), [(jnp.float32, jnp.float64), (jnp.float64, jnp.float32)])
def test_the_rate_may_have_another_dtype_than_the_weights(rate, weights):
    loss = lambda w, a, batch, context: (jnp.sum((w - a) ** 2), Aux())
    point, estimator = bilevel.Point(jnp.ones(3, weights), jnp.zeros(3, weights)), bilevel.finite_difference()
    direction, _, _ = estimator.estimate(
        bilevel.Bilevel(loss, loss), point, Batches((), ()), Context(), (), learning_rate=rate(0.1)
    )
    assert direction.alpha.dtype == weights
