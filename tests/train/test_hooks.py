import io
import json
import struct

import numpy as np
import pytest

from jnas.errors import UserError
from jnas.train.hooks import Event, Hook, progress, tensorboard
from jnas.train.records import jsonl_each, jsonl_log


def event(step, num_steps=10, **metrics):
    return Event(step, num_steps, None, {name: np.asarray(v, np.float32) for name, v in metrics.items()})


def test_a_hook_does_nothing_unless_told():
    hook = Hook()
    assert hook.start(0, 5) is hook.steps(event(1)) is hook.save(1) is hook.end(1) is None


def test_every_must_be_positive():
    with pytest.raises(ValueError, match="every is 0"):
        jsonl_each("x", 0, dict)


class TestJsonLines:
    def write(self, path, start, *events):
        hook = jsonl_log(path)
        hook.start(start, 10)
        for one in events:
            hook.steps(one)
        hook.save(events[-1].step if events else start)
        hook.end(start)
        return [json.loads(line) for line in path.read_text().splitlines()]

    def test_one_object_a_step_with_the_shortest_decimal_of_a_float32(self, tmp_path):
        lines = self.write(tmp_path / "new" / "log.jsonl", 0, event(2, loss=[0.1, 1e-7]), event(3, loss=[3]))
        assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.1), (2, 1e-7), (3, 3.0)]
        assert list(lines[0]) == ["step", "time", "loss"]

    def test_other_kinds_of_numbers(self, tmp_path):
        metrics = {"n": np.array([3], np.int32), "d": np.array([0.1], np.float64)}
        (line,) = self.write(tmp_path / "log.jsonl", 0, Event(1, 9, None, metrics))
        assert (line["n"], line["d"]) == (3, 0.1)
        assert isinstance(line["n"], int)

    def test_lines_are_in_the_file_before_the_hook_returns(self, tmp_path):
        hook = jsonl_log(tmp_path / "log.jsonl")
        hook.start(0, 10)
        hook.steps(event(1, loss=[1]))
        assert (tmp_path / "log.jsonl").read_bytes().endswith(b"}\n")
        hook.end(1)

    @pytest.mark.parametrize("start", [2, 3])
    @pytest.mark.parametrize("tail", ["", '{"step": 4, "loss": 1.0}\n{"step": 5, "lo', '{"step": 4'])
    def test_resuming_drops_later_records_and_a_torn_line(self, tmp_path, start, tail):
        path = tmp_path / "log.jsonl"
        path.write_text("".join(f'{{"step": {i}, "loss": 0.5}}\n' for i in (1, 2, 3)) + tail)
        assert [line["step"] for line in self.write(path, start, event(start + 1, loss=[1]))] == [*range(1, start + 2)]
        assert [line["step"] for line in self.write(path, 0)] == []

    @pytest.mark.parametrize("content", ["my notes\n", '{"name": "x"}\n', "[1, 2]\n"])
    def test_a_file_of_something_else_is_left_alone(self, tmp_path, content):
        path = tmp_path / "notes"
        path.write_text(content)
        with pytest.raises(UserError, match="notes is no log of steps: move it away"):
            jsonl_log(path).start(0, 10)
        assert path.read_text() == content

    def test_a_path_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="File exists"):
            jsonl_log(tmp_path / "file" / "log.jsonl").start(0, 10)
        with pytest.raises(UserError, match=r"cannot write .*: Is a directory"):
            jsonl_log(tmp_path).start(0, 10)

    def test_each_writes_arrays_as_lists_and_what_is_not_finite_as_null(self, tmp_path):
        hook = jsonl_each(tmp_path / "g.jsonl", 2, lambda e: {"alpha": {"c": np.array([1.5, -np.inf])}, "t": (e.step,)})
        assert hook.every == 2
        hook.start(0, 4)
        for step in (1, 2, 3, 4):
            hook.steps(event(step))
        hook.end(4)
        lines = [json.loads(line) for line in (tmp_path / "g.jsonl").read_text().splitlines()]
        assert lines == [{"step": s, "alpha": {"c": [1.5, None]}, "t": [s]} for s in (2, 4)]


class TestProgress:
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def drive(self, hook):
        hook.start(4, 10)
        hook.steps(event(6, loss=[9, 0.123456], other=[1, 1]))
        hook.steps(event(8, loss=[1, 0.5]))
        hook.steps(event(10, loss=[1, 0.25]))
        hook.end(10)

    def test_plain_lines_now_and_then_and_at_the_end(self):
        stream = io.StringIO()
        self.drive(progress("search", metrics=("loss", "absent"), interval=1000, stream=stream))
        begun, first, last = stream.getvalue().splitlines()
        assert begun == "search 4/10  compiling"
        assert first == "search 6/10  loss 0.1235"
        assert last.startswith("search 10/10  ")
        assert last.endswith("steps/s  0:00 left  loss 0.25")

    def test_interval(self):
        stream = io.StringIO()
        self.drive(progress("search", interval=0, stream=stream))
        assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["4/10", "6/10", "8/10", "10/10"]

    def test_a_bar_on_a_terminal(self, monkeypatch):
        monkeypatch.setenv("TERM", "xterm")
        stream = self.Terminal()
        self.drive(progress("search", metrics=("loss",), stream=stream))
        assert "loss 0.25" in stream.getvalue()
        assert "━" in stream.getvalue()


def read_events(folder):
    """The scalars of TensorBoard's event files, oldest file first: records of length, checksum, bytes, checksum."""
    from tensorboardX.proto.event_pb2 import Event as Record

    found = []
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            record = Record.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            found += [(value.tag, record.step, value.simple_value) for value in record.summary.value]
            if record.session_log.status == 1:  # START: what stands before with this step or a later one is void
                found = [entry for entry in found if entry[1] < record.step]
    return found


def test_tensorboard_shows_every_step_once_after_resuming(tmp_path):
    folder = tmp_path / "curves"
    for start, events in [(0, [event(2, loss=[5, 4]), event(3, loss=[3])]), (2, [event(4, loss=[2, 1])])]:
        hook = tensorboard(str(folder))
        hook.start(start, 4)
        for one in events:
            hook.steps(one)
        hook.save(events[-1].step)
        hook.end(events[-1].step)
    assert read_events(folder) == [("loss", 1, 5.0), ("loss", 2, 4.0), ("loss", 3, 2.0), ("loss", 4, 1.0)]
