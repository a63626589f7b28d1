"""`search`, the only trial loop: any number of workers ask, evaluate and tell on one study."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jnas.errors import Interrupted
from jnas.files.signals import stop_on_signal
from jnas.searchers.base import Objective, Searcher
from jnas.study import leases
from jnas.study.ledger import Progress, Result
from jnas.study.storage import open_study, reached
from jnas.study.worker import FIRST_PAUSE, LONGEST_PAUSE, Worker
from jnas.types import Key

if TYPE_CHECKING:
    import optuna

LEASE_SECONDS = 60.0


def search(
    searcher: Searcher,
    objective: Objective,
    *,
    key: Key,
    num_evaluations: int,
    study: "optuna.Study | None" = None,
    batch_size: int = 1,
    hooks: Sequence[Callable[[Progress], None]] = (),
    describe: Callable[[np.ndarray], str] | None = None,
    max_failures: int = 10,
    max_retries: int = 3,
    lease_seconds: float = LEASE_SECONDS,
) -> Result:
    """Evaluate architectures that a searcher asks for, until a study holds so many complete trials.

    Started again on the same study it goes on; started several times at once, in processes on one machine or on many,
    the workers share the trials. Exactly `num_evaluations` complete in all; no architecture is asked twice; a trial
    whose worker died is evaluated by another one, with the same key.
    A searcher's state is made from the study at each ask, by telling it the trials in the order of their numbers, those
    without a value as NaN; so with one worker the architectures are the same however often it was killed.

    >>> import jax, numpy as np
    >>> from jnas import searchers, spaces
    >>> from jnas.searchers.base import Evaluation
    >>> space = spaces.nasbench201()
    >>> def objective(arch, key):
    ...     return Evaluation(float(np.sum(arch == 3)), {"convolutions": int(np.sum(arch == 3))})
    >>> result = search(searchers.random(space), objective, key=jax.random.key(0), num_evaluations=20)
    >>> len(result.trials), result.best.scores == (max(trial.scores[0] for trial in result.trials),)
    (20, True)

    Args:
      searcher: what to evaluate next; larger is better for it, so scores to minimise are told with their sign changed.
      objective: evaluates one architecture; an exception of its own fails the trial, and the search goes on.
      key: of the searcher's draws and of the objective; equal for all workers.
      num_evaluations: complete trials that the study shall hold; those that it holds count.
      study: from `open_study`; None: in memory.
      batch_size: architectures asked at once; any worker takes them. Larger: fewer asks, each knowing less.
      hooks: called after trials have finished, see `Progress`.
      describe: the name of an architecture, kept with the trial.
      max_failures: failed trials in the study at which the search ends with an error.
      max_retries: how often an architecture is tried again whose worker died: it may be what kills it.
      lease_seconds: after which a worker that gives no sign of life counts as dead. A worker of this machine is known
        to be dead at once. Equal for all workers.

    Returns:
      The trials of all workers and their Pareto front.

    Raises:
      ValueError: for a number below 1.
      UserError: if too many trials failed, or the storage does; or of the objective, and then the trial is left to the
        next worker.
      Interrupted: after SIGTERM or SIGINT, likewise.
    """
    for name, value in (("num_evaluations", num_evaluations), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} is {value}: give at least 1")
    if lease_seconds <= 0:
        raise ValueError(f"lease_seconds is {lease_seconds}: give a positive time")
    worker = Worker(
        searcher, objective, key, num_evaluations, open_study() if study is None else study, batch_size, describe,
        max_failures, max_retries, leases.Watch(lease_seconds),
    )  # fmt: skip
    with reached(), stop_on_signal() as stop, leases.beating(lease_seconds, worker.beat):
        pause, reported = FIRST_PAUSE, -1
        while True:
            rows = worker.look()
            finished = sum(row.state in ("complete", "failed") for row in rows)
            if finished > reported:
                worker.report(hooks)
                reported, pause = finished, FIRST_PAUSE
            if stop.signal:  # also after the last trial: who called this has more to do
                raise Interrupted(f"stopped by {stop.signal}: the same command goes on with the other trials")
            if sum(row.state == "complete" for row in rows) >= num_evaluations:
                worker.drop_waiting()
                return worker.result()
            if worker.work():
                pause = FIRST_PAUSE
            else:
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
