import json
import pathlib
import re

import pytest
from matplotlib.colors import to_rgba

from jnas.cli.main import main
from jnas.errors import UserError
from jnas.report import as_text, benchmark_table, rooflines, write_benchmarks
from jnas.report.measurements import read_benchmarks

from .test_page import images, parsed


def case(step=0.5, *, what="step", devices=1, error=None, **settings):
    settings = {"space": "darts", "estimator": "neumann", "train": {"channels": 4}, **settings}
    head = {"kind": "case", "what": what, "devices": devices, "dtype": "float32", "settings": settings}
    if error:
        return {**head, "error": error}
    return {
        **head, "step_s": step, "step_iqr_s": 0.01, "images_per_s": 32 / step, "compile_cold_s": 40.0,
        "compile_warm_s": 0.4, "peak_bytes": 512_000_000, "device_peak_bytes": None, "temp_bytes": 129_600_000,
        "flops": 2e9, "bytes": 5e8, "flops_per_s": 2e9 / step, "intensity": 4.0, "roofline": 0.02 / step,
        "environment": {"device": "cpu", "platform": "cpu", "cpu_threads": 2, "jax": "0.10.2"},
    }  # fmt: skip


CEILINGS = {"kind": "ceilings", "devices": 1, "dtype": "float32", "flops_per_s": 1e11, "bytes_per_s": 2e10}


@pytest.fixture
def write(tmp_path):
    def lines(name, *records, tail=""):
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
        return str(path)

    return lines


def cells(table, column):
    place = table.columns.index(column)
    return [row[place] for row in table.rows]


def test_cases_are_named_by_what_tells_them_apart(write):
    path = write("a.jsonl", CEILINGS, case(), case(estimator="first_order"), case(what="hvp", devices=2))
    table = benchmark_table([path])
    assert cells(table, "case") == [
        "step, devices=1, neumann",
        "step, devices=1, first_order",
        "hvp, devices=2, neumann",
    ]
    assert cells(table, "step [s]") == ["0.500"] * 3
    assert cells(table, "GFLOP/s") == ["4.00"] * 3
    assert cells(table, "share of roofline [%]") == ["4.00"] * 3
    assert cells(table, "peak memory [MB]") == ["512"] * 3
    assert "129.6" in as_text(table)


def test_the_last_line_of_a_case_counts_and_a_torn_one_does_not(write):
    path = write("a.jsonl", case(error="killed by SIGKILL"), case(0.25), tail='{"kind": "case", "wh')
    assert [m.record["step_s"] for m in read_benchmarks([path]).cases] == [0.25]


def test_several_files_stand_below_each_other(write):
    before = write("before.jsonl", CEILINGS, case(0.5), case(2.0, channels=16))
    after = write("after.jsonl", CEILINGS, case(0.25))
    table = benchmark_table([before, after])
    assert cells(table, "file") == ["before", "after", "before"]
    assert cells(table, "time / first file's") == ["1.00", "0.50", "1.00"]


def test_a_file_of_a_version_with_more_settings_is_compared(write):
    before, after = write("before.jsonl", case()), write("after.jsonl", case(dtype="float32"))
    assert cells(benchmark_table([before, after]), "file") == ["before", "after"]
    assert len(read_benchmarks([before, after]).cases) == 2
    assert {m.label for m in read_benchmarks([before, after]).cases} == {"step"}
    both = write("both.jsonl", case(remat=True), case(remat=False))
    found = read_benchmarks([before, both]).cases
    assert [m.file for m in found] == ["before", "both", "both"]
    assert len({m.label for m in found}) == 3


