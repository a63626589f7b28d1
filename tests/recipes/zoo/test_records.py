"""Records of others from a table: what is read, what is refused with its line, what a predictor makes of gaps."""

import gzip

import numpy as np
import pytest
from tiny import refused

from jnas.cli.main import main
from jnas.cli.zoo import COLUMNS
from jnas.recipes.zoo import entries, records

TABLE = (
    f"{','.join(COLUMNS)},notes\n"
    "birds,wide,0.75,12.5,1e6,2e9,0.7,0.4,0.25,0,0.01,1000,5000,50,1024,3,mine\n"
    "cars,narrow,0.5,,100000,,,,-0.5,,,,,,,,\n"
)


def test_a_table_becomes_records_once(tmp_path, capsys):
    for name, content in (("a.csv", TABLE.encode()), ("a.csv.gz", gzip.compress(TABLE.encode()))):
        (tmp_path / name).write_bytes(content)
        assert main(["zoo", "records", "import", str(tmp_path / "zoo"), str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == f"added 2 records of 2 tasks to {tmp_path / 'zoo'}\n"
        found, complaints = records.of_zoo(tmp_path / "zoo")
        assert not complaints
        assert {(one["task"], one["model"], one["score"], one["seconds"]) for one in found} == {
            ("birds", "wide", 0.75, 12.5), ("cars", "narrow", 0.5, 0.0)
        }  # fmt: skip
    whole, part = (one["features"] for one in sorted(found, key=lambda one: one["task"]))
    assert whole == pytest.approx({
        "model: log parameters": 6, "model: log operations": 9 + np.log10(2), records.SOURCE: 0.7,
        records.CENTROID: 0.4, records.LOGME: 0.25, records.FROZEN: 0, records.RATE: -2, records.STEPS: 3,
        "task: log_examples": 3 + np.log10(5), "task: log_classes": 1 + np.log10(5), "task: log_examples_a_class": 2,
        "task: log_pixels": np.log10(1024), "task: channels": 3,
    })  # fmt: skip
    assert part == {"model: log parameters": 5, records.LOGME: -0.5}


def test_what_is_not_known_is_the_mean_of_the_others(tmp_path):
    (tmp_path / "a.csv").write_text(f"{TABLE}cars,wide,0.25,,1e7,,0.5,,,,,,,,,,\n", encoding="utf-8")
    read = records.as_read(records.from_table(tmp_path / "a.csv"))
    assert read.groups.tolist() == [0, 1, 1]
    assert read.y.tolist() == [0.75, 0.5, 0.25]
    column = {name: read.x[:, at].tolist() for at, name in enumerate(records.NAMES)}
    assert column["model: log parameters"] == pytest.approx([6, 5, 7])
    assert column[records.SOURCE] == pytest.approx([0.7, 0.6, 0.5])
    assert column[records.LOGME] == pytest.approx([0.25, -0.5, -0.125])
    assert column["task: roughness"] == [0, 0, 0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("0.75", "75"), "a.csv:2: field accuracy is 75.0; expected a number of at most 1"),
        (("0.75", "high"), "a.csv:2: field accuracy is 'high'; expected a finite number"),
        (("0.75", "nan"), "a.csv:2: field accuracy is nan; expected a"),
        (("0.5,", ","), "a.csv:3 has no accuracy: correct it, see jnas zoo records import --help"),
        (("100000", "0"), "a.csv:3: field parameters is 0.0; expected a number above 0"),
        (("cars", ""), "a.csv:3 has no task: correct it, see jnas zoo records import --help"),
        (("accuracy,", "acc,"), "a.csv:2 has no accuracy: correct it, see jnas zoo records import --help"),
        (("notes", "task"), "a.csv has two columns 'task'"),
        ((TABLE.partition("\n")[2], ""), "a.csv has no row: correct it, see jnas zoo records import --help"),
    ],
)
def test_a_bad_row_is_one_sentence_with_its_line_and_nothing_is_written(change, said, tmp_path, capsys):
    (tmp_path / "a.csv").write_text(TABLE.replace(*change, 1), encoding="utf-8")
    assert said in refused(capsys, "zoo", "records", "import", tmp_path / "zoo", tmp_path / "a.csv")
    assert not (tmp_path / "zoo").exists()


def test_the_help_describes_every_column_that_is_read(capsys):
    assert list(COLUMNS) == list(records.Row.__annotations__)
    with pytest.raises(SystemExit):
        main(["zoo", "records", "import", "--help"])
    said = capsys.readouterr().out
    assert all(f"  {name} " in said and text in said for name, text in COLUMNS.items())


def test_records_of_another_version_are_left_out(tmp_path):
    record = {"task": "t", "features": {"of old": 1.0}, "score": 0.5, "model": "m", "seconds": 1.0}
    entries.note(tmp_path, entries.RECORDS, "", facts=record)
    assert records.of_zoo(tmp_path) == ([], [])
