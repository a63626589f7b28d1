"""The rules of choosing on a table that is made up: what each must lose is known."""

import pathlib
import sys

import numpy as np
import pytest

EXPERIMENTS = pathlib.Path(__file__).parents[3] / "experiments" / "zoo"


@pytest.fixture(scope="module")
def replay():
    sys.path.insert(0, str(EXPERIMENTS))
    import replay

    yield replay
    sys.path.remove(str(EXPERIMENTS))


def made(networks=6, tasks=3):
    """The source accuracy tells the truth, LogME the opposite, and the largest is the worst; all rungs agree."""
    random = np.random.default_rng(0)
    for task in range(tasks):
        for network in range(networks):
            for rate in (0.02, 0.1):
                final = 0.5 + 0.05 * network + 0.01 * (rate > 0.05) + 0.02 * task
                yield {
                    "task": f"t{task}", "network": f"n{network}", "frozen": 0.0, "learning rate": rate, "logme": -final,
                    "nearest centroid": 0.5, "look": 0.1, "source accuracy": 0.05 * network, "flops": 1e6,
                    "parameters": 1000 - network, "epochs": [1, 3, 9], "steps": [10, 30, 90],
                    "validation": [final - 0.3, final - 0.1, final], "test": [final - 0.31, final - 0.11, final - 0.01],
                    "seconds": [1.0, 2.0, 6.0], "task facts": {"mean": float(random.normal())},
                }  # fmt: skip


def test_every_rule_loses_what_it_must(replay):
    found = replay.replayed(list(made()), 6, 3, 6)
    lost = {rule: values[..., 0] for rule, values in found.items()}
    share = {rule: values[..., 1] for rule, values in found.items()}
    for rule in ("every network and setting", "most accurate at its source", "select, records of the other tasks"):
        np.testing.assert_allclose(lost[rule], 0, atol=1e-9)
    for rule in ("probe alone (LogME)", "largest"):
        np.testing.assert_allclose(lost[rule], 25)
    np.testing.assert_allclose(share["every network and setting"], 1)
    np.testing.assert_allclose(share["largest"], 1 / 12)
    # Six begin, two go on, one to its end: 6 + 2 * 2 + 6 seconds of 12 * 9; six networks looked at the images.
    np.testing.assert_allclose(share["select, no records"], (16 + 0.6) / 108)
    np.testing.assert_allclose(lost["select, no records"], 0, atol=1e-9)
    assert (lost["random"] >= 0).all()
    assert "| largest | 25.00 [25.00, 25.00] | 0.083 |" in replay.table(found)
