"""Gaussian-process regression: marginal likelihood, posterior mean and full covariance of padded observations.

Double precision is needed to compare with other software (float32 agrees to 1e-3 or so) and for noise variances below
1e-4 of the variance of the targets: in float32 the noise has that floor (see `jitter`), because a covariance matrix of
n rows with entries of order one loses its positive definiteness to rounding once the noise is under about 1e-7 n.
Standardise the targets in double precision before they get here: accuracies of 93.1 and 93.2 differ by little in
float32.
"""

import functools
from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

from jnas.searchers.gp.kernels import Kernel
from jnas.types import Array, Key

LOG_NOISE = -1.5  # mean of the prior of the log noise variance
LOG_NOISE_STD = 2.0
LOG_KERNEL_STD = 1.5  # of the prior of each of the kernel's log parameters
MEAN_STD = 1.0


class Hyperparameters(NamedTuple):
    """What the marginal likelihood learns; targets are standardised, so that all of it is of order one."""

    mean: Array  # [] the constant mean
    log_noise: Array  # [] log of the noise variance
    log_kernel: Array  # [num_parameters] logs of the kernel's parameters


class Data(NamedTuple):
    """Observations in padded arrays. A row outside the mask changes nothing."""

    inputs: Array  # [n, num_features]
    targets: Array  # [n] float, standardised; any finite number outside the mask
    mask: Array  # [n] bool


class Conditioned(NamedTuple):
    """What every prediction from the same observations shares."""

    inputs: Array  # [n, num_features]
    mask: Array  # [n] bool
    cholesky: Array  # [n, n] lower triangular; the identity outside the mask
    weights: Array  # [n] (K + noise I)^-1 (y - mean); zero outside the mask
    hyper: Hyperparameters


def jitter(dtype) -> float:
    """The floor of the noise variance, in units of the variance of the targets: 1e-4 in float32, 1e-10 in float64."""
    return 1e-10 if jnp.dtype(dtype).itemsize >= 8 else 1e-4


def prior_mean(kernel: Kernel, dtype=jnp.float32) -> Hyperparameters:
    """The centre of the weak priors, where a fit starts."""
    return Hyperparameters(jnp.zeros((), dtype), jnp.full((), LOG_NOISE, dtype), jnp.asarray(kernel.init, dtype))


def noise_variance(hyper: Hyperparameters) -> Array:
    """The noise variance, floor included."""
    return jnp.exp(hyper.log_noise) + jitter(hyper.log_noise.dtype)


def condition(kernel: Kernel, hyper: Hyperparameters, data: Data) -> Conditioned:
    """Factorises the covariance matrix of the observations.

    Padding is exact: the rows and columns of an unused row are those of the identity and its residual is zero, which
    adds log 1 to the determinant and zero to every sum.

    Args:
      kernel: of the process.
      hyper: its hyper-parameters.
      data: the observations.

    Returns:
      What `predict`, `posterior` and `log_likelihood` read.
    """
    covariance, residual = _covariance_and_residual(kernel, hyper, data)
    cholesky = jnp.linalg.cholesky(covariance)
    weights = jax.scipy.linalg.cho_solve((cholesky, True), residual)
    return Conditioned(data.inputs, data.mask, cholesky, weights, hyper)


def log_likelihood(kernel: Kernel, hyper: Hyperparameters, data: Data) -> Array:
    """The log marginal likelihood.

    log p(y) = -1/2 r' (K + noise I)^-1 r - 1/2 log det (K + noise I) - n/2 log 2 pi,  r = y - mean.

    Args:
      kernel: of the process.
      hyper: its hyper-parameters.
      data: the observations.

    Returns:
      A scalar; NaN where rounding has made the covariance matrix indefinite.
    """
    covariance, residual = _covariance_and_residual(kernel, hyper, data)
    count = jnp.sum(data.mask).astype(residual.dtype)
    return _log_density(covariance, residual) - 0.5 * count * jnp.log(2.0 * jnp.pi).astype(residual.dtype)


