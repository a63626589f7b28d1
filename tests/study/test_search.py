"""The trial loop on a small space, against plain Python."""

import io
import itertools
import os
import pathlib
import signal
import types

import jax
import numpy as np
import optuna
import pytest

from jnas.errors import Interrupted, UserError
from jnas.searchers.base import Evaluation, Searcher
from jnas.study import hooks, leases, ledger, search
from jnas.study.ledger import Row
from jnas.study.storage import close_study, open_study
from jnas.study.worker import Worker

CHOICES = tuple((f"choice {n}", ("a", "b", "c")) for n in range(3))
ALL = list(itertools.product(range(3), repeat=3))
KEY = jax.random.key(7)


def fake_searcher(signs=(1,)):
    """Asks for neighbours of the best so far, so that every value it was told matters for what comes next."""

    def ask(state, key, num):
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        known = {code: value for code, value in state if np.isfinite(np.sum(value))}
        best = max(known, key=lambda code: np.sum(known[code]), default=(0, 0, 0))
        left = [code for code in ALL if code not in dict(state)]
        distance = [sum(a != b for a, b in zip(code, best, strict=True)) + rng.uniform() for code in left]
        return np.array([left[at] for at in np.argsort(distance)[:num]], np.int32)

    def tell(state, codes, values):
        assert np.shape(values) == ((len(codes),) if len(signs) == 1 else (len(codes), len(signs)))
        told = dict(state)
        told.update(zip(map(tuple, codes.tolist()), values, strict=True))
        return tuple(told.items())

    return Searcher(tuple, ask, tell)


def score_of(code):
    return float(np.dot(code, [9, 3, 1])) % 11


class Counted:
    """An objective that notes its calls, and raises what it is told to at some of them."""

    def __init__(self, raises=None):
        self.calls, self.keys, self.raises = [], [], raises or {}

    def __call__(self, code, key):
        self.calls.append(tuple(code.tolist()))
        self.keys.append(tuple(jax.random.key_data(key).tolist()))
        error = self.raises.get(len(self.calls))
        if error is not None:
            raise error
        return Evaluation(score_of(code), {"sum": np.float32(code.sum())})


def run(num, study=None, objective=None, **options):
    objective = objective or Counted()
    return search(fake_searcher(), objective, key=KEY, num_evaluations=num, study=study, **options), objective


@pytest.fixture(scope="module")
def uninterrupted():
    return run(12)


