import json

import numpy as np
import pytest

from jnas.errors import UserError
from jnas.report.reading import found_results, random_results, read_run, series


def test_a_finished_run_is_read_as_it_was_written(made):
    run = read_run(made.folder)
    np.testing.assert_array_equal(run.search["inner_loss"], made.loss)
    np.testing.assert_array_equal(run.search["step"], np.arange(1, 41))
    assert [row["epoch"] for row in run.genotypes] == [1, 2, 3, 4]
    assert run.config["method"] == "storm"
    assert run.environment["jax"] == "0.10.2"
    assert list(run.train) == ["found", "random-0", "random-1", "random-2"]
    assert [result["test_accuracy"] for result in found_results(run)] == [0.75]
    assert [result["test_accuracy"] for result in random_results(run)] == made.random
    assert run.notes == ()


def test_a_metric_that_some_rows_lack_has_only_the_rows_that_have_it(made):
    metrics = read_run(made.folder).train["found"].metrics
    steps, values = series(metrics, "test_accuracy")
    np.testing.assert_array_equal(steps, [5, 10, 15, 20])
    np.testing.assert_allclose(values, 0.75 * np.array([0.7, 0.8, 0.9, 1.0]))
    assert series(metrics, "loss")[0].size == 20  # the line of the epoch did not replace that of the step
    assert series(metrics, "unheard_of")[0].size == 0


def test_torn_and_repeated_lines_are_tolerated_and_counted(tmp_path):
    (tmp_path / "search").mkdir()
    rows = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 9.0}, {"step": 2, "loss": 2.0}]
    lines = [
        *map(json.dumps, rows),
        '{"step": 3, "lo{"step": 3, "loss": 3.0}',
        "[]",
        '{"loss": 1.0}',
        '{"step": 4, "lo',
    ]
    (tmp_path / "search" / "metrics.jsonl").write_text("\n".join(lines))
    run = read_run(tmp_path)
    np.testing.assert_array_equal(run.search["loss"], [1.0, 2.0])  # after a resumption the later line counts
    assert run.notes == ("4 lines of search/metrics.jsonl could not be read and left out.",)


def test_numbers_and_steps_that_no_run_writes_are_left_out_and_counted(tmp_path):
    (tmp_path / "search").mkdir()
    odd = ('{"step": 1e400}', '{"step": -3, "loss": 1.0}', '{"step": "4", "loss": 1.0}', '{"step": 5, "loss": 1e400}',
           '{"step": 6, "loss": NaN}', '{"step": 7, "loss": 1' + 400 * "0" + "}", '{"step": true}', 3000 * "[",
           '{"step": 1' + 30 * "0" + "}")  # fmt: skip
    lines = ['{"step": 1, "loss": 2.0}', *odd, '{"step": 9, "loss": 1.0, "word": "x"}']
    (tmp_path / "search" / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    run = read_run(tmp_path)
    np.testing.assert_array_equal(run.search["loss"], [2.0, 1.0])
    np.testing.assert_array_equal(run.search["step"], [1.0, 9.0])
    assert run.notes == (f"{len(odd)} lines of search/metrics.jsonl could not be read and left out.",)


SOUND = {"genotype": "a", "found": {"genotype": "a", "test_accuracy": 0.5}, "random": [], "data": {"test": 1}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"found": 5}, "found is 5; expected a mapping"),
        ({"selection": []}, "selection is []; expected a mapping"),
        ({"selection": {"trials": [{"model": "a"}]}}, "selection.trials.0.test_accuracy is missing"),
        ({"selection": {"ranking": [{"learning rate": "x"}]}}, "selection.ranking.0.learning rate is 'x'; expected a"),
        ({"selection": {"records": [3]}}, "selection.records is [3]; expected at least 2 entries"),
        ({"selection": {"carried by": {}}}, "selection.carried by.predictor is missing"),
        ({"quantised": {"eight": {}}}, "quantised.joint is missing"),
        ({"quantised": {"joint": {"test_accuracy": None}}}, "quantised.joint.test_accuracy is None; expected a finite"),
    ],
)
def test_a_result_of_another_form_is_left_out_and_its_field_named(tmp_path, changes, said):
    (tmp_path / "result.json").write_text(json.dumps({**SOUND, **changes}), encoding="utf-8")
    run = read_run(tmp_path)
    assert run.result == {}
    assert f"result.json: field {said}" in run.notes[0]


def test_a_run_under_way_gives_what_is_there(tmp_path):
    (tmp_path / "config.yaml").write_text("method: storm\n")
    (tmp_path / "train" / "found").mkdir(parents=True)
    run = read_run(tmp_path)
    assert run.config == {"method": "storm"}
    assert (run.search, run.genotypes, run.result, run.environment) == ({}, [], {}, {})
    assert run.train["found"].result == {}
    assert found_results(run) == random_results(run) == []


def test_results_of_trained_networks_count_before_the_run_is_finished(tmp_path):
    for name, accuracy in (("found", 0.6), ("random-10", 0.4), ("random-2", 0.5)):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "result.json").write_text(json.dumps({"test_accuracy": accuracy}))
    run = read_run(tmp_path)
    assert list(run.train) == ["found", "random-2", "random-10"]
    assert [r["test_accuracy"] for r in found_results(run)] == [0.6]
    assert [r["test_accuracy"] for r in random_results(run)] == [0.5, 0.4]


def test_files_that_are_damaged_are_named(tmp_path):
    (tmp_path / "config.yaml").write_text("a: [1, 2")
    (tmp_path / "result.json").write_text('{"space": "dar')
    run = read_run(tmp_path)
    assert (run.config, run.result) == ({}, {})
    assert [note.split()[0] for note in run.notes] == ["config.yaml", "result.json"]


def test_a_wrong_folder_is_answered_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is not a folder; give the folder that a run wrote\.$"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(UserError, match=r"is no run folder; give the one that holds config\.yaml"):
        read_run(tmp_path)
