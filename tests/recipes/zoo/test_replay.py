"""The rules of choosing on a table that is made up: what each must lose is known."""

import pathlib
import sys
from types import SimpleNamespace

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
    """Accuracy at the source and LogME tell the truth, separability the opposite; all rungs agree."""
    random = np.random.default_rng(0)
    for task in range(tasks):
        for network in range(networks):
            for rate in (0.02, 0.1):
                final = 0.5 + 0.05 * network + 0.01 * (rate > 0.05) + 0.02 * task
                yield {
                    "task": f"t{task}", "network": f"n{network}", "frozen": 0.0, "learning rate": rate, "logme": final,
                    "nearest centroid": -final, "look": 0.05, "source": "s", "source accuracy": 0.05 * network,
                    "flops": 1e6, "parameters": 1000 - network, "epochs": [1, 3, 9], "steps": [10, 30, 90],
                    "validation": [final - 0.3, final - 0.1, final], "test": [final - 0.31, final - 0.11, final - 0.01],
                    "seconds": [0.5, 2.0, 6.0], "task facts": {"mean": float(random.normal())},
                    # Compiled with the first task, and for every task to be paid.
                    "compiling": {"look": 0.0 if task else 0.05, "tune": 0.1 if task else 0.5},
                }  # fmt: skip


def asked(**own):
    return SimpleNamespace(**{"networks": 6, "draws": 1, "first": 0, "records": 12, "target": False, **own})


def test_every_rule_loses_what_it_must(replay):
    found = replay.replayed(list(made()), asked())
    lost = {rule: values[..., 0] for rule, values in found.items()}
    share = {rule: values[..., 1] for rule, values in found.items()}
    for rule in (
        "every network and setting",
        "LogME, one",
        "select, no records, one",
        "select, records of 2 tasks, one",
    ):
        np.testing.assert_allclose(lost[rule], 0, atol=1e-9)
    for rule in ("nearest centroid, one", "largest, one"):
        np.testing.assert_allclose(lost[rule], 25)
    np.testing.assert_allclose(share["every network and setting"], 1)
    np.testing.assert_allclose(share["largest, one"], 1 / 12)
    np.testing.assert_allclose(share["LogME, one"], (9 + 0.6) / 108)
    # Nine begin, three go on, one to its end: 9 + 3 * 2 + 6 seconds of 12 * 9; six networks looked at the images.
    np.testing.assert_allclose(share["select, no records"], (21 + 0.6) / 108)
    np.testing.assert_allclose(lost["select, no records"], 0, atol=1e-9)
    np.testing.assert_allclose(share["random, as many as the budget allows"], 3 / 12)
    assert (share["select, no records, budget"] <= replay.SHARE).all()
    assert (lost["random, one"] >= 0).all()
    written = replay.table(found, False)
    assert "| largest, one | 25.00 [25.00, 25.00] | 0.083 |" in written
    assert "| select, records of 2 tasks, one | 0.00 [0.00, 0.00] |" in written


def test_a_target_is_reached_at_once_by_who_knows_the_best_and_late_by_who_knows_the_worst(replay):
    found = replay.replayed(list(made()), asked(target=True))
    for values in found.values():
        np.testing.assert_allclose(values[..., 0], 1)
    np.testing.assert_allclose(found["most accurate at its source"][..., 1], 1 / 12)
    # Three in five of the twelve fall short of it: those of the three largest networks, and one more.
    np.testing.assert_allclose(found["largest"][..., 1], 4 / 12)
    assert "draws that reach the target" in replay.table(found, True)
