import numpy as np
import pytest

from jnas.report.reading import read_run
from jnas.report.tables import Table, as_html, as_markdown, as_text, summarise, trained_table


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