def test_the_page_draws_every_chart_and_names_what_failed(write, capsys):
    size = {"channels": 4, "batch_size": 32}
    cases = case(**size), case(space="<s1>", **size), case(space="s2", error="out of memory", **size)
    path = write("a.jsonl", CEILINGS, *cases)
    assert main(["report", path]) == 0
    out = capsys.readouterr().out
    assert "failed" in out
    page = path.removesuffix("jsonl") + "html"
    assert f"page: {page}" in out
    text = pathlib.Path(page).read_text()
    reader = parsed(text)
    titles = [attrs["alt"].split(" in ")[0].split(".")[0] for tag, attrs in reader.tags if tag == "img"]
    assert titles == ["Time of a step", "Compilation", "Memory", "Roofline"]
    assert len(images(reader)) == 4
    assert "0.500" in "".join(reader.text)
    assert "All cases: channels 4, batch_size 32, estimator neumann." in "".join(reader.text)
    assert "step, s2 (a) failed: out of memory." in "".join(reader.text)
    assert "100 GFLOP/s and 20 GB/s" in next(a["alt"] for t, a in reader.tags if t == "img" and "Roofline" in a["alt"])
    assert str(write_benchmarks([path])) == page
    assert pathlib.Path(page).read_text() == text


def shown_on_cards(paths):
    return re.findall("<b>(.*?)</b><span>(.*?)</span>", write_benchmarks(paths).read_text())


def test_cards_say_of_each_program_what_is_fastest_and_slowest_and_how_files_compare(write):
    steps = case(0.5), case(2.0, estimator="first_order"), case(0.25, what="hvp"), case(space="s2", error="killed")
    before = write("before.jsonl", *steps)
    assert shown_on_cards([before]) == [
        ("250 ms", "hvp, darts, neumann"),
        ("500 ms", "fastest: step, darts, neumann"),
        ("2.00 s", "slowest: step, darts, first_order"),
        ("1 of 4", "failed"),
    ]
    after = write("after.jsonl", case(0.125), case(4.0, estimator="first_order"))
    cards = shown_on_cards([before, after])
    assert ("250 ms", "hvp, darts, neumann · before") in cards
    assert ("125 ms", "fastest: step, darts, neumann · after") in cards
    assert ("4.00 s", "slowest: step, darts, first_order · after") in cards
    assert ("× 0.707", "time of after over before, geometric mean of 2 cases") in cards  # sqrt(1/4 * 2)
    other = write("other.jsonl", case(estimator="implicit"))
    assert not any("time of other" in words for _, words in shown_on_cards([before, other]))


def test_the_legend_of_two_bars_has_the_colour_of_the_bars(monkeypatch):
    kept = []
    monkeypatch.setattr(rooflines, "to_svg", lambda figure: kept.append(figure) or "")
    for groups in ([0, 0], [0, 1]):
        rooflines.bar_chart("Memory", "bytes", ["a", "b"], groups, {"peak": [2.0, 1.0], "temporary": [1.0, 0.5]})
    for figure, file in zip(kept, (True, False), strict=True):
        bars = [patch.get_facecolor() for patch in figure.axes[0].patches]
        shades = [patch.get_facecolor() for patch in figure.legends[0].get_patches()]
        assert [shade[3] for shade in shades] == [bars[0][3], bars[2][3]] == [1.0, 0.4]
        of_no_file = {to_rgba(rooflines.QUIET)[:3]}
        assert {shade[:3] for shade in shades} == ({bar[:3] for bar in bars} if file else of_no_file)
        assert len({bar[:3] for bar in bars}) == (1 if file else 2)


def test_a_page_of_failures_alone(write):
    reader = parsed(write_benchmarks([write("a.jsonl", case(error="killed"))]).read_text())
    assert not images(reader)
    assert "1 of 1" in reader.text


def test_other_files_are_refused(write, tmp_path, capsys):
    for path in (str(tmp_path / "missing.jsonl"), write("log.jsonl", {"step": 1}), write("empty.jsonl"), str(tmp_path)):
        with pytest.raises(UserError, match="jnas bench wrote"):
            benchmark_table([path])
    assert main(["report", write("a.jsonl", case()), str(tmp_path)]) == 2
    assert "do not go into one table" in capsys.readouterr().err
