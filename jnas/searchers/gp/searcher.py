"""Bayesian optimisation: a Gaussian process over architectures, refitted at every ask, and expected improvement."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnas.searchers.base import (
    Observations,
    Searcher,
    complete,
    deviation,
    enumerate_all,
    new_ones,
    no_observations,
    padded,
    padded_length,
    record,
)
from jnas.searchers.gp import acquisition, kernels, regression
from jnas.spaces.base import Space, mutate, sample, size
from jnas.types import Array, Key

# (kernel, hyper, data, asked [n] bool, candidates [m, num_features], allowed [m] bool, num, seen) -> [num] int32
# positions among the candidates. `data` knows the values of some rows, `asked` marks those and the ones still being
# evaluated; `seen`, inputs and which of them count, are what a candidate has to beat, None: the rows that were asked.
Acquire = Callable[..., Array]


class Process(NamedTuple):
    """How observations become data of a Gaussian process, and codes its inputs."""

    kernel: kernels.Kernel
    data: Callable[[Observations], regression.Data]
    features: Callable[[np.ndarray], np.ndarray]
    asked: Callable[[Observations, regression.Data], tuple[Any, Any]]  # `asked` and `seen` of an `Acquire`
    num_restarts: int  # of a fit
    num_steps: int


class Surrogate(NamedTuple):
    """The model of a searcher: what it believes of a space from the observations."""

    # (state, key) -> regression.Fit: the hyper-parameters, for a log or a criterion of convergence
    fit: Callable[[Observations, Key], regression.Fit]
    # (state, hyper, codes [n, num_choices]) -> mean [n], std [n] of the transformed scores, without noise
    predict: Callable[[Observations, regression.Hyperparameters, np.ndarray], tuple[Array, Array]]


def standardised(values: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance, in double precision: for scores whose errors are about normal."""
    scale = deviation(values)
    return (values - values.mean()) / scale if scale > 0 else np.zeros_like(values)


