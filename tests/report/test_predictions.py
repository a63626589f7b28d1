import json

import pytest

from jnas.cli.main import main
from jnas.report import as_text, benchmark_table, write_benchmarks
from jnas.report.benchmarks import ASSUMPTIONS
from jnas.report.measurements import read_benchmarks

from .test_page import images, parsed


def prediction(topology="v5e:2x4", dtype="float32", *, error=None, effort="O1", **more):
    head = {
        "kind": "prediction", "what": "step", "topology": topology, "devices": 8, "dtype": dtype, "effort": effort,
        "settings": {"space": "darts", "dtype": dtype, "channels": 16},
    }  # fmt: skip
    if error:
        return {**head, "error": error}
    times = {
        "compute_s": 0.001, "memory_s": 0.02, "interconnect_s": 0.005, "step_s": 0.025, "bound": "memory",
        "efficiency": 0.8, "images_per_s": 40_960.0, "compiler_s": 0.05,
    }  # fmt: skip
    return {
        **head, **({} if topology.startswith("h100") else times), "memory_bytes": 2e9, "memory_share": 0.125,
        "flops": 3e9, "bytes": 4e9, "compile_s": 100.0,
        "collectives": [{"kind": "all-reduce", "count": 1234.0, "written": 12, "bytes": 5e6}], **more,
    }  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def lines(name, *records):
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return str(path)

    return lines


def test_the_table_is_in_units_that_can_be_read(write):
    table = benchmark_table([write("a.jsonl", prediction(), prediction("h100:8"))])
    row, gpu = (dict(zip(table.columns, one, strict=True)) for one in table.rows)
    assert row["case"] == "v5e:2x4, float32"
    assert (row["step, at least [ms]"], row["bound"], row["efficiency [%]"]) == ("25.0", "memory", "80.0")
    assert (row["memory a chip [GB]"], row["of HBM [%]"]) == ("2.00", "12.5")
    assert (row["all-reduces"], row["other collectives"]) == ("1,234", "none")
    assert (gpu["step, at least [ms]"], gpu["memory a chip [GB]"]) == ("–", "2.00")
    assert "1,234" in as_text(table)


def test_cases_are_named_by_what_tells_them_apart_and_the_last_line_counts(write):
    first = prediction(error="Ran out of memory on HBM")
    path = write("a.jsonl", first, prediction("v4:2x2x4"), prediction(effort="O2"), prediction())
    labels = [(case.label, case.failed) for case in read_benchmarks([path]).predictions]
    assert labels == [
        ("v5e:2x4, float32, effort=O1", False),
        ("v4:2x2x4, float32, effort=O1", False),
        ("v5e:2x4, float32, effort=O2", False),
    ]


def test_the_page_states_its_assumptions_and_names_what_failed(write, capsys):
    failed = prediction("v4:2x2x4", error="Ran out of memory on HBM")
    path = write("a.jsonl", prediction(), prediction(dtype="bfloat16"), prediction("h100:8"), failed)
    assert main(["report", path]) == 0
    assert "failed" in capsys.readouterr().out
    reader = parsed(write_benchmarks([path]).read_text())
    text = " ".join(" ".join(reader.text).split())
    assert all(words in text for words in ASSUMPTIONS)
    assert "25.0 ms fastest: v5e:2x4, float32" in text
    assert "1 of 4 failed" in text
    assert "v4:2x2x4, float32 (a) failed: Ran out of memory on HBM." in text
    titles = [attrs["alt"].split(" in ")[0] for tag, attrs in reader.tags if tag == "img"]
    assert titles == ["Predicted time of a step", "Memory of a chip"]
    assert len(images(reader)) == 2


def test_a_program_that_moves_activations_is_pointed_out(write):
    gather = {"kind": "all-gather", "count": 3.0, "written": 3, "bytes": 1e9}
    good, bad = prediction(reductions_only=True), prediction("v4:2x2x4", collectives=[gather], reductions_only=False)
    path = write("a.jsonl", good, bad)
    text = " ".join(" ".join(parsed(write_benchmarks([path]).read_text()).text).split())
    assert "v4:2x2x4, float32 (a) moves data between chips other than by sums" in text
    assert "v5e:2x4, float32 (a) moves" not in text
    assert "3 all-gather" in text


def test_a_page_of_failed_predictions_alone(write):
    page = write_benchmarks([write("a.jsonl", prediction(error="Ran out of memory on HBM"))])
    assert not images(parsed(page.read_text()))
