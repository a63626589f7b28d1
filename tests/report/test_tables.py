import numpy as np
import pytest

from jnas.errors import UserError
from jnas.report.reading import read_run
from jnas.report.tables import Table, as_html, as_markdown, as_text, compare, summarise, trained_table


def test_summary_equals_numpy_and_leaves_out_what_is_missing():
    values = np.random.default_rng(0).normal(size=7)
    mean, std, count = summarise([*values, None, float("nan")])
    assert mean == pytest.approx(np.mean(values))
    assert std == pytest.approx(np.std(values, ddof=1))
    assert count == 7
    assert np.isnan(summarise([1.0]).std)
    assert np.isnan(summarise([]).mean)


def test_trained_networks_and_the_mean_of_the_random_ones(made):
    table = trained_table(read_run(made.folder))
    column = [row[table.columns.index("test accuracy [%]")] for row in table.rows]
    random = 100 * np.array(made.random)
    assert column == ["75.00", "70.00", "72.00", "74.00", f"{random.mean():.2f} ± {random.std(ddof=1):.2f}"]
    assert [row[0] for row in table.rows] == ["found", "random-0", "random-1", "random-2", "random, mean ± std (n = 3)"]
    parameters = [row[table.columns.index("parameters")] for row in table.rows]
    assert parameters == ["100,000", "100,000", "100,001", "100,002", "100,001 ± 1"]


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
    assert pooled["found, test accuracy [%]"] == f"{found.mean():.2f} ± {found.std(ddof=1):.2f}"
    assert pooled["random cells, test accuracy [%]"] == f"{random.mean():.2f} ± {random.std(ddof=1):.2f} (n = 3)"
    assert pooled["found − random mean [points]"] == f"+{found.mean() - random.mean():.2f}"
    assert pooled["cost [s]"] == "123 ± 0"
    other = next(row for row in rows if row["data"] == "other")
    assert other["found, test accuracy [%]"] == "60.00"
    assert other["random cells, test accuracy [%]"] == other["found − random mean [points]"] == "–"
    assert sum(int(row["unfinished"]) for row in rows) == 1


def folder_of(tmp_path, i):
    folder = tmp_path / str(i)
    folder.mkdir()
    return folder


def test_a_loss_against_random_has_a_minus(tmp_path, write_run):
    table = compare([write_run(tmp_path, found=0.70, random=(0.72, 0.73), steps=10).folder])
    assert table.rows[0][table.columns.index("found − random mean [points]")] == "−2.50"


def test_comparison_refuses_what_is_no_run(tmp_path):
    with pytest.raises(UserError):
        compare([tmp_path])


TABLE = Table("A <title>", ("name", "value", "note"), (("a|b", "1.50", "x"), ("<i>", "−12", "–")))


def test_text_is_aligned():
    lines = as_text(TABLE).splitlines()
    assert lines[0] == "A <title>"
    assert lines[2:] == ["name  value  note", "----  -----  ----", "a|b    1.50  x", "<i>     −12  –"]


def test_markdown_escapes_its_separator():
    assert as_markdown(TABLE).splitlines() == [
        "| name | value | note |",
        "| --- | --- | --- |",
        "| a\\|b | 1.50 | x |",
        "| <i> | −12 | – |",
    ]


def test_html_is_escaped_and_numbers_stand_right():
    text = as_html(TABLE)
    assert "<i>" not in text
    assert "<title>" not in text
    assert '<th scope="row">&lt;i&gt;</th><td class="number">−12</td><td>–</td>' in text
    assert text.count('class="number"') == 3  # the heading and two cells of one column
