"""Search by a probability model until the model stands still: the loop of both levels of the search over spaces.

At every iteration one architecture is asked for and evaluated, and the model is fitted to all that is known: its
hyper-parameters by marginal likelihood, its posterior, and the incumbent, the largest posterior mean. The search ends
when for some iterations in a row neither the hyper-parameters nor the incumbent and its posterior have moved by more
than a tolerance, or at the budget.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jnas.searchers import Pooled
from jnas.searchers.base import NoneAllowed, Objective
from jnas.searchers.gp.incumbent import Incumbent, incumbent
from jnas.study import open_study, search
from jnas.study.hooks import TrialHook
from jnas.study.ledger import rows_of, trial_of
from jnas.types import Key

if TYPE_CHECKING:
    import optuna


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
    hook: TrialHook | None = None,
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
      hook: of `search`, called for every trial that this call evaluates.

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
    hooks = [] if hook is None else [_whole(hook, {trial.number for trial in trials}, num_evaluations)]
    go_on = functools.partial(search, informed, objective, key=key, study=study, describe=describe, hooks=hooks)
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


def _whole(hook: TrialHook, shown: set[int], budget: int) -> TrialHook:
    """A hook of `search`, which is asked for one trial more each time: it sees every trial once, and the budget."""

    def report(progress):
        new = tuple(trial for trial in progress.new if trial.number not in shown)
        shown.update(trial.number for trial in new)
        if new:
            hook(progress._replace(new=new, num_evaluations=budget))

    return report


def _moved(before: Incumbent | None, now: Incumbent) -> dict[str, Any]:
    """How far the model has moved since the iteration before; null at the first one."""
    if before is None:
        return {"moved_hyper": None, "moved_posterior": None, "replaced": None}
    distance = max(abs(a - b) for a, b in zip(before.posterior, now.posterior, strict=True)) / now.scale
    return {
        "moved_hyper": float(np.abs(now.hyper - before.hyper).max()), "moved_posterior": float(distance),
        "replaced": bool((now.code != before.code).any()),
    }  # fmt: skip
