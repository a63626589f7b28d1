"""What to evaluate next, given a Gaussian posterior: expected improvement, mutual information, batches of both."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jnas.types import Array


def expected_improvement(mean: Array, std: Array, best: Array) -> Array:
    """How much a candidate beats the best value, on average.

    E max(f - best, 0) = (mean - best) Phi(u) + std phi(u),  u = (mean - best) / std,  for f ~ N(mean, std^2).

    >>> print(expected_improvement(jnp.zeros(1), jnp.ones(1), jnp.zeros(1)).round(4))
    [0.3989]

    Args:
      mean: `[...]` of the posterior; larger is better.
      std: `[...]` of the posterior; 0 gives max(mean - best, 0).
      best: `[...]` value to beat.

    Returns:
      `[...]`, at least 0.

    Reference: Jones, Schonlau, Welch, "Efficient global optimization of expensive black-box functions", 1998.
    """
    gain = mean - best
    safe = jnp.where(std > 0, std, jnp.ones((), std.dtype))
    u = gain / safe
    value = gain * jax.scipy.stats.norm.cdf(u) + safe * jax.scipy.stats.norm.pdf(u)
    return jnp.maximum(jnp.where(std > 0, value, gain), 0.0)


@functools.partial(jax.jit, static_argnames="num")
def mutual_information(covariance: Array, noise: Array, num: int, allowed: Array | None = None) -> Array:
    """Greedily chooses the candidates that tell most about the others: for learning the whole space, not its best.

    Each step takes argmax var(x | chosen) / var(x | rest), rest = candidates neither chosen nor x, both variances those
    of noisy observations. That is the candidate whose addition raises the mutual information between chosen and rest
    most; a candidate at the rim of the set, which plain variance prefers, tells little about the others and loses.

    Args:
      covariance: `[m, m]` of the candidates, given what was observed already.
      noise: `[]` variance, above 0.
      num: candidates to choose, at most m; static.
      allowed: `[m]` bool, the candidates there are; None: all.

    Returns:
      `[num]` int32 indices, in the order of choice.

    Reference: Krause, Singh, Guestrin, "Near-optimal sensor placements in Gaussian processes", JMLR 9, 2008.
    """
    count = covariance.shape[0]
    identity = jnp.eye(count, dtype=covariance.dtype)
    there = jnp.ones(count, bool) if allowed is None else allowed
    noisy = covariance + noise * identity

    def precision(mask):
        # The inverse of the submatrix in the mask; outside it the identity.
        both = mask[:, None] & mask[None, :]
        return jnp.linalg.inv(jnp.where(both, noisy, identity))

    def step(chosen, _):
        inside = jnp.where(chosen[:, None] & chosen[None, :], precision(chosen), jnp.zeros((), noisy.dtype))
        given_chosen = jnp.diagonal(noisy) - jnp.einsum("ij,jk,ik->i", noisy, inside, noisy)
        # The inverse of the set with x: the Schur complement of the rest.
        given_rest = 1.0 / jnp.diagonal(precision(there & ~chosen))
        best = jnp.argmax(jnp.where(there & ~chosen, given_chosen / given_rest, -jnp.inf)).astype(jnp.int32)
        return chosen.at[best].set(True), best

    return jax.lax.scan(step, jnp.zeros(count, bool), length=num)[1]


def believe(
    mean: Array,
    variance: Array,
    covariance_with: Callable[[Array], Array],
    allowed: Array,
    best: Array,
    noise: Array,
    num: int,
) -> Array:
    """A batch by expected improvement: after each choice, believe that it will score its posterior mean.

    Observing the mean leaves the mean as it is everywhere, and shrinks variances by a rank-one term: no new
    factorisation is needed, and the batch spreads because what is believed known improves nothing ("kriging believer").

    Args:
      mean: `[m]` posterior of the candidates.
      variance: `[m]`.
      covariance_with: candidate index `[]` -> `[m]` posterior covariance with every candidate.
      allowed: `[m]` bool, candidates that may be chosen.
      best: `[]` value to beat.
      noise: `[]` variance of an observation.
      num: candidates to choose; static.

    Returns:
      `[num]` int32, indices of distinct allowed candidates as long as there are any.

    Reference: Ginsbourger, Le Riche, Carraro, "Kriging is well-suited to parallelize optimization", 2010.
    """

    def step(carry, index):
        variance, allowed, best, columns = carry
        score = expected_improvement(mean, jnp.sqrt(variance), best)
        # Far from the best the improvement underflows: among equals take the largest upper quantile.
        score = jnp.where(jnp.max(jnp.where(allowed, score, 0.0)) > 0, score, mean + 2.0 * jnp.sqrt(variance))
        chosen = jnp.argmax(jnp.where(allowed, score, -jnp.inf)).astype(jnp.int32)
        column = covariance_with(chosen) - columns.T @ columns[:, chosen]
        column = column / jnp.sqrt(jnp.maximum(variance[chosen], 0.0) + noise)
        variance = jnp.maximum(variance - column**2, 0.0)
        carry = (
            variance,
            allowed.at[chosen].set(False),
            jnp.maximum(best, mean[chosen]),
            columns.at[index].set(column),
        )
        return carry, chosen

    columns = jnp.zeros((num, mean.shape[0]), mean.dtype)
    return jax.lax.scan(step, (variance, allowed, best, columns), jnp.arange(num))[1]