def normal_scores(values: np.ndarray) -> np.ndarray:
    """The normal quantiles of the ranks; equals share theirs.

    For accuracies: a few architectures that did not train at all would, standardised, squeeze the good ones into
    a range that the model takes for noise. Expected improvement needs no more than an order that is kept.

    >>> print(normal_scores(np.array([10.0, 93.0, 93.5])).round(2))
    [-0.97  0.    0.97]
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - 0.5 * counts
    return np.asarray(jax.scipy.special.ndtri(middle[inverse] / max(len(values), 1)), np.float64)


def surrogate(
    space: Space,
    *,
    kernel: kernels.Kernel | None = None,
    features: Callable[[np.ndarray], np.ndarray] | None = None,
    transform: Callable[[np.ndarray], np.ndarray] = normal_scores,
    num_restarts: int = 2,
    num_steps: int = 30,
) -> Surrogate:
    """The model of `gaussian_process`, by itself: to log its hyper-parameters or to take the best posterior mean.

    Args:
      space: of the codes.
      kernel: over the features; None: `kernels.default(space)`, over codes.
      features: host function, codes `[n, num_choices]` -> `[n, num_features]`, descriptors for a kernel such as `rbf`;
        None: the codes themselves.
      transform: host function of the known scores `[n]` to targets of about zero mean and unit variance.
      num_restarts: of a fit.
      num_steps: of a fit.

    Returns:
      Its two functions. They compile once per power of two of observations.
    """
    return model_of(_over_codes(space, kernel, features, transform, num_restarts, num_steps))


def model_of(process: Process) -> Surrogate:
    """The model of a process, by itself; its two functions compile once per power of two of observations."""
    steps = {"num_restarts": process.num_restarts, "num_steps": process.num_steps}

    def predict(state, hyper, codes):
        mean, variance = _predict(process.kernel, hyper, process.data(state), process.features(codes))
        return mean, jnp.sqrt(variance)

    return Surrogate(lambda state, key: regression.fit(process.kernel, process.data(state), key, **steps), predict)


def gaussian_process(
    space: Space,
    *,
    kernel: kernels.Kernel | None = None,
    features: Callable[[np.ndarray], np.ndarray] | None = None,
    transform: Callable[[np.ndarray], np.ndarray] = normal_scores,
    num_initial: int = 10,
    num_candidates: int = 2048,
    num_restarts: int = 2,
    num_steps: int = 30,
    acquire: Acquire | None = None,
) -> Searcher:
    """Asks for the largest expected improvement under a Gaussian process: the choice when an evaluation is dear.

    At every ask: transform the known scores, fit the hyper-parameters by marginal likelihood from the same start (the
    state is the observations and nothing else), believe the posterior mean of whatever is still being evaluated, and
    choose a batch by `acquisition.believe`. The value to beat is the largest posterior mean of an architecture seen:
    the largest observation would be the luckiest noise. Candidates: the whole space if it has no more than
    `num_candidates`, else half of them random and half mutations of the best seen, by one to three choices.

    Args:
      space: any space with at least two architectures.
      kernel: over the features; None: `kernels.default(space)`, over codes.
      features: host function, codes `[n, num_choices]` -> `[n, num_features]`; None: the codes.
      transform: host function of the known scores `[n]` to targets of about zero mean and unit variance.
      num_initial: random architectures to know before the first fit.
      num_candidates: among which the acquisition is maximised.
      num_restarts: of a fit.
      num_steps: of a fit.
      acquire: `by_improvement`, or `by_information` to learn the whole space rather than its best; None: the former.

    Returns:
      The searcher.

    Raises:
      ValueError: if a number is too small or the space has one architecture.
    """
    process = _over_codes(space, kernel, features, transform, num_restarts, num_steps)
    return searcher_of(process, space, by_improvement if acquire is None else acquire, num_initial, num_candidates)


def searcher_of(process: Process, space: Space, choose: Acquire, num_initial: int, num_candidates: int) -> Searcher:
    """The searcher of a process: fitted at every ask, and asked for what `choose` likes best; see `gaussian_process`.

    Raises:
      ValueError: if a number is too small or the space has one architecture.
    """
    if num_initial < 2 or num_candidates < 8:
        raise ValueError(f"num_initial={num_initial}, num_candidates={num_candidates}: give 2 and 8 at least.")
    if size(space) < 2:
        raise ValueError(f"space {space.name!r} has one architecture: there is nothing to search.")
    small, candidates = size(space) <= num_candidates, candidates_of(space, num_candidates)
    model = model_of(process)

    def ask(state, key, num):
        key_candidates, key_fit, key_rest = jax.random.split(key, 3)
        preferred = np.zeros((0, len(space.choices)), np.int32)
        if state.known.sum() >= num_initial and len(codes := candidates(state, key_candidates)):
            length = padded_length(len(codes)) if small else num_candidates  # one program while the list shrinks
            rows = padded(codes, length)
            data, allowed = process.data(state), np.arange(length) < len(codes)
            hyper, (asked, seen) = model.fit(state, key_fit).hyper, process.asked(state, data)
            chosen = np.asarray(choose(process.kernel, hyper, data, asked, process.features(rows), allowed, num, seen))
            preferred = rows[chosen[chosen < len(codes)]]
        return complete(space, state, key_rest, num, preferred)

    return Searcher(functools.partial(no_observations, space), ask, functools.partial(record, space))


def candidates_of(space: Space, num_candidates: int) -> Callable[[Observations, Key], np.ndarray]:
    """Where an acquisition is maximised: `(state, key) -> [n, num_choices]` of what was not told yet.

    Args:
      space: of the codes.
      num_candidates: at most; a space that is no larger is listed. Otherwise half of them are random and half are
        mutations, by one to three choices, of the best seen.

    Returns:
      The function.
    """
    everything = enumerate_all(space) if size(space) <= num_candidates else None
    mutations = jax.jit(jax.vmap(functools.partial(_mutations, space)))

    def candidates(state, key):
        if everything is not None:
            return new_ones(state, everything)
        key_random, key_parent, key_mutation = jax.random.split(key, 3)
        half = num_candidates // 2
        parents = np.argsort(-np.where(state.known, state.values, -np.inf), kind="stable")
        parents = parents[: max(1, min(10, int(state.known.sum())))]
        drawn = np.asarray(jax.random.randint(key_parent, (half,), 0, len(parents)))
        near = mutations(jax.random.split(key_mutation, half), state.codes[parents[drawn]])
        far = sample(space, key_random, num_candidates - half)
        return new_ones(state, np.concatenate([np.asarray(near), np.asarray(far)]))

    return candidates


def _mutations(space, key, code):
    # One to three mutations, with probabilities 1/2, 1/4, 1/4.
    keys = jax.random.split(key, 4)
    times = jnp.array([1, 1, 2, 3], jnp.int32)[jax.random.randint(keys[3], (), 0, 4)]
    for index in range(3):
        code = jnp.where(index < times, mutate(space, keys[index], code), code)
    return code


def _over_codes(space, kernel, features, transform, num_restarts, num_steps) -> Process:
    """The process over the codes of a space, or over their features."""

    def data(state):
        known = state.known
        targets = np.zeros(len(state.values))
        targets[known] = transform(state.values[known])
        return regression.Data(jnp.asarray(inputs(state.codes)), jnp.asarray(targets, jnp.float32), jnp.asarray(known))

    inputs = (lambda codes: codes) if features is None else features
    asked = lambda state, data: (np.arange(len(state.values)) < state.count, None)
    kernel = kernels.default(space) if kernel is None else kernel
    return Process(kernel, data, inputs, asked, num_restarts, num_steps)


@functools.partial(jax.jit, static_argnames="kernel")
def _predict(kernel, hyper, data, inputs):
    return regression.predict(kernel, regression.condition(kernel, hyper, data), inputs)[:2]


@functools.partial(jax.jit, static_argnames=("kernel", "num"))
def by_improvement(kernel, hyper, data: regression.Data, asked, inputs, allowed, num: int, seen=None) -> Array:
    """An `Acquire`: expected improvement over the largest posterior mean seen, batches by `acquisition.believe`."""
    given = regression.condition(kernel, hyper, data)
    known_mean, _, _ = regression.predict(kernel, given, data.inputs)
    mean, there = (known_mean, asked) if seen is None else (regression.predict(kernel, given, seen[0])[0], seen[1])
    best = jnp.max(jnp.where(there, mean, -jnp.inf))
    given = regression.condition(kernel, hyper, _believed(data, known_mean, asked))
    mean, variance, reduction = regression.predict(kernel, given, inputs)

    def covariance_with(index):
        prior = kernel.covariance(hyper.log_kernel, inputs[index][None], inputs)[0]
        return prior - reduction[:, index] @ reduction

    noise = regression.noise_variance(hyper)
    return acquisition.believe(mean, variance, covariance_with, allowed, best, noise, num)


@functools.partial(jax.jit, static_argnames=("kernel", "num"))
def by_information(kernel, hyper, data: regression.Data, asked, inputs, allowed, num: int, seen=None) -> Array:
    """An `Acquire`: the candidates that tell most about the others, see `acquisition.mutual_information`.

    It inverts matrices of as many rows as there are candidates: a few hundred are fine, thousands take seconds.
    """
    del seen  # no value enters
    given = regression.condition(kernel, hyper, _believed(data, jnp.zeros_like(data.targets), asked))
    _, covariance = regression.posterior(kernel, given, inputs)
    both = allowed[:, None] & allowed[None, :]
    covariance = jnp.where(both, covariance, jnp.zeros((), covariance.dtype))
    return acquisition.mutual_information(covariance, regression.noise_variance(hyper), num, allowed)


def _believed(data: regression.Data, mean: Array, asked: Array) -> regression.Data:
    """What is still being evaluated counts as observed at its posterior mean."""
    return regression.Data(data.inputs, jnp.where(data.mask, data.targets, mean), asked)
