"""The command that scores predictors on tasks kept back takes any file of the records' columns."""

import csv
import gzip
import io
import json
import pathlib
import sys

import numpy as np
import pytest

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments" / "choose_model"
MODELS = {"tiny": (1e9, "A"), "small": (2e9, "B"), "large": (9e9, "A")}
SETTINGS = ((0.1, 10), (0.01, 10))


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(EXPERIMENTS))
    import choose_model

    yield choose_model
    sys.path.remove(str(EXPERIMENTS))


def score(task, model, setting):
    return round(0.5 + 0.1 * model + 0.02 * setting * (-1) ** task - 0.01 * task, 4)


def records(tasks, **changed):
    """Rows of every task, model and setting."""
    return [
        {
            "model": name, "pretrained": "p", "upstream_dataset": upstream, "samples_seen": 1e9,
            "gmacs_total": compute * 1e9, "macts": 3.0, "dataset": f"vtab/task{task}", "fewshot_k": -1, "lr": lr,
            "epochs": epochs, "bs": 256, "lp_acc1": score(task, model, setting), **changed,
        }
        for task in tasks
        for model, (name, (compute, upstream)) in enumerate(MODELS.items())
        for setting, (lr, epochs) in enumerate(SETTINGS)
    ]  # fmt: skip


def as_csv(rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, sorted({name for row in rows for name in row}), restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "known.csv"
    path.write_bytes(as_csv(records(range(5))))
    return path


def messy():
    rows = records([0, 5, 6])  # task 0 is known already
    rows = [row for row in rows if (row["dataset"], row["model"]) != ("vtab/task5", "tiny")]  # the probe was not tried
    rows += [{**row, "model": "alien", "upstream_dataset": "C", "gmacs_total": "", "lp_acc1": 0.3} for row in rows]
    rows += [{**row, "lr": 0.5, "lp_acc1": 0.2} for row in records([6])]
    broken = [
        {"lp_acc1": "nan"},
        {"lp_acc1": 99.0},
        {"lp_acc1": ""},
        {"lr": "fast"},
        {"dataset": ""},
        {"fewshot_k": ""},
    ]
    return [{**row, "extra": "x"} for row in rows] + [{**rows[0], **change} for change in broken]


def run(script, known, path, out, capsys):
    script.main([str(known), "--test", str(path), "--predictors", "ridge", "--probes", "1", "--out", str(out)])
    printed = capsys.readouterr().out
    table = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    return printed, {row[0]: row for row in table[1:]}


def test_kept_back_tasks(script, known, tmp_path, capsys):
    path, out = tmp_path / "kept.csv.gz", tmp_path / "out.jsonl"
    path.write_bytes(gzip.compress(as_csv(records([5, 6]))))
    _, rows = run(script, known, path, out, capsys)
    assert set(rows) == {
        "predictor", "best single", "best single, settings of the probe", "oracle", "random", "ridge"
    } - {"predictor"}  # fmt: skip
    # Of the five known tasks three prefer the second setting, and it loses .02 on task 5.
    assert rows["best single"][1] == f"{np.mean([0.02, 0.0]):.4f}"
    assert rows["oracle"][1] == "0.0000"
    assert rows["best single, settings of the probe"][1] == "0.0000"
    every = [[score(t, m, s) for m in range(3) for s in range(2)] for t in (5, 6)]
    assert rows["random"][1] == f"{np.mean([max(each) - np.mean(each) for each in every]):.4f}"
    # Said again without being run again; another file is scored anew, into the same results.
    lines = out.read_text()
    assert run(script, known, path, out, capsys)[1] == rows
    assert out.read_text() == lines
    other = tmp_path / "other.csv"
    other.write_bytes(b"\xef\xbb\xbf" + as_csv(records([5, 6, 7])))
    assert run(script, known, other, out, capsys)[0].count("3 tasks, 3 cases") == 1


def test_whatever_is_in_the_file(script, known, tmp_path, capsys):
    path = tmp_path / "messy.csv"
    path.write_bytes(as_csv(messy()))
    printed, rows = run(script, known, path, tmp_path / "out.jsonl", capsys)
    assert "fitted without vtab/task0" in printed
    assert "6 rows without a task, a setting or an accuracy in [0, 1] are left out" in printed
    assert rows["oracle"][1] == "0.0000"
    assert all(np.isfinite(float(cell)) for row in rows.values() for cell in (row[1], row[6]))
    for line in (tmp_path / "out.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "has no row"),
        (b"model,lr\nx,1\n", "has no column pretrained, upstream_dataset"),
        (b"\x1f\x8b\x00", "cannot read"),
        (b"\xff\xfe\x00", "cannot read"),
        (as_csv(records([5], lp_acc1=75.0)), "has no record: give rows with accuracies in [0, 1]"),
        (as_csv(records(range(5))), "give records of other tasks to fit on"),
        (None, "cannot read"),
    ],
)
def test_what_cannot_be_scored(script, known, content, sentence, tmp_path, capsys):
    path = tmp_path / "kept.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit, match=r"kept\.csv") as caught:
        run(script, known, path, tmp_path / "out.jsonl", capsys)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
