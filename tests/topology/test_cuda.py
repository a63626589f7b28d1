"""A search step compiled for GPUs that are not there."""


def test_eight_gpus(lines):
    (line,) = lines("h100:8")
    assert "error" not in line, line
    (reductions,) = line["collectives"]
    assert reductions["kind"] == "all-reduce"
    assert reductions["count"] <= 4 * 2 * 18  # of 18 edges in two gradients: a sum forwards, and three backwards
    assert 0 < line["memory_share"] < 1e-3
    assert "step_s" not in line
