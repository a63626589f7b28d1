"""The trials of a study as rows and as handed out, and the rules by which any number of workers agree on who does what.

A trial is a slot: it waits, is taken by one worker, gets its architecture, and is completed or fails. Numbers are given
by the storage and never change, a trial that is finished stays as it is, and every rule below reads a row and those of
lower numbers only. So two workers that look at different moments may know more or less, and never disagree.
"""

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from jnas.files import schemas
from jnas.files.reading import checked, wrong
from jnas.study.storage import CHOICES

if TYPE_CHECKING:
    import optuna

State = Literal["waiting", "running", "complete", "failed", "dropped"]
# User attributes of a trial.
TRIAL, LEASE, RETRY, LOST, ERROR = "trial", "lease", "retry", "lost", "error"
METRICS, SECONDS = "metrics", "seconds"


class Row(NamedTuple):
    """One trial."""

    number: int
    id: int  # in the storage
    state: State
    code: tuple[int, ...] | None = None  # the architecture, once a searcher was asked
    ask: int = -1  # how many architectures had been asked before this one: its randomness; a retry keeps it
    values: tuple[float, ...] = ()  # in the units of the objectives
    metrics: dict[str, Any] = {}  # noqa: RUF012 - never mutated
    retry_of: int | None = None  # the trial whose worker was lost
    deaths: int = 0  # workers that died of this architecture before
    lost: str | None = None  # why its worker gave it up: "died" or "stopped"
    error: str | None = None  # what the objective raised
    lease: dict[str, Any] | None = None  # of its worker
    seconds: float = 0.0


def rows_of(study: "optuna.Study", known: Sequence[Row] = ()) -> list[Row]:
    """The rows of a study, in the order of their numbers.

    Args:
      study: the study.
      known: what an earlier call returned; a finished trial is not read again.
    """
    trials = study.get_trials(deepcopy=False)
    old = [row.state in ("complete", "failed", "dropped") for row in known]
    rows = [known[n] if n < len(old) and old[n] else _row(trial) for n, trial in enumerate(trials)]
    for row in rows[len(known) :]:
        _check(row, [len(labels) for _, labels in study.user_attrs.get(CHOICES, ())], len(study.directions))
    return rows


def serving(rows: Sequence[Row], num_evaluations: int) -> list[Row]:
    """The trials that may become the evaluations asked for: the first `num_evaluations` that have not failed.

    Failing removes a row and nothing adds one below another, so a row that serves once serves for good: if only serving
    rows are started, no more than `num_evaluations` can complete. A second retry of one trial, left by two workers that
    saw it fail at the same moment, does not serve.
    """
    retried: set[int] = set()
    found = []
    for row in rows:
        if row.retry_of is not None and row.state != "dropped":
            if row.retry_of in retried:
                continue
            retried.add(row.retry_of)
        if row.state in ("waiting", "running", "complete"):
            found.append(row)
    return found[:num_evaluations]


def to_retry(rows: Sequence[Row], max_retries: int) -> list[Row]:
    """The failed trials whose worker was lost, whose architecture is to be evaluated again and is not yet enqueued."""
    retried = {row.retry_of for row in rows if row.state != "dropped"}
    return [
        row
        for row in rows
        if row.state == "failed" and row.lost and row.code and row.number not in retried
        and row.deaths + (row.lost == "died") <= max_retries
    ]  # fmt: skip


def given_up(rows: Sequence[Row], max_retries: int) -> list[Row]:
    """The failed trials that are not tried again, each with the reason as its error.

    That is what its objective raised, or how many workers died while they evaluated it.
    """
    found = []
    for row in rows:
        deaths = row.deaths + (row.lost == "died")
        if row.state == "failed" and row.error:
            found.append(row)
        elif row.state == "failed" and row.lost and row.code and deaths > max_retries:
            found.append(row._replace(error=f"given up: {deaths} workers died while they evaluated it"))
    return found


def ask_number(rows: Sequence[Row]) -> int:
    """How many architectures were asked so far."""
    return sum(row.code is not None and row.retry_of is None for row in rows)


def told(rows: Sequence[Row], signs: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """What a searcher is told of some rows.

    Args:
      rows: those without an architecture are left out.
      signs: for each objective 1 to maximise, -1 to minimise.

    Returns:
      Codes `[n, num_choices]` int32, values `[n]` float64, or `[n, num_objectives]`, NaN while not known.
    """
    rows = [row for row in rows if row.code is not None]
    unknown = (float("nan"),) * len(signs)
    values = np.array([row.values if row.state == "complete" else unknown for row in rows], np.float64)
    values = values.reshape(len(rows), len(signs)) * np.asarray(signs, np.float64)[None]
    return np.array([row.code for row in rows], np.int32), values[:, 0] if len(signs) == 1 else values


def _check(row: Row, options: Sequence[int], num_objectives: int) -> None:
    """Raises a UserError for a row that is of another search, as after its journal was edited."""
    code = row.code or ()
    if code and options and (len(code) != len(options) or any(map(operator.ge, code, options))):
        raise wrong(_place(row.number), "trial.code", str(code), "an architecture of the space")
    if row.state == "complete" and len(row.values) != num_objectives:
        raise wrong(_place(row.number), "values", str(row.values), "one for each objective")


def _place(number: int) -> str:
    return f"trial {number} in its storage"


def _row(trial: "optuna.trial.FrozenTrial") -> Row:
    values = {} if trial.values is None else {"values": trial.values}
    attrs = checked({**trial.user_attrs, **values}, schemas.Kept, _place(trial.number))
    asked, retry, error = attrs.get(TRIAL, {}), attrs.get(RETRY, {}), attrs.get(ERROR)
    states: dict[str, State] = {"WAITING": "waiting", "RUNNING": "running", "COMPLETE": "complete", "FAIL": "failed"}
    return Row(
        trial.number,
        trial._trial_id,
        states.get(trial.state.name, "dropped"),
        tuple(asked["code"]) if asked else None,
        asked.get("ask", -1),
        tuple(trial.values or ()),
        attrs.get(METRICS, {}),
        retry.get("of"),
        retry.get("deaths", 0),
        attrs.get(LOST),
        error,
        attrs.get(LEASE),
        attrs.get(SECONDS, trial.duration.total_seconds() if trial.duration else 0.0),  # a clock may be set meanwhile
    )


class Trial(NamedTuple):
    """One evaluation."""

    number: int  # in the study
    code: np.ndarray  # [num_choices] int32
    scores: tuple[float, ...]  # one an objective; empty if it failed
    metrics: dict[str, Any]
    seconds: float
    error: str | None = None  # why it failed


class Result(NamedTuple):
    """What `search` returns."""

    trials: tuple[Trial, ...]  # that are complete, by number
    front: tuple[Trial, ...]  # of these none is better in every objective; with one objective the best, the first first
    failed: tuple[Trial, ...]  # whose objective raised, or whose workers died `max_retries` + 1 times
    study: "optuna.Study"

    @property
    def best(self) -> Trial:
        """The first of the front: with one objective the best trial."""
        return self.front[0]


class Progress(NamedTuple):
    """What a hook of `search` is told, whenever trials have finished, by whichever worker."""

    trials: tuple[Trial, ...]  # complete, by number
    new: tuple[Trial, ...]  # of these and of the failed: those finished since the last call
    running: int
    num_evaluations: int
    best: Trial | None = None  # of a study with one objective


def trial_of(row: Row) -> Trial:
    """A row of the study as it is handed out."""
    return Trial(row.number, np.array(row.code or (), np.int32), row.values, row.metrics, row.seconds, row.error)
