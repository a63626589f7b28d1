"""Penalties against the loss they stand for, eigenvalues against the dense Hessian, stopping against its authors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jnas import bilevel
from jnas.bilevel import eigenvalues, penalties
from jnas.bilevel.problem import Point
from jnas.bilevel.testbeds import quadratic

MASK = {"a": np.array([[1, 1, 1], [1, 0, 1], [0, 0, 0]], bool), "b": np.array([[1, 1, 1]], bool)}
ALPHA = {"a": np.array([[0.0, 1, 2], [3, 50, -1], [9, 9, 9]]), "b": np.array([[0.5, 0.5, 0.5]])}
ROWS = [ALPHA["a"][0], ALPHA["a"][1, [0, 2]], ALPHA["b"][0]]  # what the mask leaves


class TestPenalties:
    def test_value_and_gradient_are_the_formula_over_the_candidates(self, x64):
        make, of_row = penalties.beta_decay, lambda row: np.log(np.exp(row).sum())
        alpha = jax.tree.map(jnp.asarray, ALPHA)
        value, slope = jax.value_and_grad(make(MASK))(alpha)
        assert float(value) == pytest.approx(np.mean([of_row(row) for row in ROWS]), rel=1e-12)
        for at in np.ndindex(3, 3):
            ahead, behind = (make(MASK)({**alpha, "a": alpha["a"].at[at].add(d)}) for d in (1e-6, -1e-6))
            assert float(slope["a"][at]) == pytest.approx(float(ahead - behind) / 2e-6, abs=1e-8)
        assert (np.asarray(slope["a"])[~MASK["a"]] == 0).all()

    def test_without_a_mask_everything_is_a_candidate(self):
        assert float(penalties.beta_decay()({"x": jnp.zeros((5, 7))})) == pytest.approx(np.log(7), rel=1e-6)

    @pytest.mark.parametrize(
        "estimator",
        [bilevel.first_order(), bilevel.finite_difference(), bilevel.unrolled(2),
         bilevel.implicit(bilevel.neumann(3, step_size=0.5))],
        ids=["first_order", "finite_difference", "unrolled", "neumann"],
    )  # fmt: skip
    @pytest.mark.parametrize("momentum", [False, True], ids=["plain", "storm"])
    def test_added_to_the_direction_equals_added_to_the_outer_loss(self, x64, estimator, momentum):
        """With every estimator, with and without the double recursion, over three noisy steps."""
        bed = quadratic(jax.random.key(0), 4, 3)
        penalty = lambda alpha: penalties.beta_decay()([leaf[None] for leaf in jax.tree.leaves(alpha)])
        init = lambda key: (Point(jnp.ones(4), jnp.array([0.3, -0.2, 0.1])), ())
        first = lambda: bilevel.storm(Point(0.5, 0.5)) if momentum else optax.identity()

        def learner(problem, alpha_tx):
            tx = optax.chain(first(), optax.partition({"w": optax.sgd(0.1), "a": alpha_tx}, Point("w", "a")))
            return bilevel.simultaneous(problem, estimator, init, tx, learning_rate=0.1)

        def penalised(weights, alpha, batch, context):
            value, aux = bed.problem.outer(weights, alpha, batch, context)
            return value + 0.7 * penalty(alpha), aux

        in_loss = learner(bed.problem._replace(outer=penalised), optax.sgd(0.05))
        in_chain = learner(bed.problem, optax.chain(penalties.add_penalty(penalty, 0.7), optax.sgd(0.05)))
        states = [each.init(jax.random.key(0)) for each in (in_loss, in_chain)]
        for step in range(3):
            batches = bed.sample(jax.random.key(step), 0.1)
            states = [
                jax.jit(each.update)(state, batches, jax.random.key(step))[0]
                for each, state in zip((in_loss, in_chain), states, strict=True)
            ]
        tolerance = 1e-7 if estimator.estimate.__qualname__.startswith("finite") else 1e-12
        np.testing.assert_allclose(states[0].point.alpha, states[1].point.alpha, rtol=tolerance)
        np.testing.assert_allclose(states[0].point.weights, states[1].point.weights, rtol=tolerance)

    def test_the_weight_may_be_a_schedule(self, x64):
        tx = penalties.add_penalty(penalties.beta_decay(), optax.linear_schedule(0.0, 2.0, 2))
        alpha = {"x": jnp.array([[1.0, 3.0]])}
        state, zero = tx.init(alpha), {"x": jnp.zeros((1, 2))}
        share = np.exp([1, 3]) / np.exp([1, 3]).sum()
        for weight in (0, 1, 2, 2):
            direction, state = tx.update(zero, state, alpha)
            np.testing.assert_allclose(direction["x"][0], weight * share, rtol=1e-12)

    def test_parameters_are_needed(self):
        tx = penalties.add_penalty(penalties.beta_decay(), 1.0)
        with pytest.raises(ValueError, match="params is None"):
            tx.update(jnp.zeros((1, 2)), tx.init(None))


def loss_with(matrix):
    """A loss whose Hessian in alpha is the matrix wherever it is taken, split over two leaves of alpha."""

    def loss(w, a, batch, context):
        x = jnp.concatenate([a["p"].ravel(), a["q"]])
        return 0.5 * x @ matrix @ x + w * x.sum(), bilevel.Aux()

    return loss


def eigenvalues_of(matrix, num_iterations=20, seed=0):
    n = len(matrix)
    point = Point(jnp.ones(()), {"p": jnp.ones((2, n // 2 - 1)), "q": jnp.ones(n - 2 * (n // 2 - 1))})
    run = lambda key: eigenvalues.alpha_eigenvalues(
        loss_with(jnp.asarray(matrix)), point, None, bilevel.Context(), key, num_iterations=num_iterations
    )
    return jax.jit(run)(jax.random.key(seed))


def symmetric(spectrum, seed=0):
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spectrum),) * 2))
    return basis @ np.diag(spectrum) @ basis.T


class TestEigenvalues:
    @pytest.mark.parametrize(
        ("spectrum", "dominant"),
        [
            (np.linspace(-1, 3, 9), 3),
            (np.linspace(-3, 1, 9), -3),  # the dominant one is negative
            (np.linspace(0.5, 2, 9), 2),
            (-np.linspace(0.5, 2, 9), -2),
            ([5] * 4 + [-2] * 5, 5),  # two distinct values: the subspace is exhausted after two vectors
            ([2.0] * 9, 2),
            ([0.0] * 9, 0),
            ([-7] + [0] * 8, -7),
        ],
    )
    def test_with_as_many_iterations_as_alphas_both_ends_are_those_of_the_dense_hessian(self, x64, spectrum, dominant):
        matrix = symmetric(spectrum)
        dense = np.linalg.eigvalsh(matrix)
        found = eigenvalues_of(matrix)
        assert float(found.dominant) == pytest.approx(dominant, abs=1e-9)
        assert float(found.largest) == pytest.approx(dense[-1], abs=1e-9)
        assert float(found.smallest) == pytest.approx(dense[0], abs=1e-9)
        assert float(found.residual) < 1e-9

    def test_few_iterations_of_a_large_matrix_come_within_their_residual(self, x64):
        matrix = symmetric(np.concatenate([np.linspace(-1, 1, 99), [2.5]]))
        errors = []
        for iterations in (3, 6, 12):
            found = eigenvalues_of(matrix, iterations)
            errors.append(abs(float(found.dominant) - 2.5))
            assert errors[-1] <= float(found.residual) + 1e-12
        assert errors[0] > errors[1] > errors[2]
        assert errors[2] < 1e-6

    def test_a_network_loss_against_its_dense_hessian(self, x64):
        """Softmax mixture of three maps under a tanh: indefinite, with the null direction of each softmax."""
        rng = np.random.default_rng(0)
        x, y, maps = (jnp.asarray(rng.normal(size=s)) for s in ((6, 3), (6,), (2, 3, 3, 3)))

        def loss(w, a, batch, context):
            h = x
            for edge in range(2):
                h = jnp.tanh(h @ jnp.einsum("o,oij->ij", jax.nn.softmax(a[edge]), maps[edge]))
            return jnp.mean((h @ w - y) ** 2), bilevel.Aux()

        point = Point(jnp.asarray(rng.normal(size=3)), jnp.asarray(rng.normal(size=(2, 3))))
        dense = jax.hessian(lambda a: loss(point.weights, a, None, None)[0])(point.alpha).reshape(6, 6)
        values = np.linalg.eigvalsh(dense)
        found = jax.jit(lambda p: eigenvalues.alpha_eigenvalues(loss, p, None, bilevel.Context(), jax.random.key(0)))(
            point
        )
        assert float(found.largest) == pytest.approx(values[-1], abs=1e-10)
        assert float(found.smallest) == pytest.approx(values[0], abs=1e-10)
        assert float(found.dominant) == pytest.approx(values[np.argmax(np.abs(values))], abs=1e-10)

    def test_single_precision(self):
        found = eigenvalues_of(symmetric(np.linspace(-3, 1, 9)).astype(np.float32))
        assert float(found.dominant) == pytest.approx(-3, rel=1e-5)

    def test_no_iterations_are_refused(self):
        with pytest.raises(ValueError, match="num_iterations is 0"):
            eigenvalues_of(np.eye(4), 0)


def published(history, every, window, delta, start, factor):
    """The rule as its authors run it: after each measurement, keep means, compare the last with one before it."""
    means = []
    for n in range(1, len(history) + 1):
        epoch = (n - 1) * every
        if n >= int(np.ceil(window / 2)):
            means.append(np.mean(history[max(0, n - window) : n]))
        centre = epoch - every * (window // 2)
        if centre - every * delta >= start and means[-1] / means[-1 - delta] > factor:
            return n - 1, (centre - every * delta) // every
    return None


class TestEarlyStop:
    @pytest.mark.parametrize(
        ("every", "window", "delta", "start", "factor"),
        [(2, 5, 4, 10, 1.3), (1, 5, 4, 10, 1.3), (1, 4, 2, 3, 1.1), (1, 1, 1, 0, 1.4)],
    )
    def test_it_decides_as_the_published_rule_on_random_histories(self, every, window, delta, start, factor):
        rng = np.random.default_rng(0)
        outcomes = []
        for _ in range(200):
            history = np.exp(np.cumsum(rng.normal(0.03, 0.15, size=25)))
            found = eigenvalues.early_stop(history, every=every, window=window, delta=delta, start=start, factor=factor)
            outcomes.append(None if found is None else tuple(found))
            assert outcomes[-1] == published(history, every, window, delta, start, factor)
        assert None in outcomes  # both answers occur
        assert len(set(outcomes)) > 2

    def test_a_longer_history_does_not_change_the_decision(self):
        history = [1.0] * 16 + [4.0] + [0.1] * 30
        assert eigenvalues.early_stop(history) == eigenvalues.early_stop(history[:17]) == (16, 10)
        assert eigenvalues.early_stop(history[:16]) is None

    def test_a_mean_that_is_not_positive_stops_nothing(self):
        assert eigenvalues.early_stop([-1.0] * 16 + [-9.0, 5.0]) is None

    def test_bad_arguments_are_refused(self):
        with pytest.raises(ValueError, match="window=0"):
            eigenvalues.early_stop([1.0], window=0)
