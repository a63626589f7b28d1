"""What is said of found cells beside random ones, and of several runs side by side."""

import json

import numpy as np
import pytest
from scipy import stats

from jnas.errors import UserError
from jnas.report.page import render
from jnas.report.reading import read_run
from jnas.report.verdict import compare, difference, interval, verdict


def results(accuracies, **more):
    return [{"test_accuracy": value, **more} for value in accuracies]


FOUND, RANDOM = [0.790, 0.777, 0.802], [0.781, 0.790, 0.773]


def test_the_interval_is_that_of_welch():
    told = difference(FOUND, RANDOM)
    test = stats.ttest_ind(FOUND, RANDOM, equal_var=False)
    np.testing.assert_allclose(told[1:], test.confidence_interval(0.95), rtol=1e-9)
    assert told.gain == pytest.approx(np.mean(FOUND) - np.mean(RANDOM))
    assert (told.judged == "not told apart") == (test.pvalue > 0.05)


def test_a_single_cell_is_given_the_spread_of_the_random_ones():
    told = difference([0.8], RANDOM)
    half = stats.t.ppf(0.975, 2) * np.std(RANDOM, ddof=1) * np.sqrt(1 + 1 / 3)
    assert told.high - told.gain == pytest.approx(half)
    assert difference([0.8], [0.7]) is None
    assert difference([], RANDOM) is None
    assert difference([0.8, 0.8], [0.7, 0.7]) == pytest.approx((0.1, 0.1, 0.1))


@pytest.mark.parametrize(
    ("found", "random", "words"),
    [
        (FOUND, RANDOM, "The 3 found cells reach a mean of 78.97 % (std 1.25, n = 3) against a mean of 78.13 % (std "
         "0.85, n = 3) of random cells: +0.83 points, 95 % interval −1.73 to +3.39. On this evidence the search cannot "
         "be told from drawing a cell at random."),
        ([0.80], [0.70, 0.702, 0.704], "better than drawing a cell at random. It comes from one training; other seeds "
         "may differ. It is better than 3 of 3."),
        ([0.80, 0.81], [0.70, 0.702, 0.704], "The search does better than drawing a cell at random."),
        ([0.60, 0.61], [0.70, 0.702, 0.704], "The search does worse than drawing a cell at random."),
        ([0.5], [0.25, 0.75], "+0.00 points"),
        ([], [0.5], "not known"),
        ([0.5], [], "No random cell was trained"),
        ([0.6], [0.5], "One random cell is too few"),
    ],
)  # fmt: skip
def test_what_can_be_said_is_said_and_nothing_else(found, random, words):
    assert words in verdict(results(found), results(random))


def test_sizes_stand_beside():
    text = verdict(results(FOUND, parameters=2000), results(RANDOM, parameters=1000))
    assert text.endswith("Parameters: found 2,000 ± 0, random 1,000 ± 0.")
    assert "Parameters" not in verdict(results(FOUND), results(RANDOM, parameters=1000))


def test_every_found_cell_of_several_searches_counts(tmp_path, write_run):
    folder = write_run(tmp_path, space="nasbench201", found=0.790, random=RANDOM, steps=10).folder
    for name, accuracy in (("run-1", 0.777), ("run-2", 0.802)):
        (folder / "train" / name).mkdir()
        result = json.loads((folder / "train" / "found" / "result.json").read_text())
        (folder / "train" / name / "result.json").write_text(
            json.dumps(result | {"name": name, "test_accuracy": accuracy})
        )
    page = render(read_run(folder))
    assert "The 3 found cells reach a mean of 78.97 % (std 1.25, n = 3)" in page
    assert "test accuracy of 3 found cells" in page
    table = compare([folder])
    assert table.rows[0][table.columns.index("found cells, test accuracy [%]")] == "78.97 ± 1.25 (n = 3)"


def test_comparison_pools_the_seeds_of_what_is_alike_and_of_nothing_else(tmp_path, write_run):
    settings = [
        {"seed": 0, "found": 0.80, "random": (0.70, 0.72)},
        {"seed": 1, "found": 0.84, "random": (0.74,)},
        {"seed": 2, "finished": False},
        {"seed": 0, "found": 0.60, "random": (), "data": "other"},
    ]
    folders = [write_run(folder_of(tmp_path, i), steps=10, **kwargs).folder for i, kwargs in enumerate(settings)]
    table = compare(folders)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    found, random = 100 * np.array([0.80, 0.84]), 100 * np.array([0.70, 0.72, 0.74])
    pooled = next(row for row in rows if row["data"] == "tiny" and row["seeds"] != "0")
    assert pooled["seeds"] == "2"
    assert pooled["found cells, test accuracy [%]"] == f"{found.mean():.2f} ± {found.std(ddof=1):.2f} (n = 2)"
    assert pooled["random cells, test accuracy [%]"] == f"{random.mean():.2f} ± {random.std(ddof=1):.2f} (n = 3)"
    told = difference(found / 100, random / 100)
    assert pooled["found − random"] == f"{interval(told)}: {told.judged}"
    assert pooled["found − random"].startswith(f"+{found.mean() - random.mean():.2f} points, 95 % interval ")
    assert pooled["cost [s]"] == "123 ± 0"
    other = next(row for row in rows if row["data"] == "other")
    assert other["found cells, test accuracy [%]"] == "60.00"
    assert other["random cells, test accuracy [%]"] == other["found − random"] == "–"
    assert sum(int(row["unfinished"]) for row in rows) == 1


def test_methods_on_the_same_data_are_compared_with_the_first_and_each_seed_counts_once(tmp_path, write_run):
    seeds = {"storm": FOUND, "other": [0.75, 0.75, 0.76], "elsewhere": [0.5, 0.6]}
    folders = []
    for i, (method, values) in enumerate(seeds.items()):
        folder = write_run(folder_of(tmp_path, i), steps=10, data="other" if i == 2 else "tiny").folder
        result = json.loads((folder / "result.json").read_text())
        common = {"genotype": result["genotype"], "outer_accuracy": None}
        rows = [{**common, "seed": seed, "test_accuracy": value} for seed, value in enumerate(values)]
        (folder / "result.json").write_text(json.dumps(result | {"method": method, "runs": rows}))
        folders.append(folder)
    table = compare(folders)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["seeds"] for row in rows] == ["3", "3", "2"]
    told = difference(seeds["other"], FOUND)
    assert [row["found − found of the first row"] for row in rows] == ["–", f"{interval(told)}: worse", "–"]
    assert rows[1]["found cells, test accuracy [%]"] == "75.33 ± 0.58 (n = 3)"
    assert "found − found of the first row" not in compare(folders[:1]).columns
    assert compare([folders[0], folders[0]]) == compare(folders[:1])


def folder_of(tmp_path, i):
    folder = tmp_path / str(i)
    folder.mkdir()
    return folder


def test_a_loss_against_random_has_a_minus(tmp_path, write_run):
    table = compare([write_run(tmp_path, found=0.70, random=(0.72, 0.73), steps=10).folder])
    assert table.rows[0][table.columns.index("found − random")].startswith("−2.50 points, 95 % interval −13.5")


def test_comparison_refuses_what_is_no_run(tmp_path):
    with pytest.raises(UserError):
        compare([tmp_path])
