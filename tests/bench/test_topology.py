"""Predictions from published figures, worked out by hand, and the bookkeeping around a compiler that is a stand-in."""

import importlib.util
import json
import pathlib
import sys

import pytest

from jnas.bench import command, topology
from jnas.bench.chips import CHIPS, Prediction, collective_s, predict
from jnas.cli.main import main

TINY = ("channels=2", "depth=1", "batch_size=4", "data=synthetic:8x8x1:4")
V5E, V4, H100 = CHIPS["v5e"], CHIPS["v4"], CHIPS["h100"]
US = 1e-6


@pytest.mark.parametrize(
    ("chip", "sides", "hops", "lanes"),
    [
        (V5E, (2, 4), 1 + 3, 2),  # no side closes to a ring
        (V5E, (16, 16), 8 + 8, 4),
        (V5E, (8, 16), 7 + 8, 3),
        (V4, (2, 2, 4), 1 + 1 + 3, 3),
        (V4, (2, 2, 1), 1 + 1, 2),
        (V4, (4, 4, 8), 2 + 2 + 4, 6),
    ],
)
def test_an_all_reduce_on_a_torus(chip, sides, hops, lanes):
    count = 1
    for side in sides:
        count *= side
    latency = collective_s(chip, sides, "all-reduce", 10, 0.0)
    assert latency == pytest.approx(10 * 2 * hops * US)
    moved = collective_s(chip, sides, "all-reduce", 0, 45e9)
    assert moved == pytest.approx(2 * (count - 1) / count / lanes)


def test_other_collectives_and_one_chip():
    assert collective_s(V5E, (1, 1), "all-reduce", 5, 1e9) == 0.0
    assert collective_s(V5E, (2, 4), "all-gather", 1, 90e9 / 7) == pytest.approx(4 * US + 1.0)
    assert collective_s(V5E, (2, 4), "reduce-scatter", 0, 90e9) == pytest.approx(7 / 8)
    assert collective_s(H100, (8,), "all-reduce", 3, 450e9) == pytest.approx(2 * (3 * US + 7 / 8))


def test_a_step_by_hand():
    """A v5e does 197 TFLOP/s and 819 GB/s: 2 s of arithmetic, 3 s of memory, 1 s of a thousandth of 8 us each."""
    collectives = [("all-reduce", 125_000.0, 0.0)]
    found = predict(V5E, (2, 4), "bfloat16", flops=2 * 197e12, bytes=3 * 819e9, collectives=collectives)
    assert found == pytest.approx(Prediction(2.0, 3.0, 1.0))
    assert (found.step_s, found.bound, found.efficiency) == (pytest.approx(4.0), "memory", pytest.approx(0.75))
    assert Prediction(2.0, 1.0, 1.5).bound == "compute"
    assert Prediction(2.0, 1.0, 3.0).bound == "interconnect"
    assert H100.peak("float32") < H100.peak("bfloat16")


COMPILED = {
    "images": 64, "memory_bytes": 4 * 2**30, "flops": 197e12, "bytes": 819e9, "cycles": 3e9, "compile_s": 1.0,
    "collectives": [{"kind": "all-reduce", "count": 125_000.0, "written": 10, "bytes": 0.0}],
}  # fmt: skip


def test_what_follows_from_a_compiled_program():
    line = topology.finish({**COMPILED, "dtype": "float32"}, topology.parse("v5e:2x4"))
    assert (line["step_s"], line["bound"]) == (pytest.approx(2.0), "compute")
    assert line["images_per_s"] == pytest.approx(32.0)
    assert line["memory_share"] == 0.25
    assert line["compiler_s"] == pytest.approx(2.0)
    gpu = topology.finish({**COMPILED, "dtype": "float32"}, topology.parse("h100:8"))
    assert gpu["memory_share"] == pytest.approx(4 * 2**30 / 80e9)
    assert "step_s" not in gpu  # nothing says how fast its kernels are


@pytest.mark.parametrize("name", ["v5e:1x1", "v5e:16x16", "v6e:4x8", "v4:2x2x1", "v4:2x2x4", "v5p:4x4x8", "h100:16"])
def test_slices_that_exist(name):
    assert topology.parse(name).name == name


