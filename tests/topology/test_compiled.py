"""Real programs of a search, compiled for accelerators that are not there."""

import pytest


@pytest.fixture(scope="module")
def v5e(lines):
    (line,) = lines("v5e:2x4")
    assert "error" not in line, line
    return line


def test_gradients_are_summed_and_nothing_is_gathered(v5e):
    kinds = {c["kind"]: c for c in v5e["collectives"]}
    assert set(kinds) == {"all-reduce"}
    assert v5e["reductions_only"]
    assert kinds["all-reduce"]["bytes"] > 4 * v5e["parameters"]  # of the gradient, and of batch statistics


def test_statistics_that_do_not_wait_for_one_another_are_summed_together(v5e):
    """Of 18 edges in two gradients: a sum forwards, and two backwards; no statistic is summed again there."""
    (reductions,) = v5e["collectives"]
    assert reductions["count"] <= 3 * 2 * 18


def test_bytes_and_memory_are_those_of_the_compiler(v5e):
    """Of a program in which most loops run once or twice: between the compiler's count, bodies once, and 20 times."""
    assert v5e["xla_bytes"] < v5e["bytes"] < 20 * v5e["xla_bytes"]
    assert v5e["temp_bytes"] + v5e["argument_bytes"] < v5e["memory_bytes"] < 0.2 * 2**30
    assert 0 < v5e["memory_share"] < 0.02
    assert v5e["alias_bytes"] > 0.9 * v5e["output_bytes"]  # the state is given away


def test_a_prediction_holds_together(v5e):
    assert v5e["step_s"] == pytest.approx(max(v5e["compute_s"], v5e["memory_s"]) + v5e["interconnect_s"])
    assert v5e["compute_s"] == pytest.approx(v5e["flops"] / 197e12)
    assert v5e["images"] == 8 * 4 * 2
    assert v5e["uncounted"] == []
    assert v5e["cycles"] > 0
    assert v5e["compiler_s"] > v5e["compute_s"]


def test_a_slice_that_the_compiler_refuses_is_a_line(lines):
    (line,) = lines("v4:8x8x16384")
    assert line["error"].startswith("the compiler refuses v4:8x8x16384")
