"""Acquisitions against sampling, brute force and refits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jnas.searchers.gp import acquisition, kernels, regression


def covariance_of(num, seed):
    x = np.random.default_rng(seed).normal(size=(num, 2))
    return np.exp(-0.5 * ((x[:, None] - x[None]) ** 2).sum(-1))


def test_expected_improvement_is_the_mean_of_samples():
    mean, std, best = np.array([-1.0, 0.0, 0.4, 2.0]), np.array([0.7, 1.0, 0.2, 0.5]), 0.5
    draws = mean + std * np.random.default_rng(0).normal(size=(400_000, 4))
    improvement = np.maximum(draws - best, 0)
    found = acquisition.expected_improvement(*(jnp.asarray(x, jnp.float32) for x in (mean, std, np.full(4, best))))
    error = improvement.std(0) / np.sqrt(len(draws))
    assert np.all(np.abs(found - improvement.mean(0)) < 5 * error + 1e-6)


def test_expected_improvement_without_doubt_is_the_gain():
    found = acquisition.expected_improvement(jnp.array([0.0, 2.0]), jnp.zeros(2), jnp.ones(2))
    np.testing.assert_array_equal(found, [0.0, 1.0])


def test_mutual_information_steps_are_the_best_of_all(x64):
    noise = 0.1
    covariance = covariance_of(8, 1)
    noisy = covariance + noise * np.eye(8)

    def information(chosen):
        rest = [i for i in range(8) if i not in chosen]
        parts = [np.linalg.slogdet(noisy[np.ix_(rows, rows)])[1] for rows in (list(chosen), rest)]
        return 0.5 * (sum(parts) - np.linalg.slogdet(noisy)[1])

    expected: list[int] = []
    for _ in range(3):
        expected.append(max((i for i in range(8) if i not in expected), key=lambda i: information([*expected, i])))
    found = acquisition.mutual_information(jnp.asarray(covariance), jnp.array(noise), 3)
    assert found.tolist() == expected
    # Greedy choice is within (1 - 1/e) of the best triple.
    best = max(information(triple) for triple in itertools.combinations(range(8), 3))
    assert information(found.tolist()) >= (1 - 1 / np.e) * best


def test_a_believed_batch_is_that_of_refitting_with_the_beliefs(x64):
    kernel = kernels.rbf(2)
    rng = np.random.default_rng(2)
    observed, candidates = rng.normal(size=(6, 2)), rng.normal(size=(15, 2))
    targets, best = rng.normal(size=6), 0.8
    hyper = regression.prior_mean(kernel, jnp.float64)._replace(log_noise=jnp.log(jnp.array(0.05)))

    def given(inputs, values):
        data = regression.Data(jnp.asarray(inputs), jnp.asarray(values), jnp.ones(len(values), bool))
        return regression.posterior(kernel, regression.condition(kernel, hyper, data), jnp.asarray(candidates))

    expected, inputs, values, bar = [], observed, targets, best
    for _ in range(4):
        mean, covariance = given(inputs, values)
        score = acquisition.expected_improvement(mean, jnp.sqrt(jnp.diagonal(covariance)), jnp.full(15, bar))
        index = max((i for i in range(15) if i not in expected), key=lambda i: score[i])
        expected.append(index)
        inputs, values = np.vstack([inputs, candidates[index]]), np.append(values, mean[index])
        bar = max(bar, float(mean[index]))
    mean, covariance = given(observed, targets)
    found = acquisition.believe(
        mean,
        jnp.diagonal(covariance),
        lambda index: covariance[index],
        jnp.ones(15, bool),
        jnp.array(best),
        regression.noise_variance(hyper),
        4,
    )
    assert found.tolist() == expected


def test_a_hopeless_bar_still_gives_a_batch_without_repeats():
    covariance = jnp.asarray(covariance_of(9, 3), jnp.float32)
    allowed = jnp.arange(9) != 4
    found = jax.jit(
        lambda mean: acquisition.believe(
            mean, jnp.diagonal(covariance), lambda index: covariance[index], allowed, jnp.array(1e3), jnp.array(0.1), 8
        )
    )(jnp.zeros(9))
    assert sorted(found.tolist()) == [0, 1, 2, 3, 5, 6, 7, 8]
