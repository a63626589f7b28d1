"""A trace holds the steps that were asked for, with the operations of the compiled program, and not the compilation."""

import gzip
import json

import pytest
from engine_problem import KEY, make_learner, resident

from jnas.errors import UserError
from jnas.train import chunks_of, fit
from jnas.train.profile import profile, profiling


def traces(folder):
    """The events of each trace, after checking that TensorBoard's file is beside it."""
    for path in sorted(folder.glob("plugins/profile/*/perfetto_trace.json.gz")):
        (plane,) = path.parent.glob("*.xplane.pb")
        assert plane.stat().st_size > 0
        yield json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def traced_steps(events):
    return [int(e["args"]["step_num"]) for e in events if e.get("name") == "steps" and "step_num" in e.get("args", {})]


@pytest.fixture(scope="module")
def learner():
    return make_learner()


def test_steps_and_their_operations_are_in_the_trace(learner, tmp_path):
    hook = profile(tmp_path, 3, 5)
    fit(learner, resident(), key=KEY, num_steps=8, hooks=[*chunks_of(1), hook])
    (events,) = traces(tmp_path)
    assert traced_steps(events) == [2, 3, 4]  # the annotation counts the steps done before
    operations = [e for e in events if "dot" in e.get("name", "") or "fusion" in e.get("name", "")]
    assert len([e for e in operations if not e["name"].startswith("end")]) >= 3
    assert not [e for e in events if "backend_compile" in e.get("name", "")]


def test_whole_chunks_are_traced(learner, tmp_path):
    fit(learner, resident(), key=KEY, num_steps=12, hooks=[*chunks_of(4), profile(tmp_path, 2, 3)])
    (events,) = traces(tmp_path)
    assert traced_steps(events) == [4]


def test_a_run_that_ends_inside_the_trace_writes_it_and_a_shorter_one_says_so(learner, tmp_path, capsys):
    fit(learner, resident(), key=KEY, num_steps=4, hooks=[*chunks_of(1), profile(tmp_path / "cut", 3, 9)])
    (events,) = traces(tmp_path / "cut")
    assert traced_steps(events) == [2, 3]
    assert capsys.readouterr().err == ""
    fit(learner, resident(), key=KEY, num_steps=2, hooks=[*chunks_of(1), profile(tmp_path / "short", 3, 9)])
    assert not list(traces(tmp_path / "short"))
    assert "no trace: the run ended after 2 steps" in capsys.readouterr().err


def test_only_the_first_run_inside_the_block_is_traced(learner, tmp_path):
    with profiling(tmp_path / "profile", 2, 3):
        for _ in range(2):
            fit(learner, resident(), key=KEY, num_steps=5, hooks=chunks_of(1))
    (events,) = traces(tmp_path / "profile")
    assert traced_steps(events) == [1, 2]
    with profiling(None):
        fit(learner, resident(), key=KEY, num_steps=3, hooks=chunks_of(1))
    fit(learner, resident(), key=KEY, num_steps=5, hooks=chunks_of(1))
    assert len(list(traces(tmp_path / "profile"))) == 1


def test_bad_steps_and_folders(learner, tmp_path):
    for steps in ((1, 3), (4, 3)):
        with pytest.raises(ValueError, match="give FIRST:LAST"):
            profile(tmp_path, *steps)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        fit(learner, resident(), key=KEY, num_steps=3, hooks=[profile(tmp_path / "file" / "x")])


def test_the_flag_of_the_command_traces_into_the_folder_of_the_run(learner, tmp_path, monkeypatch):
    from jnas.cli import main, words
    from jnas.recipes import driver

    def run(recipe, settings, folder, *, mesh):
        return fit(learner, resident(), key=KEY, num_steps=settings.epochs, hooks=chunks_of(1))

    monkeypatch.setattr(driver, "run", run)
    monkeypatch.setattr(words, "summary", lambda result, folder: None)
    monkeypatch.setattr("jnas.distributed.cache.enable_compilation_cache", lambda: None)
    for flag, expected in (("--profile",), [3, 4, 5]), (("--profile", "2:3"), [1, 2]), ((), None):
        folder = tmp_path / str(len(flag))
        assert main.main(["search", "epochs=9", "--out", str(folder), *flag]) == 0
        assert [traced_steps(events) for events in traces(folder / "profile")] == ([expected] if expected else [])


@pytest.mark.parametrize("text", ["6:4", "1:3", "4", "default"])
def test_bad_steps_on_the_command_line(text, capsys):
    from jnas.cli.main import main

    with pytest.raises(SystemExit) as stop:
        main(["search", "--profile", text])
    assert stop.value.code == 2
    assert f"{text!r} is not FIRST:LAST with 2 <= FIRST <= LAST" in capsys.readouterr().err
