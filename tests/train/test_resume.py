"""A run that is killed, stopped and resumed, in real processes, against one that is left in peace."""

import json
import os
import signal
import threading

import jax
import pytest
from engine_problem import KEY, leaves_as_bytes, make_learner, resident

from jnas.errors import Interrupted, UserError
from jnas.train import Saving, chunks_of, fit
from jnas.train.checkpoint import Checkpoints
from jnas.train.hooks import Hook
from jnas.train.records import jsonl_log

STEPS = 60  # of the script

SCRIPT = """
import pathlib, sys, time
from engine_problem import KEY, leaves_as_bytes, make_learner, resident
from jnas.train import Hook, Saving, chunks_of, fit, jsonl_each, jsonl_log
from jnas.errors import Interrupted

folder, far = sys.argv[1], int(sys.argv[2])

def look(event):
    print(event.step, flush=True)
    time.sleep(0.02)
    while event.step >= far and not pathlib.Path(folder, "sent").exists():  # no further before the signal is sent
        time.sleep(0.02)

epochs = jsonl_each(f"{folder}/epochs.jsonl", 8, lambda event: {"epoch": event.step // 8})
hooks = [jsonl_log(f"{folder}/log.jsonl"), epochs, Hook(steps=look)]
try:
    state = fit(
        make_learner(), resident(), key=KEY, num_steps=60, hooks=[*chunks_of(3), *hooks],
        checkpoints=Saving(f"{folder}/checkpoints", 7),
    )
except Interrupted as error:
    print(error, flush=True)
    sys.exit(143)
print("state", b"".join(leaves_as_bytes(state)).hex(), flush=True)
"""


def send_after(process, step, number, folder):
    """Read the steps that the process reports, send the signal after one of them, and return what else it says.

    The signal comes at any point of some steps, but never so late that the process has ended.
    """
    for line in process.stdout:
        if int(line) >= step:
            process.send_signal(number)
            break
    if number != signal.SIGKILL:
        (folder / "sent").touch()
    return process.communicate(timeout=120)


@pytest.fixture(scope="module")
def story(start_script, tmp_path_factory):
    """SIGKILL after a step, then SIGTERM after a later one, then to the end."""
    folder = tmp_path_factory.mktemp("run")
    first, second = 17, 41  # neither at the end of a call nor at a checkpoint
    process = start_script(SCRIPT, folder, first + 8)
    send_after(process, first, signal.SIGKILL, folder)
    assert process.returncode == -signal.SIGKILL, f"step {first}"
    process = start_script(SCRIPT, folder, second + 8)
    said, _ = send_after(process, second, signal.SIGTERM, folder)
    assert process.returncode == 143, (first, second, said)
    stop_line = said.splitlines()[-1]
    process = start_script(SCRIPT, folder, STEPS)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, (first, second, errors)
    return folder, (first, second), stop_line, said.splitlines()


def test_the_final_state_is_that_of_an_uninterrupted_run_to_the_last_bit(story):
    _, steps, _, said = story
    state = fit(make_learner(), resident(), key=KEY, num_steps=STEPS, hooks=chunks_of(3))
    assert said[-1] == "state " + b"".join(leaves_as_bytes(state)).hex(), steps


def test_the_logs_have_neither_gap_nor_repeat(story):
    folder, steps, *_ = story
    log = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert log == list(range(1, STEPS + 1)), steps
    epochs = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    assert epochs == [{"step": 8 * i, "epoch": i} for i in range(1, 8)], steps


def test_a_stop_saves_where_it_stood_and_the_next_process_goes_on_there(story):
    _, steps, stop_line, said = story
    assert stop_line.startswith("stopped by SIGTERM after step "), steps
    stopped_at = int(stop_line.split()[5])
    assert stopped_at >= steps[1]
    assert stopped_at < int(said[0]) <= stopped_at + 3, steps


