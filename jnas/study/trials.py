"""What a search hands out: its trials, while it runs and at its end."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jnas.study.ledger import Row

if TYPE_CHECKING:
    import optuna


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