def test_the_chips_of_a_slice_are_counted():
    assert [topology.parse(name).size for name in ("v5e:16x16", "v4:2x2x4", "h100:8")] == [256, 16, 8]


REFUSED = ("v5e", "v5e:", "v5e:0x4", "v5e:3x5", "v5e:2x2x4", "v4:2x4", "v4:3x3x3", "tpu:2x4", "h100:9", "h100:2x4")


@pytest.mark.parametrize("name", REFUSED)
def test_names_that_are_refused(name, capsys):
    assert main(["bench", *TINY, "--topology", name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert name in err
    assert "v5e:2x4" in err
    assert len(err.strip().splitlines()) == 1


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A compiler that answers at once; returns the file of lines, and a function that tells what it was asked."""
    script, python, calls = tmp_path / "worker.py", tmp_path / "python", tmp_path / "calls"
    script.write_text(f"""
import json, os, pathlib, sys
request = json.loads(pathlib.Path(sys.argv[3]).read_text())
with open({str(calls)!r}, "a") as file:
    print(sys.argv[2], os.environ["JAX_PLATFORMS"], os.environ["TPU_SKIP_MDS_QUERY"], request["topology"],
          request["effort"], request["settings"]["dtype"], file=file)
answer = {COMPILED!r} if request["settings"]["channels"] == 2 else {{"error": "Ran out of memory on HBM"}}
pathlib.Path(sys.argv[4]).write_text(json.dumps(answer))
""")
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{script}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(command.sys, "executable", str(python))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())

    def called():
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.write_text("")
        return lines

    return str(tmp_path / "lines.jsonl"), called


def test_each_slice_in_both_dtypes_once(stand_in, capsys):
    out, called = stand_in
    words = ["bench", *TINY, "--out", out, "--topology", "v5e:2x4", "h100:8"]
    assert main(words) == 0
    start = "jnas.bench.topology_worker cpu 1"
    assert called() == [f"{start} {t} O1 {d}" for d in ("float32", "bfloat16") for t in ("v5e:2x4", "h100:8")]
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == command.read_lines(out)
    assert [(r["kind"], r["topology"], r["devices"], r["dtype"]) for r in printed][:2] == [
        ("prediction", "v5e:2x4", 8, "float32"),
        ("prediction", "h100:8", 8, "float32"),
    ]
    assert main([*words, "--effort", "O2", "--sweep", "dtype=bfloat16"]) == 0
    assert called() == [f"{start} {t} O2 bfloat16" for t in ("v5e:2x4", "h100:8")]
    assert main(words) == 0
    assert called() == []
    assert "4 already in the file" in capsys.readouterr().err


def test_a_program_that_does_not_fit_is_a_line_and_is_tried_again(stand_in, capsys):
    out, called = stand_in
    words = ["bench", *TINY, "channels=3", "dtype=float32", "--out", out, "--topology", "v5e:2x4"]
    assert main(words) == 1
    assert main(words) == 1
    assert len(called()) == 2
    assert {line["error"] for line in command.read_lines(out)} == {"Ran out of memory on HBM"}
    assert "failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--effort", "O7"], "--effort O7 is unknown: give one of O0, O1, O2"),
        (["--what", "hvp"], "--topology compiles steps"),
        (["--sweep", "devices=2"], "--topology compiles steps"),
        (["--profile"], "--profile traces what runs"),
    ],
)
def test_bad_words(stand_in, words, sentence, capsys):
    assert main(["bench", *TINY, "--topology", "v5e:2x4", *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(("name", "extra"), [("v5e:4x4", "tpu"), ("h100:8", "cuda12")])
def test_without_the_compiler_one_sentence_names_the_extra(name, extra, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    assert main(["bench", *TINY, "--topology", name]) == 2
    err = capsys.readouterr().err
    assert f"pip install 'jnas[{extra}]'" in err
    assert len(err.strip().splitlines()) == 1


def test_the_target_of_a_gpu_agrees_with_the_table():
    text = pathlib.Path(topology.__file__).with_name("targets").joinpath("h100.txtpb").read_text()
    assert f"memory_bandwidth: {H100.bytes_per_s:.0f}" in text
    assert f"device_memory_size: {H100.memory_bytes:.0f}" in text
