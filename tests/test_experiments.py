"""The prepared scripts for accelerators, at their smallest sizes on the CPU."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from compiling import FLAGS
from tiny import TINY

EXPERIMENTS = pathlib.Path(__file__).parents[1] / "experiments"


def script(path):
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, EXPERIMENTS / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_check_of_an_accelerator_finds_the_cpu_equal_to_itself():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS}
    command = [sys.executable, EXPERIMENTS / "gpu" / "check.py", "--part", "--small"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"device": "cpu", "dtype": "float64", "single_loop, scan": 0.0}


def test_the_check_keeps_its_minutes_and_goes_on_where_it_was_cut_off(monkeypatch, tmp_path, capsys):
    check, ran = script("gpu/check.py"), tmp_path / "ran"
    parts = {
        "agreement": [sys.executable, "-c", f"open({str(ran)!r}, 'a').write('x'); print('{{\"cpu\": 0.0}}')"],
        "steps": [sys.executable, "-c", "import time; time.sleep(600)"],
        "search": [sys.executable, "-c", "raise SystemExit('no data')"],
    }
    monkeypatch.setattr(check, "commands", lambda arguments: parts)
    monkeypatch.setattr(check, "SHARES", {"agreement": 30, "steps": -28, "search": 60})  # of a second
    monkeypatch.setattr(sys, "argv", ["check.py", "--out", str(tmp_path / "out"), "--minutes", str(1 / 60)])
    for _ in range(2):
        assert check.main() == 1
    lines = [json.loads(line) for line in (tmp_path / "out" / "parts.jsonl").read_text().splitlines()]
    found = [{name: value for name, value in line.items() if name not in ("seconds", "last")} for line in lines]
    stopped = {"part": "steps", "stopped": None}, {"part": "search", "stopped": 1}
    assert found == [{"part": "agreement", "found": {"cpu": 0.0}}, *stopped, *stopped]
    assert ran.read_text() == "x"  # what was found is not looked for again
    assert "no data" in (tmp_path / "out" / "search.log").read_text()
    assert "agreement: up to 30 s" in capsys.readouterr().out


@pytest.mark.slow
def test_the_protocol_of_darts_runs_and_is_not_run_again(standard_promotion, tmp_path, capsys):
    """`experiments/pod/cifar10.py`, on a space and of a size that compile in seconds."""
    rng = np.random.default_rng(0)
    data = {}
    for part, count in (("train", 40), ("test", 20)):
        data |= {f"x_{part}": rng.integers(0, 255, (count, 8, 8, 3), np.uint8), f"y_{part}": np.arange(count) % 3}
    np.savez(tmp_path / "images.npz", **data)
    words = [*TINY, "space=nasbench201", "batch_size=10", "train.auxiliary=0", "--data", str(tmp_path / "images.npz")]
    for _ in range(2):
        assert script("pod/cifar10.py").main([*words, "--out", str(tmp_path / "run")]) == 0
    first, second = (line for line in capsys.readouterr().out.splitlines() if "% on the test images" in line)
    assert first == second
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert f"{100 * result['found']['test_accuracy']:.2f} %" in first
