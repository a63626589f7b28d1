"""Search by a probability model until the model stands still: the loop of both levels of the search over spaces.

At every iteration one architecture is asked for and evaluated, and the model is fitted to all that is known: its
hyper-parameters by marginal likelihood, its posterior, and the incumbent, the largest posterior mean. The search ends
when for some iterations in a row neither the hyper-parameters nor the incumbent and its posterior have moved by more
than a tolerance, or at the budget.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jnas.searchers import Observations, Pooled, Surrogate
from jnas.searchers.base import NoneAllowed, Objective, deviation
from jnas.searchers.gp.regression import Hyperparameters
from jnas.study import open_study, search
from jnas.study.ledger import rows_of, trial_of
from jnas.types import Key

if TYPE_CHECKING:
    import optuna

_AT_A_TIME = 4096  # codes in one prediction
_NEGLIGIBLE = 0.05  # added to a hyper-parameter before its log: one that matters no more may go on to zero


class Criterion(NamedTuple):
    """When a search by a model has converged."""

    tolerance: float = 0.2  # of logs of hyper-parameters, and of the posterior in standard deviations of the scores
    patience: int = 3  # iterations in a row
    least: int = 2  # evaluations, known ones included, before the model is first looked at


class Found(NamedTuple):
    """How a search ended."""

    code: np.ndarray  # [num_choices] int32, the incumbent: the largest posterior mean
    codes: np.ndarray  # [num_evaluations, num_choices] int32, in order
    scores: np.ndarray  # [num_evaluations]
    log: list[dict[str, Any]]  # what the model said after each of the iterations with one
    converged: bool | None  # None: it had nothing left to ask for within the limits


def centre_and_scale(values: np.ndarray) -> tuple[float, float]:
    """Median and robust standard deviation (1.4826 times the median distance from it), for scores with outliers.

    Args:
      values: `[n]`.

    Returns:
      Both; the scale falls back on the standard deviation where more than half of the values are equal, and on 1.
    """
    if not len(values):
        return 0.0, 1.0
    centre = float(np.median(values))
    rounding = 64 * np.finfo(values.dtype).eps * float(np.abs(values).max())
    robust = 1.4826 * float(np.median(np.abs(values - centre)))
    return centre, (robust if robust > rounding else float(deviation(values))) or 1.0


def clipped(values: np.ndarray) -> np.ndarray:
    """Scores to targets of a model: robustly standardised, and no worse than 3 standard deviations below the median.

    A network that did not train at all would otherwise squeeze the good ones into what a model takes for noise.
    The order of the better ones and the distances between them stay, so that a posterior can be read in units of the
    scores.

    >>> print(clipped(np.array([10.0, 91.0, 92.0, 93.0, 95.0])).round(2))
    [-3.   -0.67  0.    0.67  2.02]

    Args:
      values: `[n]`.

    Returns:
      `[n]`.
    """
    centre, scale = centre_and_scale(values)
    return np.maximum((values - centre) / scale, -3.0)


def search_until_settled(
    by: Pooled,
    objective: Objective,
    *,
    key: Key,
    num_evaluations: int,
    criterion: Criterion,
    study: "optuna.Study | None" = None,
    answers: np.ndarray | None = None,
    known: tuple[np.ndarray, np.ndarray] | None = None,
    describe: Callable[[np.ndarray], str] | None = None,
    look: Callable[[dict[str, Any]], None] | None = None,
) -> Found:
    """Search, and stop when the model has converged.

    A search that was killed is started again on the same study: it evaluates what is missing, and ends as it would
    have. The log is a function of the trials, and is made anew.

    Args:
      by: a searcher and its model, which says what the incumbent is; their targets must be made by `clipped`. Within
        limits the search ends with what it has where there is nothing new to ask for.
      objective: larger is better.
      key: of the search.
      num_evaluations: the budget, known ones not included; at least 1.
      criterion: of convergence.
      study: from `open_study`.
      answers: `[n, num_choices]`, the architectures that may be the answer; None: those evaluated.
      known: `(codes, scores)` that were evaluated before; they enter the model and not the study.
      describe: the name of an architecture.
      look: called with each entry of the log.

    Returns:
      What was found.

    Raises:
      ValueError: if a number is too small.
      UserError, Interrupted: as `search`; NoneAllowed if nothing at all is known.
    """
    if criterion.least < 2 or num_evaluations < 1:
        raise ValueError(f"least={criterion.least}, num_evaluations={num_evaluations}: give 2 and 1 at least.")
    begun = lambda one: one if known is None else one._replace(init=functools.partial(one.tell, one.init(), *known))
    informed, told = begun(by.asker or by.searcher), begun(by.searcher)
    log: list[dict[str, Any]] = []
    settled, converged, state, previous = 0, False, told.init(), None
    study = open_study() if study is None else study
    # What the study holds is read and not asked of `search`, which would clear away what waits to be tried again.
    trials = tuple(trial_of(row) for row in rows_of(study) if row.state == "complete")
    go_on = functools.partial(search, informed, objective, key=key, study=study, describe=describe)
    for count in range(1, num_evaluations + 1):
        if count > len(trials):
            try:
                trials = go_on(num_evaluations=count).trials
            except NoneAllowed:
                if not state.known.any():
                    raise
                converged = None
                break
        last = trials[count - 1]
        if (state.codes[: state.count] == last.code).all(-1).any():  # a searcher repeats itself where nothing is left
            converged = None
            break
        state = told.tell(state, last.code[None], np.array(last.scores))
        if state.known.sum() < criterion.least:
            continue
        now = incumbent(by.model, state, answers, by.values, by.allowed)
        entry = {
            "step": count, "name": describe(now.code) if describe else str(now.code.tolist()), **now.facts,
            **_moved(previous, now),
        }  # fmt: skip
        still = previous is not None and max(entry["moved_hyper"], entry["moved_posterior"]) <= criterion.tolerance
        settled = settled + 1 if still and not entry["replaced"] else 0
        converged = settled >= criterion.patience
        entry["settled"] = settled
        log.append(entry)
        if look is not None:
            look(entry)
        previous = now
        if converged:
            break
    code = previous.code if previous is not None else state.codes[np.nanargmax(state.values[: state.count])]
    rows = state.known
    return Found(np.asarray(code), state.codes[rows], state.values[rows], log, converged)


class Incumbent(NamedTuple):
    """What the model thinks at one iteration."""

    code: np.ndarray
    hyper: np.ndarray  # flat: logs, see `_NEGLIGIBLE`, and the mean
    posterior: tuple[float, float]  # mean and standard deviation of the incumbent, in units of the scores
    scale: float  # of the scores
    facts: dict[str, Any]  # for the log


def incumbent(
    model: Surrogate,
    state: Observations,
    answers: np.ndarray | None = None,
    values: Callable[[Observations], np.ndarray] | None = None,
    allowed: Callable[[np.ndarray], bool] | None = None,
) -> Incumbent:
    """The architecture of largest posterior mean, from the observations alone: the same ones give the same answer.

    Args:
      model: with targets by `clipped`.
      state: the observations.
      answers: `[n, num_choices]` to choose among; None: those observed.
      values: what the model's targets are made of; None: the known scores.
      allowed: whether one may be chosen, asked of the best ones until it is; None: any.

    Returns:
      The incumbent and what the model says.
    """
    fitted = model.fit(state, jax.random.key(0))
    hyper = fitted.hyper
    among = state.codes[: state.count] if answers is None else answers
    mean, std = _predict(model, state, hyper, among)
    if answers is None:
        mean = np.where(state.known[: state.count], mean, -np.inf)
    best = next(at for at in np.argsort(-mean, kind="stable").tolist() if allowed is None or allowed(among[at]))
    centre, scale = centre_and_scale(state.values[state.known] if values is None else values(state))
    posterior = (centre + scale * float(mean[best]), scale * float(std[best]))
    logs = np.append(np.asarray(hyper.log_kernel, np.float64), float(hyper.log_noise))
    flat = np.append(np.log(np.exp(logs) + _NEGLIGIBLE), float(hyper.mean))
    facts = {
        "mean": posterior[0], "std": posterior[1], "best": float(np.nanmax(state.values[: state.count])),
        "evaluated": bool((state.codes[: state.count] == among[best]).all(-1).any()), "scale": scale,
        "log_likelihood": float(fitted.log_likelihood), "hyper_mean": float(hyper.mean),
        "log_noise": float(hyper.log_noise), "log_kernel": np.asarray(hyper.log_kernel, np.float64).tolist(),
    }  # fmt: skip
    return Incumbent(np.asarray(among[best]), flat, posterior, scale, facts)


def _predict(model: Surrogate, state: Observations, hyper: Hyperparameters, codes: np.ndarray):
    # Padded to a power of two: one program while the observations grow.
    size = min(_AT_A_TIME, 1 << max(5, (len(codes) - 1).bit_length()))
    said = []
    for start in range(0, len(codes), size):
        part = codes[start : start + size]
        rows = np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
        said.append([np.asarray(column)[: len(part)] for column in model.predict(state, hyper, rows)])
    return (np.concatenate(columns) for columns in zip(*said, strict=True))


def _moved(before: Incumbent | None, now: Incumbent) -> dict[str, Any]:
    """How far the model has moved since the iteration before; null at the first one."""
    if before is None:
        return {"moved_hyper": None, "moved_posterior": None, "replaced": None}
    distance = max(abs(a - b) for a, b in zip(before.posterior, now.posterior, strict=True)) / now.scale
    return {
        "moved_hyper": float(np.abs(now.hyper - before.hyper).max()), "moved_posterior": float(distance),
        "replaced": bool((now.code != before.code).any()),
    }  # fmt: skip
