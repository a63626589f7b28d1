"""`jnas bench`: one real measurement, and the bookkeeping around measurements that a stand-in makes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest
from compiling import FLAGS

import jnas
from jnas import bilevel
from jnas.bench import command, roofline
from jnas.bench import worker as bench_worker
from jnas.cli.main import main
from jnas.recipes.gradient.settings import Search
from jnas.types import Batches, Context

PYTHON = sys.executable
ROOT = pathlib.Path(jnas.__file__).parents[1]
TINY = ("channels=2", "depth=1", "batch_size=4", "epochs=1", "data=synthetic:8x8x1:4", "estimator=first_order")

# In place of the worker: answers at once, and fails for some settings in the ways that a worker fails.
WORKER = """
import json, os, pathlib, signal, sys, time
request = json.loads(pathlib.Path(sys.argv[3]).read_text())
pathlib.Path(os.environ["BENCH_CALLS"] + ".pid").write_text(str(os.getpid()))
with open(os.environ["BENCH_CALLS"], "a") as calls:
    calls.write(request["role"] + "\\n")
channels = request.get("settings", {}).get("channels", 0)
if channels == 13:
    os.kill(os.getpid(), signal.SIGKILL)
if channels == 14:
    sys.exit("XlaRuntimeError: no room")
if channels == 15:
    pathlib.Path(os.environ["BENCH_CALLS"] + ".sleeps").touch()
    time.sleep(1000)
answer = {"flops_per_s": 1e9, "bytes_per_s": 1e9} if request["role"] == "ceilings" else {
    "compile_s": 2.0, "step_s": 0.5, "flops": 1e8, "bytes": 1e6, "peak_bytes": 1000}
