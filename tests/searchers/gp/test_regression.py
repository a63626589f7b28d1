"""The Gaussian process against dense NumPy, SciPy and scikit-learn, in double precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from jnas import spaces
from jnas.searchers.gp import kernels, regression
from jnas.spaces.paths import count_paths

NUM, NEW, CHOICES = 12, 5, 3
CODES = np.random.default_rng(0).integers(0, 4, (NUM + NEW, CHOICES)).astype(np.int32)
REAL = np.random.default_rng(1).normal(size=(NUM + NEW, 2))
TARGETS = np.random.default_rng(2).normal(size=NUM)


def dense_hamming(p, x, z):
    different = (x[:, None] != z[None]).astype(float)
    return p[0] * np.exp(-different @ p[1:])


def dense_additive(p, x, z):
    return p[0] * (x[:, None] == z[None]).mean(-1)


def dense_shared(p, x, z):
    # Tokens equal the codes: pairs of places with the same operator.
    return p[0] * (x[:, None, :, None] == z[None, :, None, :]).sum((-1, -2)) / x.shape[1]


def dense_rbf(p, x, z):
    return p[0] * np.exp(-0.5 * (((x[:, None] - z[None]) ** 2) @ p[1:]))


KERNELS = {
    "hamming": (kernels.hamming(CHOICES), dense_hamming, CODES),
    "tied": (kernels.hamming(CHOICES, tied=True), lambda p, x, z: dense_hamming(p[[0, 1, 1, 1]], x, z), CODES),
    "additive": (kernels.additive(CHOICES), dense_additive, CODES),
    "shared": (kernels.shared([range(4)] * CHOICES), dense_shared, CODES),
    "rbf": (kernels.rbf(2), dense_rbf, REAL),
    "sum": (
        kernels.sum_of(kernels.hamming(CHOICES), kernels.additive(CHOICES)),
        lambda p, x, z: dense_hamming(p[:4], x, z) + dense_additive(p[4:], x, z),
        CODES,
    ),
}


@pytest.fixture(scope="module", params=KERNELS)
def problem(request):
    """A kernel, the same in NumPy, inputs, and hyper-parameters away from their start."""
    kernel, dense, inputs = KERNELS[request.param]
    log_kernel = np.asarray(kernel.init) + np.linspace(-0.4, 0.5, len(kernel.init))
    return kernel, dense, inputs, 0.3, np.log(0.2), log_kernel


def hyper_of(problem):
    return regression.Hyperparameters(*(jnp.asarray(x, jnp.float64) for x in problem[3:]))


def data_of(inputs, padding=0):
    rows = np.concatenate([inputs[:NUM], np.full((padding, inputs.shape[1]), 2, inputs.dtype)])
    targets = np.concatenate([TARGETS, np.full(padding, 77.0)])
    return regression.Data(jnp.asarray(rows), jnp.asarray(targets), jnp.arange(NUM + padding) < NUM)


def test_likelihood_and_posterior_are_the_textbook_s(x64, problem):
    kernel, dense, inputs, mean, log_noise, log_kernel = problem
    hyper, data = hyper_of(problem), data_of(inputs)
    full = dense(np.exp(log_kernel), inputs, inputs)
    noisy = full[:NUM, :NUM] + (np.exp(log_noise) + 1e-10) * np.eye(NUM)
    expected = multivariate_normal(np.full(NUM, mean), noisy).logpdf(TARGETS)
    np.testing.assert_allclose(regression.log_likelihood(kernel, hyper, data), expected, rtol=1e-9)
    found_mean, found_covariance = regression.posterior(
        kernel, regression.condition(kernel, hyper, data), jnp.asarray(inputs[NUM:])
    )
    cross = full[NUM:, :NUM]
    np.testing.assert_allclose(found_mean, mean + cross @ np.linalg.solve(noisy, TARGETS - mean), atol=1e-9)
    expected = full[NUM:, NUM:] - cross @ np.linalg.solve(noisy, cross.T)
    np.testing.assert_allclose(found_covariance, expected, atol=1e-9)


def test_likelihood_mean_and_covariance_are_scikit_learn_s(x64):
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel

    lengths, amplitude, noise = np.array([0.7, 1.6]), 1.4, 0.07
    theirs = GaussianProcessRegressor(ConstantKernel(amplitude) * RBF(lengths), alpha=noise, optimizer=None)
    theirs.fit(REAL[:NUM], TARGETS)
    kernel, data = KERNELS["rbf"][0], data_of(REAL)
    log_parameters = np.log([amplitude, *1 / lengths**2])
    hyper = regression.Hyperparameters(
        *(jnp.asarray(x, jnp.float64) for x in (0.0, np.log(noise - 1e-10), log_parameters))
    )
    mean, covariance = regression.posterior(kernel, regression.condition(kernel, hyper, data), jnp.asarray(REAL[NUM:]))
    expected_mean, expected_covariance = theirs.predict(REAL[NUM:], return_cov=True)
    np.testing.assert_allclose(mean, expected_mean, atol=1e-9)
    np.testing.assert_allclose(covariance, expected_covariance, atol=1e-9)
    expected = theirs.log_marginal_likelihood_value_
    np.testing.assert_allclose(regression.log_likelihood(kernel, hyper, data), expected, rtol=1e-9)


def test_padding_changes_nothing(x64, problem):
    kernel, _, inputs, *_ = problem
    hyper, new = hyper_of(problem), jnp.asarray(inputs[NUM:])
    value_and_grad = jax.value_and_grad(functools.partial(regression.log_likelihood, kernel))
    answers = []
    for padding in (0, 4):
        data = data_of(inputs, padding)
        answers.append(
            (value_and_grad(hyper, data), regression.posterior(kernel, regression.condition(kernel, hyper, data), new))
        )
    for bare, padded in zip(*map(jax.tree.leaves, answers), strict=True):
        np.testing.assert_allclose(bare, padded, rtol=1e-11, atol=1e-12)


def test_gradient_and_hessian_by_finite_differences(x64):
    kernel, _, inputs = KERNELS["sum"]
    flat = np.concatenate([[0.3, -1.0], np.asarray(kernel.init)])
    data = data_of(inputs, 4)

    def value(vector):
        return regression.log_likelihood(kernel, regression.Hyperparameters(vector[0], vector[1], vector[2:]), data)

    gradient, hessian = jax.jit(jax.grad(value)), jax.jacfwd(jax.grad(value))(jnp.asarray(flat))
    compiled = jax.jit(value)
    for i, step in enumerate(1e-5 * np.eye(len(flat))):
        upper, lower = jnp.asarray(flat + step), jnp.asarray(flat - step)
        np.testing.assert_allclose(
            (compiled(upper) - compiled(lower)) / 2e-5, gradient(jnp.asarray(flat))[i], atol=1e-7
        )
        np.testing.assert_allclose((gradient(upper) - gradient(lower)) / 2e-5, hessian[i], atol=1e-6)


def test_fit_finds_a_stationary_point_and_what_made_the_data(x64):
    # 40 noisy draws of a process: the fit must beat the truth's own likelihood times prior, with a vanishing gradient.
    kernel, dense, _ = KERNELS["rbf"]
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(40, 2))
    truth = regression.Hyperparameters(jnp.array(0.2), jnp.log(jnp.array(0.1)), jnp.log(jnp.array([1.5, 1.0, 0.1])))
    covariance = dense(np.exp(np.asarray(truth.log_kernel)), inputs, inputs) + 0.1 * np.eye(40)
    targets = rng.multivariate_normal(np.full(40, 0.2), covariance)
    data = regression.Data(jnp.asarray(inputs), jnp.asarray(targets), jnp.ones(40, bool))
    found = regression.fit(kernel, data, jax.random.key(0), num_steps=40)

    def loss(hyper):
        return -regression.log_likelihood(kernel, hyper, data) - regression.log_prior(kernel, hyper)

    assert loss(found.hyper) < loss(truth)
    np.testing.assert_allclose(-loss(found.hyper), found.log_posterior, rtol=1e-9)
    gradient = jax.tree.leaves(jax.grad(loss)(found.hyper))
    assert max(float(jnp.max(jnp.abs(g))) for g in gradient) < 0.1
    # The second feature matters ten times less and the noise is a tenth; 40 draws and the priors tell that much.
    assert found.hyper.log_kernel[1] > found.hyper.log_kernel[2] + 0.3
    assert abs(float(found.hyper.log_noise - truth.log_noise)) < 0.8


def test_evidence_is_exact_for_a_parameter_the_data_do_not_touch(x64):
    # With every code equal, hamming's scales have no influence: integrating them out against their prior gives one.
    data = regression.Data(jnp.zeros((4, CHOICES), jnp.int32), jnp.asarray(TARGETS[:4]), jnp.ones(4, bool))
    tied, free = kernels.hamming(CHOICES, tied=True), kernels.hamming(CHOICES)
    values = []
    for kernel in (tied, free):
        hyper = regression.prior_mean(kernel, jnp.float64)
        values.append(regression.log_evidence(kernel, hyper, data))
    np.testing.assert_allclose(values[0], values[1], rtol=1e-12)


def test_evidence_against_quadrature(x64):
    kernel = kernels.additive(CHOICES)
    data = data_of(CODES)
    found = regression.fit(kernel, data, jax.random.key(0), num_steps=40)
    grid = np.linspace(-4, 4, 33)
    centre = regression.prior_mean(kernel, jnp.float64)
    points = np.stack(np.meshgrid(grid * 1.0, grid * 2.0, grid * 1.5, indexing="ij"), -1).reshape(-1, 3)
    points += np.array([float(centre.mean), float(centre.log_noise), float(centre.log_kernel[0])])

    def joint(vector):
        hyper = regression.Hyperparameters(vector[0], vector[1], vector[2:])
        return regression.log_likelihood(kernel, hyper, data) + regression.log_prior(kernel, hyper)

    values = np.asarray(jax.jit(lambda points: jax.lax.map(joint, points))(jnp.asarray(points)))
    cell = (grid[1] - grid[0]) ** 3 / (2 * np.pi) ** 1.5  # steps in units of the priors' widths; their constants
    exact = np.log(np.sum(np.exp(values - values.max())) * cell) + values.max()
    np.testing.assert_allclose(regression.log_evidence(kernel, found.hyper, data), exact, atol=0.5)


def test_paths_is_rbf_on_counts_of_paths_and_blind_to_edges_that_lead_nowhere(x64):
    space = spaces.nasbench201()
    kernel = kernels.paths(space)
    # The first node is read by nobody: what stands before it does not matter.
    texts = [f"|{op}~0|+|none~0|none~1|+|nor_conv_1x1~0|none~1|skip_connect~2|" for op in space.ops]
    dead = np.stack([spaces.from_string(space, text) for text in texts])
    codes = np.concatenate([np.random.default_rng(6).integers(0, 5, (6, 6)).astype(np.int32), dead])
    counts = np.asarray(count_paths(space, codes), np.float64)
    scales = np.array([0.9, 0.5, 0.2, 0.1])  # of words of 0 to 3 operators
    found = kernel.covariance(jnp.log(jnp.array([1.3, *scales])), codes, codes)
    expected = dense_rbf(np.concatenate([[1.3], np.repeat(scales, [1, 3, 9, 27])]), counts, counts)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(found[6:, 6:], np.full((5, 5), 1.3), rtol=1e-9)


def test_a_thousand_rows_stay_positive_definite_in_single_precision():
    # Almost no noise and an almost constant kernel: without the floor of the noise the factor is NaN.
    kernel = kernels.hamming(6)
    data = regression.Data(
        spaces.sample(spaces.nasbench201(), jax.random.key(0), 1024), jnp.ones(1024), jnp.ones(1024, bool)
    )
    hyper = regression.Hyperparameters(jnp.zeros(()), jnp.array(-40.0), jnp.array([0.0, *[-8.0] * 6]))
    assert jnp.isfinite(regression.log_likelihood(kernel, hyper, data))


def test_a_sum_of_nothing_is_refused():
    with pytest.raises(ValueError, match="give one at least"):
        kernels.sum_of()
