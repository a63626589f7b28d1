"""A search step compiled for GPUs that are not there."""


def test_eight_gpus(lines):
    (line,) = lines("h100:8")
    assert "error" not in line, line
    assert {c["kind"] for c in line["collectives"]} == {"all-reduce"}
    assert 0 < line["memory_share"] < 1e-3
    assert "step_s" not in line