pathlib.Path(sys.argv[4]).write_text(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The lines of one real measurement, of the smallest program, and what the cache holds of it after each worker."""
    path = tmp_path_factory.mktemp("bench") / "new" / "one.jsonl"
    plain, kept = command.measure, {}

    def measure(request, timeout, cache):
        answer = plain(request, timeout, cache)
        kept[request["role"]] = cache and sorted(file.name for file in pathlib.Path(cache).glob("jit_run-*-cache"))
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "measure", measure)
        patch.setenv("XLA_FLAGS", FLAGS)
        patch.setenv("PYTHONPATH", str(ROOT))
        status = main(["bench", *TINY, "--what", "gradient", "--repeats", "3", "--out", str(path), "--profile"])
    lines = command.read_lines(path)
    assert status == 0, lines
    return path, lines, kept


def test_the_machine_comes_first_and_then_each_case(measured):
    ceilings, case = measured[1]
    assert (ceilings["kind"], case["kind"]) == ("ceilings", "case")
    assert ceilings["flops_per_s"] > 1e6  # one by one, and not in billions
    assert ceilings["bytes_per_s"] > 1e6
    assert (case["what"], case["devices"], case["space"], case["dtype"]) == ("gradient", 1, "nasbench201", "float32")


def test_a_measurement_holds_together(measured):
    _, (ceilings, case), kept = measured
    assert case["images_per_s"] == pytest.approx(4 / case["step_s"])
    assert case["compile_warm_s"] > 0
    assert case["compile_cold_s"] > 0
    assert len(kept["cold"]) == 1
    assert kept["warm"] == kept["cold"]  # found: one that is not is compiled again and kept under another name
    assert min(case["compile_peak_bytes"], case["peak_bytes"]) > 1e8
    assert case["temp_bytes"] > 0
    assert case["flops_per_s"] == pytest.approx(case["flops"] / case["step_s"])
    least = max(case["flops"] / ceilings["flops_per_s"], case["bytes"] / ceilings["bytes_per_s"])
    assert case["roofline"] == pytest.approx(least / case["step_s"])
    assert case["uncounted"] == []
    assert case["settings"]["data"] == "synthetic:8x8x1:4"


def test_the_operations_are_those_of_the_supernet(measured):
    """The forward pass by hand; its gradient in weights and inputs costs twice as much again."""
    stages = [(2, 64), (4, 16), (8, 4)]  # channels, pixels: one cell each, of six edges with two convolutions
    pairs = {8: (3 * 8 - 2) ** 2, 4: (3 * 4 - 2) ** 2, 2: (3 * 2 - 2) ** 2}
    cells = sum(6 * 2 * 4 * c * c * (pairs[int(n**0.5)] + n) for c, n in stages)
    assert measured[1][1]["flops"] > 3 * cells
    assert measured[1][1]["flops"] < 3 * cells * 2  # stem, reductions, pooling, head


def test_a_trace_is_written_beside_the_file(measured):
    path, *_ = measured
    (trace,) = path.with_suffix("").glob("gradient-nasbench201-first_order-*/plugins/profile/*/*.xplane.pb")
    assert trace.stat().st_size > 1000


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Replaces the worker; returns the file of lines, and a function that tells the roles called since."""
    script, python, calls = tmp_path / "worker.py", tmp_path / "python", tmp_path / "calls"
    script.write_text(WORKER)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{script}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(command.sys, "executable", str(python))
    monkeypatch.setenv("BENCH_CALLS", str(calls))

    def called():
        roles = calls.read_text().split() if calls.exists() else []
        calls.write_text("")
        return roles

    return str(tmp_path / "lines.jsonl"), called


def test_every_combination_is_measured_once(stand_in, capsys):
    out, called = stand_in
    words = ["bench", *TINY, "--out", out, "--what", "step,hvp", "--sweep", "channels=2,3", "devices=1,2"]
    assert main(words) == 0
    assert called() == ["ceilings", *["cold", "warm"] * 2, "ceilings", *["cold", "warm"] * 6]
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == command.read_lines(out)
    cases = [(r["what"], r["channels"], r["devices"]) for r in printed if r["kind"] == "case"]
    assert cases == [(w, c, d) for c in (2, 3) for d in (1, 2) for w in ("step", "hvp")]
    assert {r["roofline"] for r in printed if r["kind"] == "case"} == {0.2}
    assert main([*words[:-2], "channels=3,4", "devices=1,2"]) == 0  # goes on: only the new ones
    assert called() == ["cold", "warm"] * 4
    assert "4 measured, 0 failed, 4 already in the file" in capsys.readouterr().err


def test_a_line_torn_by_a_kill_is_measured_again(stand_in):
    out, called = stand_in
    assert main(["bench", *TINY, "--out", out]) == 0
    path = pathlib.Path(out)
    path.write_text(path.read_text()[:-20])
    called()
    assert main(["bench", *TINY, "--out", out]) == 0
    assert called() == ["cold", "warm"]
    assert [r["kind"] for r in command.read_lines(out)] == ["ceilings", "case"]
    assert path.read_text().endswith("}\n")


def test_a_case_that_fails_is_a_line_and_the_others_go_on(stand_in, capsys, monkeypatch):
    out, called = stand_in
    sleeps = pathlib.Path(os.environ["BENCH_CALLS"] + ".sleeps")

    class Patient(subprocess.Popen):
        """The time for a worker begins when it sleeps: how long one takes to start and to fail says nothing."""

        def wait(self, timeout=None):
            while timeout is not None and self.poll() is None and not sleeps.exists():
                time.sleep(0.02)
            sleeps.unlink(missing_ok=True)
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Patient)
    words = ["bench", *TINY, "--out", out, "--timeout", "2", "--sweep", "channels=13,14,15,2"]
    assert main(words) == 1
    errors = [r.get("error") for r in command.read_lines(out) if r["kind"] == "case"]
    assert errors == [
        "killed by SIGKILL, as for want of memory",
        "ended with status 1: XlaRuntimeError: no room",
        "stopped after 2 s",
        None,
    ]
    assert "1 measured, 3 failed" in capsys.readouterr().err
    called()
    assert main(words) == 1  # what failed is tried again
    assert called() == ["cold"] * 3


