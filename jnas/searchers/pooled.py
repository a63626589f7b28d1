"""A Gaussian process over spaces that learns from every network drawn from them, not from a summary of the networks.

The mean of four networks of a space is as much news of which four were drawn as of the space. So the process is one
over descriptors of NETWORKS; a space is where its networks are on average, and its performance the process there. For
the part of the process that is linear in the descriptor this is exactly the mean over the space's networks.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnas.searchers.base import Observations, Searcher, complete, no_observations, padded_length, record
from jnas.searchers.gp import acquisition, regression
from jnas.searchers.gp.kernels import Kernel
from jnas.searchers.gp.searcher import Surrogate, candidates_of
from jnas.spaces.base import Space, size
from jnas.types import Array

# code [num_choices] of a space -> the descriptors [n, num_features] and the scores [n] of its networks
Evidence = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Pooled(NamedTuple):
    """A searcher over spaces and its model."""

    searcher: Searcher  # told the summaries of spaces, which only say which spaces are known
    model: Surrogate
    values: Callable[[Observations], np.ndarray]  # the scores of all networks known, `[n]`


def pooled(
    family: Space,
    *,
    kernel: Kernel,
    features: Callable[[np.ndarray], np.ndarray],
    evidence: Evidence,
    transform: Callable[[np.ndarray], np.ndarray],
    num_initial: int = 4,
    num_candidates: int = 2048,
    num_restarts: int = 2,
    num_steps: int = 30,
    information: bool = False,
) -> Pooled:
    """Asks for spaces by what is known of their networks.

    Args:
      family: the space of spaces.
      kernel: over descriptors.
      features: host function, codes `[n, num_choices]` of spaces -> `[n, num_features]`, the mean of the descriptors of
        a space's networks.
      evidence: host function, see `Evidence`; asked for the spaces that have a value.
      transform: host function of the networks' scores `[n]` to targets of about zero mean and unit variance.
      num_initial: random spaces before the first fit.
      num_candidates: among which the acquisition is maximised; a few hundred with `information`.
      num_restarts: of a fit.
      num_steps: of a fit.
      information: choose by mutual information; otherwise by expected improvement over the best space seen.

    Returns:
      The searcher and its model.

    Raises:
      ValueError: if a number is too small or the family has one member.
    """
    if num_initial < 2 or num_candidates < 8 or size(family) < 2:
        raise ValueError(
            f"num_initial={num_initial}, num_candidates={num_candidates}, {size(family)} spaces: give at least 2, 8, 2."
        )
    small, candidates = size(family) <= num_candidates, candidates_of(family, num_candidates)

    def known(state):
        return [evidence(code) for code in state.codes[state.known]]

    def values(state):
        return np.concatenate([scores for _, scores in known(state)])

    def data_of(state):
        rows = known(state)
        inputs = np.concatenate([descriptors for descriptors, _ in rows])
        targets = transform(np.concatenate([scores for _, scores in rows]))
        length = padded_length(len(targets))
        padded = np.zeros((length, inputs.shape[1]), np.float32)
        padded[: len(inputs)] = inputs
        mask = jnp.asarray(np.arange(length) < len(targets))
        return regression.Data(
            jnp.asarray(padded), jnp.asarray(np.pad(targets, (0, length - len(targets))), jnp.float32), mask
        )

    def fit(state, key):
        return regression.fit(kernel, data_of(state), key, num_restarts=num_restarts, num_steps=num_steps)

    def predict(state, hyper, codes):
        mean, variance = _predict(kernel, hyper, data_of(state), features(codes))
        return mean, jnp.sqrt(variance)

    def ask(state, key, num):
        key_candidates, key_fit, key_rest = jax.random.split(key, 3)
        preferred = np.zeros((0, len(family.choices)), np.int32)
        if state.known.sum() >= num_initial and len(codes := candidates(state, key_candidates)):
            length = padded_length(len(codes)) if small else num_candidates
            rows = np.zeros((length, codes.shape[1]), np.int32)
            rows[: len(codes)] = codes
            data, there = data_of(state), np.arange(length) < len(codes)
            hyper = regression.fit(kernel, data, key_fit, num_restarts=num_restarts, num_steps=num_steps).hyper
            if information:
                chosen = _by_information(kernel, hyper, data, features(rows), there, num)
            else:
                seen = features(state.codes)
                chosen = _by_improvement(kernel, hyper, data, seen, state.known, features(rows), there, num)
            chosen = np.asarray(chosen)
            preferred = rows[chosen[chosen < len(codes)]]
        return complete(family, state, key_rest, num, preferred)

    searcher = Searcher(functools.partial(no_observations, family), ask, functools.partial(record, family))
    return Pooled(searcher, Surrogate(fit, predict), values)


@functools.partial(jax.jit, static_argnames="kernel")
def _predict(kernel, hyper, data, inputs):
    return regression.predict(kernel, regression.condition(kernel, hyper, data), inputs)[:2]


@functools.partial(jax.jit, static_argnames=("kernel", "num"))
def _by_improvement(kernel, hyper, data, seen, is_known, inputs, allowed, num) -> Array:
    given = regression.condition(kernel, hyper, data)
    best = jnp.max(jnp.where(is_known, regression.predict(kernel, given, seen)[0], -jnp.inf))
    mean, variance, reduction = regression.predict(kernel, given, inputs)

    def covariance_with(index):
        prior = kernel.covariance(hyper.log_kernel, inputs[index][None], inputs)[0]
        return prior - reduction[:, index] @ reduction

    return acquisition.believe(mean, variance, covariance_with, allowed, best, regression.noise_variance(hyper), num)


@functools.partial(jax.jit, static_argnames=("kernel", "num"))
def _by_information(kernel, hyper, data, inputs, allowed, num) -> Array:
    _, covariance = regression.posterior(kernel, regression.condition(kernel, hyper, data), inputs)
    both = allowed[:, None] & allowed[None, :]
    covariance = jnp.where(both, covariance, jnp.zeros((), covariance.dtype))
    return acquisition.mutual_information(covariance, regression.noise_variance(hyper), num, allowed)
