"""Optuna's samplers as searchers: replayed from what was told, so that they are pure, and stand beside our own."""

import contextlib
import functools
import logging
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jnas.searchers.base import Observations, Searcher, complete, no_observations, record
from jnas.spaces.base import Space, num_options

if TYPE_CHECKING:
    import optuna

ATTEMPTS = 8  # proposals of a sampler for one architecture, until one is new


class Told(NamedTuple):
    """What a sampler was told, in the order of arrival."""

    seen: Observations  # of the sums of the scores: it knows what was told, and what of it has a value
    scores: dict[bytes, tuple[float, ...]]  # of the codes that have scores


def from_optuna(
    space: Space, sampler: Callable[[int], "optuna.samplers.BaseSampler"], *, objectives: int = 1
) -> Searcher:
    """A searcher that asks a sampler of Optuna's, for comparisons and for several objectives.

    At every ask a sampler is made with a seed from the key and shown the finished trials in their order, and the others
    as running; so the state is what was told and nothing else, and a search with it resumes and is shared exactly like
    one with our own searchers. A sampler may propose what it has seen: then it is asked again, up to 8 times, and at
    last a random architecture stands in.
    The cost of an ask grows with the number of trials told: about 0.1 ms each to show them.

    >>> import jax, optuna
    >>> from jnas import spaces
    >>> searcher = from_optuna(spaces.nasbench201(), lambda seed: optuna.samplers.TPESampler(seed=seed))
    >>> searcher.ask(searcher.init(), jax.random.key(0), 2).shape
    (2, 6)

    Args:
      space: any space; a choice is a categorical parameter.
      sampler: makes a sampler of a seed.
      objectives: how many scores a trial has, all larger the better.

    Returns:
      The searcher; with several objectives it is told `[n, objectives]` values.
    """

    def init() -> Told:
        return Told(no_observations(space), {})

    def tell(state: Told, codes, values) -> Told:
        rows = np.asarray(values, np.float64).reshape(len(codes), objectives)
        known = {
            np.asarray(code, np.int32).tobytes(): tuple(row.tolist())
            for code, row in zip(codes, rows, strict=True)
            if np.isfinite(row).all()
        }
        return Told(record(space, state.seen, codes, rows.sum(1)), {**state.scores, **known})

    def ask(state: Told, key, num):
        import optuna

        with _quiet():
            distributions = _distributions(space)
            seed = int(jax.random.randint(key, (), 0, np.iinfo(np.int32).max))
            study = _replayed(state, sampler(seed), distributions, objectives)
            found: dict[bytes, np.ndarray] = {}
            seen = {code.tobytes() for code in state.seen.codes[: state.seen.count]}
            for _ in range(num):
                for _ in range(ATTEMPTS):
                    trial = study.ask(distributions)
                    code = np.array([trial.params[name] for name in distributions], np.int32)
                    if code.tobytes() not in seen:
                        seen.add(code.tobytes())
                        found[code.tobytes()] = code
                        break  # it goes on running, so that the next of the batch keeps away from it
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
        codes = np.array(list(found.values()), np.int32).reshape(len(found), len(distributions))
        return complete(space, state.seen, jax.random.fold_in(key, 1), num, codes)

    return Searcher(init, ask, tell)


def tpe(space: Space, *, num_initial: int = 10) -> Searcher:
    """Optuna's tree-structured Parzen estimator, all choices modelled together.

    Args:
      space: any space.
      num_initial: random architectures before the model is used.
    """

    def make(seed: int):
        import optuna

        return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=num_initial)

    return from_optuna(space, make)


def nsga2(space: Space, *, objectives: int = 1, population: int = 20) -> Searcher:
    """Optuna's NSGA-II: an evolution for several objectives.

    Args:
      space: any space.
      objectives: how many scores a trial has.
      population: of a generation.

    Reference: Deb, Pratap, Agarwal, Meyarivan, "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE
    Transactions on Evolutionary Computation 6(2), 2002.
    """

    def make(seed: int):
        import optuna

        return optuna.samplers.NSGAIISampler(seed=seed, population_size=population)

    return from_optuna(space, make, objectives=objectives)


def weighted(searcher: Searcher, weights) -> Searcher:
    """A searcher of one score that is told several, added up: how our own searchers take part where there are several.

    Args:
      searcher: of one score.
      weights: `[num_objectives]`, of scores that are all larger the better.

    Returns:
      A searcher that is told `[n, num_objectives]` values.
    """
    factors = np.asarray(weights, np.float64)
    return searcher._replace(
        tell=lambda state, codes, values: searcher.tell(state, codes, np.asarray(values, np.float64) @ factors)
    )


@functools.lru_cache(maxsize=8)
def _distributions(space: Space) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution

    return {str(at): CategoricalDistribution(range(bound)) for at, bound in enumerate(num_options(space).tolist())}


@contextlib.contextmanager
def _quiet():
    """Without Optuna's remarks that a study was made, that a sampler is experimental."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _replayed(state: Told, sampler: "optuna.samplers.BaseSampler", distributions, objectives: int) -> "optuna.Study":
    import optuna

    directions = [optuna.study.StudyDirection.MAXIMIZE] * objectives
    study = optuna.create_study(directions=directions, sampler=sampler)
    population = getattr(sampler, "population_size", None)
    finished = 0
    for code in state.seen.codes[: state.seen.count]:
        scores = state.scores.get(code.tobytes())
        attrs = {}
        if population is not None and scores is not None:  # a genetic sampler keeps the generation with the trial
            attrs[f"{type(sampler).__name__}:generation"] = finished // population
            finished += 1
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING if scores is None else optuna.trial.TrialState.COMPLETE,
                values=None if scores is None else list(scores),
                params=dict(zip(distributions, code.tolist(), strict=True)),
                distributions=distributions, system_attrs=attrs,
            )
        )  # fmt: skip
    return study