def _covariance_and_residual(kernel, hyper, data):
    dtype = data.targets.dtype
    both = data.mask[:, None] & data.mask[None, :]
    covariance = jnp.where(both, kernel.covariance(hyper.log_kernel, data.inputs, data.inputs), jnp.zeros((), dtype))
    diagonal = jnp.where(data.mask, noise_variance(hyper), jnp.ones((), dtype))
    return covariance + jnp.diag(diagonal), jnp.where(data.mask, data.targets - hyper.mean, jnp.zeros((), dtype))


@jax.custom_vjp
def _log_density(covariance, residual):
    return _log_density_forward(covariance, residual)[0]


def _log_density_forward(covariance, residual):
    cholesky = jnp.linalg.cholesky(covariance)
    weights = jax.scipy.linalg.cho_solve((cholesky, True), residual)
    value = -0.5 * (residual @ weights) - jnp.sum(jnp.log(jnp.diagonal(cholesky)))
    return value, (cholesky, weights)


def _log_density_backward(kept, cotangent):
    # d/dK = 1/2 (w w' - K^-1). Differentiating through the factorisation costs twice as much at a thousand rows.
    cholesky, weights = kept
    inverse = jax.scipy.linalg.cho_solve((cholesky, True), jnp.eye(len(weights), dtype=weights.dtype))
    return cotangent * 0.5 * (weights[:, None] * weights[None, :] - inverse), -cotangent * weights


_log_density.defvjp(_log_density_forward, _log_density_backward)


def log_prior(kernel: Kernel, hyper: Hyperparameters) -> Array:
    """Weak normal priors of the hyper-parameters, up to a constant: what tames them at ten observations."""
    centre = prior_mean(kernel, hyper.mean.dtype)
    return -0.5 * (
        ((hyper.mean - centre.mean) / MEAN_STD) ** 2
        + ((hyper.log_noise - centre.log_noise) / LOG_NOISE_STD) ** 2
        + jnp.sum(((hyper.log_kernel - centre.log_kernel) / LOG_KERNEL_STD) ** 2)
    )


def log_evidence(kernel: Kernel, hyper: Hyperparameters, data: Data) -> Array:
    """The log likelihood with the hyper-parameters integrated out, by Laplace's approximation: to choose a kernel.

    log p(y) ~ log p(y | h) + log p(h) + d/2 log 2 pi - 1/2 log det H, H the Hessian of -log p(y, h) at its minimum h.
    The maximum alone would prefer the kernel with the most parameters; log det H charges for each that the data fix.

    Args:
      kernel: of the process.
      hyper: the result of `fit`.
      data: the same observations; double precision.

    Returns:
      A scalar, comparable between kernels on the same targets; NaN where `hyper` is no minimum.
    """
    flat, unravel = jax.flatten_util.ravel_pytree(hyper)
    spread = Hyperparameters(
        jnp.full_like(hyper.mean, MEAN_STD),
        jnp.full_like(hyper.log_noise, LOG_NOISE_STD),
        jnp.full_like(hyper.log_kernel, LOG_KERNEL_STD),
    )

    def joint(vector):
        return log_likelihood(kernel, unravel(vector), data) + log_prior(kernel, unravel(vector))

    hessian = jax.jacfwd(jax.grad(lambda vector: -joint(vector)))(flat)
    log_det = 2.0 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(hessian))))
    # The priors' normalising constants cancel the powers of 2 pi.
    return joint(flat) - jnp.sum(jnp.log(jax.flatten_util.ravel_pytree(spread)[0])) - 0.5 * log_det


class Fit(NamedTuple):
    """The result of a fit."""

    hyper: Hyperparameters
    log_posterior: Array  # [] log likelihood + log prior at `hyper`
    log_likelihood: Array  # []


