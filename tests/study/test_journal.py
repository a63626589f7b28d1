"""A storage that is a file is a journal of trials, or a new file; whatever else it is stays as it is."""

import json
import os

import pytest

from jnas.errors import UserError
from jnas.study import open_study
from jnas.study.ledger import rows_of

TORN = b'{"op_code":4,"wor'


@pytest.fixture
def journal(tmp_path):
    study = open_study(tmp_path / "good.log")
    for _ in range(3):
        study.ask()
    return (tmp_path / "good.log").read_bytes()


@pytest.mark.parametrize(
    "content",
    [b"[]\n", b"5\n", b"notes\nof mine\n", b"KEY=value", b'{"a": 1}', bytes(range(256)), b'{"op_code": 99}\n',
     b'{"op_code": "a"}\n', b'{"op_code":0}\n', TORN + b"\0\0\n"],
)  # fmt: skip
def test_another_file_is_refused_in_one_sentence_and_not_written(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^[^\n]*file [^\n]* a new file[^\n]*$"):
        open_study(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "device"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    path = tmp_path / kind
    {
        "folder": lambda: path.mkdir(), "pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to("/nowhere/x"),
        "device": lambda: path.symlink_to("/dev/null"),
    }[kind]()  # fmt: skip
    with pytest.raises(UserError, match=f"{kind} is no file: name a journal of trials"):
        open_study(path)
    assert os.listdir(tmp_path) == [kind]


@pytest.mark.parametrize("tail", [TORN, TORN + bytes(50), TORN + bytes(9) + b"\n" + bytes(5000) + b"\n", b"[[\n"])
def test_trials_before_a_torn_end_are_kept_and_its_line_is_named(tmp_path, journal, tail, capsys):
    path = tmp_path / "journal.log"
    path.write_bytes(journal + tail)
    study = open_study(path)
    assert len(study.trials) == 3
    study.ask()
    assert len(open_study(path).trials) == 4
    number = journal.count(b"\n") + 1
    told = "" if tail == TORN else f"line {number} of {path} is damaged: the trials before it are kept\n"
    assert capsys.readouterr().err == told


def test_damage_in_the_middle_is_named(tmp_path, journal):
    path = tmp_path / "journal.log"
    lines = journal.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], TORN + bytes(9) + b"\n", *lines[4:]]))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"line 4 of .* or a copy of the 3 lines before it with their trials$"):
        open_study(path)
    path.write_bytes(journal + b'{"op_code": 99, "worker_id": "x"}\n')
    with pytest.raises(UserError, match=f"line {len(lines) + 1} of "):
        open_study(path)
    path.write_bytes(before)
    assert not (tmp_path / "journal.log.lock").exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("trial", 5, "field trial is 5; expected a mapping"),
        ("trial", {"ask": 0}, "field trial.code is missing"),
        ("trial", {"code": [0, "x"], "ask": 0}, "field trial.code.1 is 'x'; expected a whole number"),
        (
            "trial",
            {"code": [0, 10**18], "ask": 0},
            "field trial.code.1 is 1000000000000000000; expected a number of at",
        ),
        ("trial", {"code": [0, 2], "ask": 0}, r"field trial.code is \(0, 2\); expected an architecture of the space"),
        ("trial", {"code": [0], "ask": 0}, r"field trial.code is \(0,\); expected an architecture of the space"),
        ("seconds", "long", "field seconds is 'long'; expected a finite number"),
        ("values", ["x"], "field values.0 is 'x'; expected a finite number"),
        ("values", [None], "field values.0 is None; expected a finite number"),
        ("values", {}, r"field values is \(\); expected one for each objective"),
    ],
)
def test_a_trial_that_was_edited_is_named(tmp_path, key, value, said):
    choices = (("a", ("x", "y")), ("b", ("x", "y")))
    study = open_study(tmp_path / "journal.log", choices=choices)
    trial = study.ask()
    for name, whole in {"trial": {"code": [0, 1], "ask": 0}, "seconds": 1.0}.items():
        trial.set_user_attr(name, whole)
    study.tell(trial, 0.5)
    assert rows_of(study)[0].code == (0, 1)
    lines = [json.loads(line) for line in (tmp_path / "journal.log").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if key in line.get("user_attr", {}):
            line["user_attr"][key] = value
        elif key == "values" and line.get("values"):
            line["values"] = value
    (tmp_path / "journal.log").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(UserError, match=f"^trial 0 in its storage: {said}"):
        rows_of(open_study(tmp_path / "journal.log", choices=choices))
