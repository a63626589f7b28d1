"""What one worker of a search does: look at the study, take a trial, ask for its architecture, evaluate, tell."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jnas.errors import Interrupted, UserError
from jnas.files.writing import plain
from jnas.searchers.base import Evaluation, Objective, Searcher
from jnas.study import leases, ledger
from jnas.study.ledger import Progress, Result, Row, trial_of
from jnas.study.storage import CHOICES, MOST_LABELS
from jnas.types import Key

if TYPE_CHECKING:
    import optuna

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0  # seconds between two looks at a study that has nothing to do for us


@dataclasses.dataclass(eq=False)
class Worker:
    """One of the workers on a study. All that it must not lose is in the study; the rest it can read again."""

    searcher: Searcher
    objective: Objective
    key: Key
    num_evaluations: int
    study: "optuna.Study"
    batch_size: int
    describe: Callable[[np.ndarray], str] | None
    max_failures: int
    max_retries: int
    watch: leases.Watch

    def __post_init__(self):
        self.storage = self.study._storage  # Optuna's own loop offers no trial to another worker; its storages do
        self.ask_key, self.objective_key = jax.random.split(self.key)
        self.signs = [1 if direction.name == "MAXIMIZE" else -1 for direction in self.study.directions]
        self.choices: list[tuple[str, list[str]]] = self.study.user_attrs.get(CHOICES, [])
        self.lease = leases.identity()
        self.taken = {**self.lease, leases.TAKEN: True}
        self.watch.own = self.lease["worker"]
        self.running: Row | None = None
        self.rows: list[Row] = []
        self.shown: set[int] = set()
        self.folded: tuple[Any, int] = (self.searcher.init(), 0)  # a state, and the rows that it was told, all finished

    # what the study holds

    def look(self) -> list[Row]:
        """Read the study, and see to trials whose worker is gone."""
        self.rows = ledger.rows_of(self.study, self.rows)
        others = [row for row in self.rows if self.running is None or row.number != self.running.number]
        gone = self.watch.dead(others)
        for row in gone:
            self._give_up(row, "died")
        if gone:
            self.rows = ledger.rows_of(self.study, self.rows)
        again = ledger.to_retry(self.rows, self.max_retries)
        for row in again:
            deaths = row.deaths + (row.lost == "died")
            self._enqueue({ledger.TRIAL: _asked(row.code, row.ask), ledger.RETRY: {"of": row.number, "deaths": deaths}})
        if again:
            self.rows = ledger.rows_of(self.study, self.rows)
        return self.rows

    def result(self) -> Result:
        """What is in the study, as it is handed out."""
        complete = {row.number: trial_of(row) for row in self.rows if row.state == "complete"}
        # Of what was seen: meanwhile others may have finished more.
        signed = {number: np.multiply(self.signs, trial.scores) for number, trial in complete.items()}
        front = tuple(
            trial
            for number, trial in complete.items()
            if not any((other >= signed[number]).all() and (other > signed[number]).any() for other in signed.values())
        )
        failed = tuple(map(trial_of, ledger.given_up(self.rows, self.max_retries)))
        return Result(tuple(complete.values()), front, failed, self.study)

    def report(self, hooks: Sequence[Callable[[Progress], None]]) -> None:
        """Tell the hooks what has finished, and stop where too much has failed."""
        failed = ledger.given_up(self.rows, self.max_retries)
        complete = [row for row in self.rows if row.state == "complete"]
        new = [row for row in sorted(failed + complete) if row.number not in self.shown]
        self.shown |= {row.number for row in new}
        running = sum(row.state == "running" for row in self.rows)
        if new:
            best = max(complete, key=lambda row: self.signs[0] * row.values[0], default=None)
            progress = Progress(
                tuple(map(trial_of, complete)), tuple(map(trial_of, new)), running, self.num_evaluations,
                None if best is None or len(self.signs) > 1 else trial_of(best),
            )  # fmt: skip
            for hook in hooks:
                hook(progress)
        if len(failed) >= self.max_failures:
            raise UserError(
                f"{len(failed)} trials have failed, the last one with {failed[-1].error}: correct the objective, or "
                "raise max_failures"
            )

    # what this worker does

    def work(self) -> bool:
        """Take a trial, or make room for one; False if the others do all there is to do."""
        serving = ledger.serving(self.rows, self.num_evaluations)
        waiting = next((row for row in serving if row.state == "waiting"), None)
        if waiting is None:
            missing = self.num_evaluations - len(serving)
            for _ in range(min(missing, self.batch_size)):
                self._enqueue({})
            return missing > 0
        if self._change(waiting, "RUNNING"):
            self._write(waiting, ledger.LEASE, self.taken)  # only who has it: a loser would hide whose it is
            self._run(waiting)
        return True

    def drop_waiting(self) -> None:
        """Clear away what was made room for and is not needed, when two workers made room at once."""
        for row in self.rows:
            if row.state == "waiting":
                self._change(row, "PRUNED")

    def beat(self, count: int) -> None:
        """Give a sign of life."""
        running = self.running
        if running is not None:
            self.storage.set_trial_user_attr(running.id, ledger.LEASE, {**self.taken, "beat": count})

    def _run(self, row: Row) -> None:
        self.running = row
        try:
            row = self._with_code(row)
            if row.code is None:
                return
            code, started = np.array(row.code, np.int32), time.monotonic()
            try:
                evaluation = self.objective(code, jax.random.fold_in(self.objective_key, row.ask))
                scores = _checked(evaluation, len(self.signs))
            except (UserError, Interrupted):
                raise
            except Exception as error:
                self._write(row, ledger.ERROR, f"{type(error).__name__}: {error}"[:1000])
                self._change(row, "FAIL")
                return
            self._write(row, ledger.SECONDS, time.monotonic() - started)
            if evaluation.metrics:
                self._write(row, ledger.METRICS, plain(evaluation.metrics))
            self._change(row, "COMPLETE", scores)
        except BaseException:
            with contextlib.suppress(Exception):
                self._give_up(row, "stopped")
            raise
        finally:
            self.running = None

    def _with_code(self, row: Row) -> Row:
        """The trial with its architecture, asked for in the order of the numbers, so that none is asked twice."""
        pause = FIRST_PAUSE
        while True:
            row = self.rows[row.number] if row.number < len(self.rows) else row
            if row.code is not None:
                return row
            self.look()
            row = self.rows[row.number]
            if row.state != "running":  # another worker took us for dead
                return row._replace(code=None)
            if row.code is not None:
                return row
            if not any(other.state == "running" and other.code is None for other in self.rows[: row.number]):
                break
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        later = [
            other
            for other in ledger.serving(self.rows, self.num_evaluations)
            if other.number > row.number and other.code is None
        ][: self.batch_size - 1]
        first = ledger.ask_number(self.rows)
        codes = np.asarray(
            self.searcher.ask(self._state(), jax.random.fold_in(self.ask_key, first), 1 + len(later)), np.int32
        )
        numbered = list(zip([row, *later], codes, range(first, first + len(codes)), strict=True))
        for other, code, ask in reversed(numbered):  # our own last: who waits for it then finds them all
            self._describe(other, code)
            self._write(other, ledger.TRIAL, _asked(tuple(map(int, code)), ask))
        return row._replace(code=tuple(map(int, codes[0])), ask=first)

    def _state(self) -> Any:
        """The searcher's state: the study, told."""
        state, count = self.folded
        while count < len(self.rows) and self.rows[count].state in ("complete", "failed", "dropped"):
            state = self._tell(state, self.rows[count : count + 1])
            count += 1
        self.folded = state, count
        return self._tell(state, self.rows[count:])

    def _tell(self, state: Any, rows: Sequence[Row]) -> Any:
        codes, values = ledger.told(rows, self.signs)
        return self.searcher.tell(state, codes, values) if len(codes) else state

    def _describe(self, row: Row, code: np.ndarray) -> None:
        from optuna.distributions import CategoricalDistribution, IntDistribution

        for (name, labels), option in zip(self.choices, code.tolist(), strict=bool(self.choices)):
            if len(set(labels)) == len(labels) <= MOST_LABELS:
                distribution = CategoricalDistribution(labels)
            else:
                distribution = IntDistribution(0, len(labels) - 1)
            with _unless_finished():
                self.storage.set_trial_param(row.id, name, float(option), distribution)
        if self.describe is not None:
            self._write(row, "architecture", self.describe(code))

    # single writes

    def _enqueue(self, attrs: dict[str, Any]) -> None:
        import optuna

        attrs = {ledger.LEASE: self.lease, **attrs}
        self.study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.WAITING, user_attrs=attrs))

    def _write(self, row: Row, name: str, value: Any) -> None:
        with _unless_finished():
            self.storage.set_trial_user_attr(row.id, name, value)

    def _change(self, row: Row, state: str, values: Sequence[float] | None = None) -> bool:
        import optuna

        with _unless_finished():
            return self.storage.set_trial_state_values(row.id, optuna.trial.TrialState[state], values)
        return False

    def _give_up(self, row: Row, why: str) -> None:
        self._write(row, ledger.LOST, why)
        self._change(row, "FAIL")


@contextlib.contextmanager
def _unless_finished():
    """Nothing is written to a trial that another worker has finished meanwhile: it counts as it is there."""
    import optuna

    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        yield


def _asked(code: tuple[int, ...] | None, ask: int) -> dict[str, Any]:
    assert code is not None
    return {"code": list(code), "ask": ask}


def _checked(evaluation: Evaluation, num_objectives: int) -> list[float]:
    scores = [float(score) for score in np.atleast_1d(np.asarray(evaluation.score, np.float64))]
    if len(scores) != num_objectives or not np.isfinite(scores).all():
        raise ValueError(f"the objective gave the scores {scores}: it must give {num_objectives} finite ones")
    return scores