@functools.partial(jax.jit, static_argnames=("kernel", "num_restarts", "num_steps"))
def fit(kernel: Kernel, data: Data, key: Key, *, num_restarts: int = 2, num_steps: int = 30) -> Fit:
    """Maximises the log marginal likelihood plus the log prior by L-BFGS from several starts.

    A pure function of the observations and the key: nothing is carried from one fit to the next, so that a search that
    was killed and replayed finds the same hyper-parameters.

    Args:
      kernel: of the process; build it once and keep it, a kernel built again compiles again.
      data: the observations.
      key: of the starts after the first, which is the priors' mean.
      num_restarts: starts in all; static.
      num_steps: L-BFGS steps of each at most; static. It stops earlier where a step gains less than 1e-3.

    Returns:
      The best of the starts; a start that ran into a covariance matrix that is not positive definite counts as worst.
    """
    centre = prior_mean(kernel, data.targets.dtype)

    def loss(hyper):
        return -log_likelihood(kernel, hyper, data) - log_prior(kernel, hyper)

    def start(key):
        keys = jax.tree.unflatten(jax.tree.structure(centre), list(jax.random.split(key, 3)))
        return jax.tree.map(lambda x, k: x + 0.5 * jax.random.normal(k, x.shape, x.dtype), centre, keys)

    drawn = jax.vmap(start)(jax.random.split(key, num_restarts))
    starts = jax.tree.map(lambda x, first: x.at[0].set(first), drawn, centre)
    # One after the other and not side by side: a covariance matrix and its derivatives are the memory of a fit.
    values, found = jax.lax.map(lambda first: _minimise(loss, first, num_steps), starts)
    best = jnp.argmin(values)
    hyper = jax.tree.map(lambda x: x[best], found)
    return Fit(hyper, -values[best], -values[best] - log_prior(kernel, hyper))


def _minimise(loss, first, num_steps):
    # optax's line search mixes dtypes, and steps where the loss is NaN: keep the best point seen.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        solver = optax.lbfgs(linesearch=optax.scale_by_zoom_linesearch(max_linesearch_steps=8))
        value_and_grad = optax.value_and_grad_from_state(loss)

        def step(carry):
            count, params, state, best_value, best, _ = carry
            value, grad = value_and_grad(params, state=state)
            updates, state = solver.update(grad, state, params, value=value, grad=grad, value_fn=loss)
            better = value < best_value  # False for NaN
            gain = best_value - value
            best = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, best)
            best_value = jnp.where(better, value, best_value)
            # Below this gain rounding decides in float32, and no prediction changes in double.
            going = jnp.isfinite(value) & (gain > 1e-3 + 1e-6 * jnp.abs(value))
            return count + 1, optax.apply_updates(params, updates), state, best_value, best, going

        infinity = jnp.full((), jnp.inf, first.mean.dtype)
        carry = (jnp.zeros((), jnp.int32), first, solver.init(first), infinity, first, jnp.array(True))
        carry = jax.lax.while_loop(lambda carry: (carry[0] < num_steps) & carry[-1], step, carry)
    return carry[3], carry[4]


def predict(kernel: Kernel, given: Conditioned, inputs: Array) -> tuple[Array, Array, Array]:
    """Posterior mean and variance of the process (without the noise) at many inputs, one by one.

    Args:
      kernel: of the process.
      given: the observations, factorised.
      inputs: `[m, num_features]`.

    Returns:
      Mean `[m]`; variance `[m]`, at least 0; and `[n, m]` the matrix L^-1 k(observed, inputs), whose inner products are
      the reductions of covariance that the observations bring.
    """
    cross = kernel.covariance(given.hyper.log_kernel, given.inputs, inputs)
    cross = jnp.where(given.mask[:, None], cross, jnp.zeros((), cross.dtype))
    mean = given.hyper.mean + given.weights @ cross
    reduction = jax.scipy.linalg.solve_triangular(given.cholesky, cross, lower=True)
    prior = jax.vmap(lambda x: kernel.covariance(given.hyper.log_kernel, x[None], x[None])[0, 0])(inputs)
    return mean, jnp.maximum(prior - jnp.sum(reduction**2, axis=0), 0.0), reduction


def posterior(kernel: Kernel, given: Conditioned, inputs: Array) -> tuple[Array, Array]:
    """Posterior mean and full covariance of the process, without the noise.

    mean = m + k(x, X) (K + noise I)^-1 (y - m),  covariance = k(x, x') - k(x, X) (K + noise I)^-1 k(X, x').
    For the distribution of new observations add `noise_variance` to the diagonal.

    Args:
      kernel: of the process.
      given: the observations, factorised.
      inputs: `[m, num_features]`.

    Returns:
      Mean `[m]` and covariance `[m, m]`.
    """
    mean, _, reduction = predict(kernel, given, inputs)
    prior = kernel.covariance(given.hyper.log_kernel, inputs, inputs)
    return mean, prior - reduction.T @ reduction