class TestOneWorker:
    def test_every_architecture_is_evaluated_once_and_the_best_is_found(self):
        result, objective = run(27)
        assert sorted(objective.calls) == ALL
        assert [trial.scores for trial in result.trials] == [(score_of(code),) for code in objective.calls]
        assert result.best.scores == (max(map(score_of, ALL)),)
        assert result.trials[3].metrics == {"sum": float(sum(objective.calls[3]))}

    def test_the_study_can_be_read_by_its_own_tools(self, uninterrupted):
        study = open_study(choices=CHOICES)
        run(3, study, describe=lambda code: "-".join(map(str, code)))
        trial = study.trials[2]
        code = trial.user_attrs["trial"]["code"]
        assert trial.params == {name: labels[at] for (name, labels), at in zip(CHOICES, code, strict=True)}
        assert trial.user_attrs["architecture"] == "-".join(map(str, code))
        assert study.best_value == max(map(score_of, uninterrupted[1].calls[:3]))
        assert {t.state.name for t in study.trials} == {"COMPLETE"}

    def test_what_is_complete_is_not_done_again(self, tmp_path, uninterrupted):
        path = tmp_path / "journal.log"
        _, first = run(5, open_study(path, choices=CHOICES))
        result, second = run(12, open_study(path, choices=CHOICES))
        assert first.calls + second.calls == uninterrupted[1].calls
        assert first.keys + second.keys == uninterrupted[1].keys
        assert len(result.trials) == 12
        _, third = run(12, open_study(path, choices=CHOICES))
        assert third.calls == []

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("no such file")])
    def test_stopped_in_a_trial_it_goes_on_as_if_it_had_not_been(self, error, uninterrupted):
        study = open_study()
        objective = Counted({5: error})
        with pytest.raises(type(error)):
            run(12, study, objective)
        result, objective = run(12, study, objective)
        expected = uninterrupted[1]
        assert objective.calls == expected.calls[:5] + expected.calls[4:]
        assert objective.keys == expected.keys[:5] + expected.keys[4:]
        assert [t.code.tolist() for t in result.trials] == [list(code) for code in expected.calls]
        assert result.failed == ()

    def test_an_objective_that_raises_fails_its_trial_only(self):
        result, objective = run(10, objective=Counted({2: ZeroDivisionError("by zero"), 4: FloatingPointError("nan")}))
        assert len(result.trials) == 10
        assert len(set(objective.calls)) == len(objective.calls) == 12
        assert [trial.error for trial in result.failed] == ["ZeroDivisionError: by zero", "FloatingPointError: nan"]

    @pytest.mark.parametrize("score", [float("nan"), (1.0, 2.0)])
    def test_scores_that_are_none_fail_their_trial(self, score):
        result, _ = run(1, objective=lambda code, key: Evaluation(score if code[0] == 0 else 1.0))
        assert result.trials[0].code[0] > 0
        assert all("must give 1 finite" in trial.error for trial in result.failed)

    def test_too_many_failures_end_the_search(self):
        objective = Counted(dict.fromkeys(range(3, 10), OSError("disk full")))
        with pytest.raises(UserError, match=r"4 trials have failed, the last one with OSError: disk full"):
            run(20, objective=objective, max_failures=4)
        assert len(objective.calls) == 6

    def test_a_batch_is_asked_at_once(self):
        asked = []
        plain = fake_searcher()

        def ask(state, key, num):
            asked.append((num, len(state)))
            return plain.ask(state, key, num)

        result = search(plain._replace(ask=ask), Counted(), key=KEY, num_evaluations=10, batch_size=4)
        assert asked == [(4, 0), (4, 4), (2, 8)]
        assert len({tuple(trial.code) for trial in result.trials}) == 10

    def test_a_signal_in_the_last_trial_is_obeyed(self):
        def objective(code, key):
            signal.raise_signal(signal.SIGTERM)
            return Evaluation(score_of(code))

        study = open_study()
        with pytest.raises(Interrupted, match="SIGTERM"):
            run(1, study, objective)
        assert len(run(1, study)[0].trials) == 1  # and the trial is kept

    def test_hooks_see_every_trial_once(self):
        seen = []
        run(6, objective=Counted({2: ValueError("no")}), hooks=[seen.append])
        assert [trial.number for progress in seen for trial in progress.new] == list(range(7))
        assert [len(progress.trials) for progress in seen] == [1, 1, 2, 3, 4, 5, 6]

    def test_a_line_a_trial_says_the_time_left_at_the_rate_of_those_after_the_first(self, monkeypatch):
        clock = itertools.count(100.0, 40.0)  # seconds: a step a trial
        monkeypatch.setattr(hooks, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
        text = io.StringIO()
        run(4, hooks=[hooks.trials_progress("trials", text)])
        first, *lines = text.getvalue().splitlines()
        assert first == "trials  compiling"
        assert [line.split()[1] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
        assert "left" not in lines[0]
        assert [line.rpartition(" s  ")[2] for line in lines[1:]] == ["0:01:20 left", "0:00:40 left", "0:00:00 left"]

    @pytest.mark.parametrize("options", [{"num_evaluations": 0}, {"batch_size": 0}, {"lease_seconds": 0.0}])
    def test_numbers_below_one_are_refused(self, options):
        with pytest.raises(ValueError, match="give"):
            search(fake_searcher(), Counted(), key=KEY, **{"num_evaluations": 1, **options})


class TestSeveralObjectives:
    def test_the_front_is_that_of_brute_force(self):
        directions = {"accuracy": "maximize", "cost": "minimize"}

        def objective(code, key):
            return Evaluation((score_of(code), float(code.sum())))

        study = open_study(objectives=directions)
        result = search(fake_searcher((1, -1)), objective, key=KEY, num_evaluations=20, study=study)
        points = np.array([trial.scores for trial in result.trials])
        better = np.array([[1, -1]]) * points
        expected = [
            n for n, p in enumerate(better) if not any((q >= p).all() and (q > p).any() for q in better)
        ]  # fmt: skip
        assert [trial.number for trial in result.front] == [result.trials[n].number for n in expected]
        assert 1 < len(expected) < 20

    def test_what_is_minimised_is_told_with_its_sign_changed(self):
        study = open_study(objectives={"cost": "minimize"})
        result, _ = run(27, study)
        assert result.best.scores == (min(map(score_of, ALL)),)
        codes, values = ledger.told(ledger.rows_of(study), [-1])
        np.testing.assert_array_equal(values, [-score_of(code) for code in codes])


def waiting(number, **fields):
    return Row(number, number, "waiting", **fields)


class TestRules:
    def test_only_the_first_so_many_that_have_not_failed_serve(self):
        states = ["complete", "failed", "running", "dropped", "waiting", "waiting"]
        rows = [Row(n, n, state) for n, state in enumerate(states)]
        assert [row.number for row in ledger.serving(rows, 3)] == [0, 2, 4]

    def test_what_serves_goes_on_serving_whatever_happens_later(self):
        rng = np.random.default_rng(0)
        rows, served = [], set()
        for _ in range(300):
            action, at = rng.integers(3), int(rng.integers(len(rows) + 1))
            if action == 0 or at == len(rows):
                failed = [row.number for row in rows if row.state == "failed"]
                retry = int(rng.choice(failed)) if failed and rng.uniform() < 0.5 else None
                rows.append(waiting(len(rows), retry_of=retry))
            elif rows[at].state == "waiting" and rows[at] in ledger.serving(rows, 9):
                rows[at] = rows[at]._replace(state="running")
                served.add(at)
            elif rows[at].state == "running":
                rows[at] = rows[at]._replace(state=str(rng.choice(["failed", "complete"])))
            now = {row.number for row in ledger.serving(rows, 9)}
            assert {n for n in served if rows[n].state != "failed"} <= now
            assert sum(row.state == "complete" for row in rows) <= 9
        while len(ledger.serving(rows, 9)) < 9:  # and what is missing can be added
            rows.append(waiting(len(rows)))
        rows = [row._replace(state="complete") if row in ledger.serving(rows, 9) else row for row in rows]
        assert sum(row.state == "complete" for row in rows) == 9

    def test_a_second_retry_of_one_trial_does_not_serve(self):
        rows = [Row(0, 0, "failed", (1,), lost="died"), waiting(1, retry_of=0), waiting(2, retry_of=0)]
        assert [row.number for row in ledger.serving(rows, 5)] == [1]
        assert ledger.to_retry(rows, 3) == []

    @pytest.mark.parametrize(("lost", "deaths", "again"), [("died", 1, True), ("died", 2, False), ("stopped", 2, True)])
    def test_retries_are_bounded_by_deaths(self, lost, deaths, again):
        rows = [Row(0, 0, "failed", (1,), lost=lost, deaths=deaths)]
        assert bool(ledger.to_retry(rows, 2)) == again
        assert [row.error for row in ledger.given_up(rows, 2)] == (
            [] if again else ["given up: 3 workers died while they evaluated it"]
        )

    def test_what_has_no_architecture_yet_or_failed_by_itself_is_not_retried(self):
        assert not ledger.to_retry([Row(0, 0, "failed", lost="died"), Row(1, 1, "failed", (1,), error="x")], 3)


class TestLeases:
    def test_a_beat_that_stops_is_noticed_by_one_clock(self):
        now = [0.0]
        watch = leases.Watch(60, clock=lambda: now[0])
        elsewhere = {"worker": "w", "machine": "another", "pid": 1, "born": "1"}

        def seen(time, *beats):
            now[0] = time
            rows = [Row(n, n, "running", lease={**elsewhere, "beat": beat}) for n, beat in enumerate(beats)]
            return [row.number for row in watch.dead(rows)]

        assert seen(1000, 1, 1) == []
        assert seen(1059, 1, 1) == []
        assert seen(1060, 2, 1) == [1]
        assert seen(1119, 2) == []
        assert seen(1120, 2) == [0]

    def test_a_process_of_this_machine_is_looked_up(self):
        mine = {**leases.identity(), leases.TAKEN: True}
        late = leases.Watch(1, clock=iter([0.0, 1000.0]).__next__)
        assert [late.dead([Row(0, 0, "running", lease=mine)]) for _ in range(2)] == [[], []]
        assert not leases.process_ended(mine)
        assert leases.process_ended({**mine, "born": "0"})  # its number was given to another process
        assert leases.process_ended({**mine, "pid": 2**22 + 1})
        assert not leases.process_ended({**mine, "pid": 2**22 + 1, "machine": "another"})

    def test_who_loses_a_trial_leaves_the_winner_s_lease_alone(self):
        """Both have seen the trial waiting; the loser comes while the winner evaluates."""
        study, leases_seen = open_study(), []

        def worker(objective):
            return Worker(fake_searcher(), objective, KEY, 1, study, 1, None, 10, 3, leases.Watch(60))

        def objective(code, key):
            loser.work()
            leases_seen.append(study.trials[0].user_attrs[ledger.LEASE])
            return Evaluation(score_of(code))

        winner, loser = worker(objective), worker(lambda code, key: pytest.fail("evaluated twice"))
        winner.look()
        winner.work()  # makes room
        winner.look()
        loser.look()
        winner.work()
        assert [lease["worker"] for lease in leases_seen] == [winner.lease["worker"]]
        assert leases_seen[0][leases.TAKEN]

    def test_a_trial_that_nobody_has_signed_is_judged_by_its_beat(self):
        """Its worker may have died between taking it and saying so: the lease names whoever made room."""
        rows = [Row(0, 0, "running", lease=leases.identity())]
        watch = leases.Watch(60, clock=iter([0.0, 59.0, 60.0]).__next__)
        assert [len(watch.dead(rows)) for _ in range(3)] == [0, 0, 1]

    def test_a_retry_that_was_dropped_is_made_again(self):
        """A search for fewer trials clears away what waits; a later one for more has to evaluate it."""
        died = Row(1, 1, "failed", (1,), lost="died")
        assert not ledger.to_retry([died, Row(2, 2, "waiting", (1,), retry_of=1)], 3)
        assert ledger.to_retry([died, Row(2, 2, "dropped", (1,), retry_of=1)], 3) == [died]
        again = Row(3, 3, "waiting", (1,), retry_of=1)
        assert ledger.serving([died, Row(2, 2, "dropped", (1,), retry_of=1), again], 5) == [again]

    def test_the_result_is_of_what_was_seen(self):
        """Another worker that wants more trials may finish one at any moment."""
        study = open_study()
        worker = Worker(
            fake_searcher(), lambda c, k: Evaluation(score_of(c)), KEY, 2, study, 1, None, 10, 3, leases.Watch(60)
        )
        while sum(row.state == "complete" for row in worker.look()) < 2:
            worker.work()
        study.add_trial(optuna.trial.create_trial(value=1e6))
        result = worker.result()
        assert len(result.trials) == 2
        assert result.best.scores[0] == max(trial.scores[0] for trial in result.trials)

    def test_a_trial_taken_away_is_not_completed_by_its_first_worker(self):
        study = open_study()
        taken = []

        def objective(code, key):
            if not taken:  # meanwhile another worker takes this one for dead
                taken.append(tuple(code.tolist()))
                trial = study.trials[0]
                study._storage.set_trial_user_attr(trial._trial_id, ledger.LOST, "died")
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                return Evaluation(100.0)
            return Evaluation(score_of(code))

        result, _ = run(4, study, objective)
        assert len(result.trials) == 4
        assert max(trial.scores[0] for trial in result.trials) < 100
        assert taken[0] in {tuple(trial.code.tolist()) for trial in result.trials}  # evaluated again


class TestStudies:
    def test_another_search_of_the_same_name_is_refused(self, tmp_path):
        path = tmp_path / "journal.log"
        open_study(path, choices=CHOICES, about={"seed": 0})
        open_study(path, choices=CHOICES, about={"seed": 0})
        with pytest.raises(UserError, match="seed is 0 and not 1"):
            open_study(path, choices=CHOICES, about={"seed": 1})
        with pytest.raises(UserError, match="its choices differ"):
            open_study(path, choices=CHOICES[:2], about={"seed": 0})
        with pytest.raises(UserError, match="its objectives differ"):
            open_study(path, objectives={"cost": "minimize"}, choices=CHOICES, about={"seed": 0})

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("nonsense://x", "cannot hold a study"),
            ("/nonexistent/folder/journal.log", "cannot write /nonexistent/folder/journal.log"),
            ("postgresql+nodriver://ann:secret@localhost/x", r"//\*\*\*@localhost"),
        ],
    )
    def test_a_storage_that_cannot_be_had_is_one_sentence(self, url, words):
        with pytest.raises(UserError, match=words) as raised:
            open_study(url)
        assert "secret" not in str(raised.value)

    def test_so_is_a_key_value_server_that_refuses(self, monkeypatch):
        refusal = type("ConnectionError", (Exception,), {"__module__": "redis.exceptions"})

        def refuse(storage):
            raise refusal("Error 111 connecting to localhost:6379")

        monkeypatch.setattr("jnas.study.storage._storage", refuse)
        with pytest.raises(UserError, match="Error 111 connecting"):
            open_study("redis://localhost")

    def test_a_database_in_a_file_serves_as_well(self, tmp_path, uninterrupted):
        url = f"sqlite:///{tmp_path}/trials.db"
        _, first = run(2, open_study(url, choices=CHOICES))
        _, second = run(4, open_study(url, choices=CHOICES))
        assert first.calls + second.calls == uninterrupted[1].calls[:4]

    def test_a_database_in_a_file_is_left_open_by_nobody(self, tmp_path):
        """Neither by a study that is not closed, nor by one that is refused, nor by a file that is no database."""
        path, other = tmp_path / "trials.db", tmp_path / "other.db"
        study = open_study(f"sqlite:///{path}", choices=CHOICES)
        run(2, study)
        with pytest.raises(UserError, match="its choices differ"):
            open_study(f"sqlite:///{path}", choices=CHOICES[:1])
        other.write_text("no database" * 100)
        with pytest.raises(UserError, match="cannot hold a study"):
            open_study(f"sqlite:///{other}")
        links = pathlib.Path("/proc/self/fd").iterdir()
        assert not {str(path), str(other)} & {os.path.realpath(link) for link in links}
        assert len(study.trials) == 2

    def test_a_database_in_memory_lives_as_long_as_its_study(self):
        study = open_study("sqlite://", choices=CHOICES)
        run(2, study)
        assert len(study.trials) == 2
        close_study(study)

    def test_a_full_disk_is_one_sentence_and_the_same_search_goes_on(self, tmp_path, uninterrupted, monkeypatch):
        path = tmp_path / "journal.log"
        _, first = run(2, open_study(path, choices=CHOICES))
        study = open_study(path, choices=CHOICES)

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(optuna.storages.journal.JournalFileBackend, "append_logs", full)
        with pytest.raises(UserError, match=r"^cannot keep the trials: No space left on device; see to their disk"):
            run(4, study)
        monkeypatch.undo()
        _, second = run(4, open_study(path, choices=CHOICES))
        assert first.calls + second.calls == uninterrupted[1].calls[:4]

    def test_a_line_that_a_kill_tore_is_taken_off(self, tmp_path, uninterrupted):
        path = tmp_path / "journal.log"
        run(3, open_study(path, choices=CHOICES))
        with open(path, "a") as file:
            file.write('{"op_code": 8, "worker_id": "x", "tr')
        _, second = run(5, open_study(path, choices=CHOICES))
        assert second.calls == uninterrupted[1].calls[3:5]