class TestSignalsInThisProcess:
    @pytest.fixture(autouse=True)
    def python_handlers(self):
        """The handlers of an ordinary interactive process, whatever the tests were started from."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        for number, handler in before.items():
            signal.signal(number, handler)

    def at(self, step, *numbers):
        def steps(event):
            if event.step == step:
                for number in numbers:
                    os.kill(os.getpid(), number)

        return Hook(steps=steps)

    @pytest.fixture(scope="class")
    @staticmethod
    def run():
        learner, source = make_learner(), resident()
        return lambda folder, *hooks, num_steps=9: fit(
            learner,
            source,
            key=KEY,
            num_steps=num_steps,
            hooks=[*chunks_of(1), *hooks],
            checkpoints=None if folder is None else Saving(folder),
        )

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_first_signal_saves_and_raises_and_the_handlers_return(self, run, tmp_path, number):
        handler = signal.getsignal(number)
        with pytest.raises(Interrupted, match=rf"^stopped by {number.name} after step 5 of 9: .*{tmp_path}"):
            run(tmp_path, self.at(5, number))
        assert signal.getsignal(number) is handler
        with Checkpoints(tmp_path) as checkpoints:
            assert checkpoints.latest() == 5
        assert leaves_as_bytes(run(tmp_path)) == leaves_as_bytes(run(None))

    def test_a_run_without_signals_leaves_the_handlers_as_they_were(self, run, tmp_path):
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        inside = []
        look = Hook(steps=lambda event: inside.append(signal.getsignal(signal.SIGTERM)))
        run(tmp_path, look, num_steps=1)
        assert inside != handlers[:1]
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers

    def test_a_signal_at_the_last_step_is_not_lost(self, run, tmp_path):
        with pytest.raises(Interrupted, match="after step 9 of 9"):
            run(tmp_path, self.at(9, signal.SIGTERM))
        with Checkpoints(tmp_path) as checkpoints:
            assert checkpoints.latest() == 9

    def test_second_signal_is_obeyed_at_once(self, run, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, self.at(5, signal.SIGINT, signal.SIGINT))
        with Checkpoints(tmp_path) as checkpoints:
            assert checkpoints.latest() is None

    def test_an_ignored_signal_stays_ignored(self, run, tmp_path):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert run(tmp_path, self.at(5, signal.SIGINT)).count == 9

    def test_without_checkpoints_signals_are_left_alone(self, run):
        with pytest.raises(KeyboardInterrupt):
            run(None, self.at(5, signal.SIGINT))

    def test_another_thread_than_the_main_one_can_run(self, run, tmp_path):
        states = []
        thread = threading.Thread(target=lambda: states.append(run(tmp_path)))
        thread.start()
        thread.join(timeout=120)
        assert states[0].count == 9


class TestWhatIsRestored:
    @pytest.fixture(scope="class")
    @staticmethod
    def done(tmp_path_factory):
        folder = tmp_path_factory.mktemp("done")
        state = fit(make_learner(), resident(), key=KEY, num_steps=6, checkpoints=Saving(folder, 3))
        return folder, state

    def test_a_run_that_is_done_returns_its_state_and_runs_nothing(self, done):
        folder, state = done
        traces = []
        for num_steps in (6, 4):
            again = fit(
                make_learner(traces=traces), resident(), key=KEY, num_steps=num_steps, checkpoints=Saving(folder)
            )
            assert leaves_as_bytes(again) == leaves_as_bytes(state)
        assert traces == []

    def test_another_key_is_refused(self, done):
        with pytest.raises(UserError, match=r"step 6 in .* another key: use that seed or choose another folder"):
            fit(make_learner(), resident(), key=jax.random.key(4), num_steps=9, checkpoints=Saving(done[0]))

    def test_another_state_is_refused_by_the_name_of_the_leaf(self, done):
        learner = make_learner()
        wide = learner._replace(init=lambda key: (s := learner.init(key))._replace(average=s.average[:2]))
        with pytest.raises(
            UserError, match=r"another run: state\.average is bfloat16\[4\] there and bfloat16\[2\] here;"
        ):
            fit(wide, resident(), key=KEY, num_steps=9, checkpoints=Saving(done[0]))
        with pytest.raises(UserError, match=r"another run: state is absent there and int32\[\] here;"):
            fit(learner._replace(init=lambda key: 0), resident(), key=KEY, num_steps=9, checkpoints=Saving(done[0]))

    def test_an_older_log_line_torn_by_a_kill_is_written_again(self, tmp_path):
        log = tmp_path / "log.jsonl"
        run = lambda num_steps: fit(
            make_learner(),
            resident(),
            key=KEY,
            num_steps=num_steps,
            hooks=[jsonl_log(log)],
            checkpoints=Saving(tmp_path / "c"),
        )
        run(3)
        with log.open("a") as file:
            file.write('{"step": 4, "loss": 1.0}\n{"step": 5, "lo')
        run(5)
        assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3, 4, 5]