def test_sigterm_leaves_no_process_behind(stand_in):
    out, _ = stand_in
    words = ["bench", *TINY, "channels=15", "--out", out]
    program = f"import sys; from jnas.cli.main import entry; sys.executable = {command.sys.executable!r}; entry()"
    process = subprocess.Popen(
        [PYTHON, "-c", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    calls = pathlib.Path(os.environ["BENCH_CALLS"])
    while not calls.exists() or "cold" not in calls.read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    worker = int(pathlib.Path(f"{calls}.pid").read_text())
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert err.strip().splitlines()[-1].startswith("jnas: stopped by SIGTERM")
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--what", "steps"], "--what steps is unknown: give some of gradient,hvp,step"),
        (["--sweep", "channels"], "'channels' is not of the form key=value,value"),
        (["--sweep", "channels=2,"], "'channels=2,' is not of the form"),
        (["--sweep", "chanels=2,4"], "unknown key chanels: did you mean channels?"),
        (["--sweep", "space=darts,dart"], "dart"),
        (["--sweep", "preset=darts,magic"], "'magic' is no preset"),
        (["--sweep", "devices=0"], "devices is '0': give a number of at least 1"),
        (["--sweep", "devices=\u00b2"], "devices is '\u00b2': give a number of at least 1"),
        (["--sweep", "devices=" + 5000 * "9"], "give a number of at least 1"),
        (["data=synthetic:99999x99999x3"], "each at most 9999"),
        (["--repeats", "10000000"], "give from 1 to 10^6 repeats"),
        (["--sweep", "devices=3"], "a batch of 16 cannot be split over 3 devices"),
        (["--repeats", "0"], "--repeats 0"),
        (["--profile"], "--profile needs --out"),
        (["data=synthetic:8x8"], "data is 'synthetic:8x8': give synthetic, or synthetic:HEIGHTxWIDTHxCHANNELS"),
        (["data=missing.npz"], "missing.npz"),
        (["--out", "/proc/lines.jsonl"], "/proc"),
        (["--out", "words.txt"], "words.txt is no file of jnas bench"),
    ],
)
def test_bad_words(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("once upon a time\n")
    assert main(["bench", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["words.txt"]


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_the_trips_of_a_solve_are_those_that_are_computed(curvature):
    """One gradient of the outer loss, two products, and the pass along the result, each counted by itself."""
    settings = Search(estimator="neumann", terms=2, neumann_step=0.1, momentum="none", curvature=curvature)
    model = lambda w, a, batch, context: jnp.tanh(batch @ w) @ a
    objective = lambda z, batch: jnp.sum(z**2)
    loss = lambda w, a, batch, context: (objective(model(w, a, batch, context), batch), bilevel.Aux())
    curve = bilevel.hessian if curvature == "hessian" else bilevel.gauss_newton(model, objective)
    point, batch = bilevel.Point(jnp.ones((8, 8)), jnp.ones((8, 3))), jnp.ones((4, 8))

    def flops(function):
        return roofline.count(
            jax.make_jaxpr(function)(point, batch), trips=(bench_worker.solver_trips(settings),)
        ).flops

    def gradients(p, b):
        return jax.grad(loss, argnums=(0, 1), has_aux=True)(p.weights, p.alpha, b, None)[0]

    def along(p, b):
        return jax.jvp(lambda w: gradients(p._replace(weights=w), b), (p.weights,), (p.weights,))

    def used(p, b):  # of that pass: the gradient in weights, and in the loop of a solve by the Hessian both products
        (in_weights, _), (weights, alpha) = along(p, b)
        return in_weights, alpha, *([weights] if curvature == "hessian" else [])

    estimator = bilevel.implicit(bilevel.neumann(2, step_size=0.1), curvature=curve)
    solved = flops(lambda p, b: estimator.estimate(bilevel.Bilevel(loss, loss), p, Batches(b, b), Context(), ())[0])
    product = flops(lambda p, b: curve(loss, p, b, Context(), p.weights))
    each = flops(used) if curvature == "hessian" else product
    assert solved == pytest.approx(flops(gradients) + 2 * each + flops(used), rel=0.01)
