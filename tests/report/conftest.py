"""A small run folder, written as a run writes it."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml

from jnas import spaces


class Made(NamedTuple):
    """What `make_run` wrote, for comparison with what is read."""

    folder: Path
    loss: np.ndarray  # [num_steps]
    random: list[float]


def write_lines(path: Path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def trained(name: str, accuracy: float, seed: int) -> dict:
    return {
        "name": name,
        "genotype": "|",
        "space": "darts",
        "parameters": 100_000 + seed,
        "test_accuracy": accuracy,
        "test_loss": 0.5,
        "train_accuracy": accuracy + 0.05,
        "epochs": 4,
        "seconds": 12.0,
        "seed": seed,
    }


def make_run(
    folder: Path, *, space="darts", seed=0, found=0.75, random=(0.70, 0.72, 0.74), steps=40, finished=True, data="tiny"
) -> Made:
    rng = np.random.default_rng(seed)
    loss = 2.3 * np.exp(-np.arange(steps) / steps) + 0.05 * rng.normal(size=steps)
    write_lines(
        folder / "search" / "metrics.jsonl",
        (
            {
                "step": i + 1,
                "time": 1000.0 + i,
                "inner_loss": loss[i],
                "outer_loss": loss[i] + 0.1,
                "inner_accuracy": 1 - loss[i] / 3,
                "outer_accuracy": 0.95 - loss[i] / 3,
                "hypergradient_norm": 1 / (1 + i),
                "neumann_residual": 0.5 * 0.1 ** (i / steps),
                "neumann_step_size": 0.2,
            }
            for i in range(steps)
        ),
    )
    cells = spaces.by_name(space)
    epochs = max(1, steps // 10)
    goal = {cell: rng.normal(size=(cells.num_edges, len(cells.ops))) for cell in cells.cells}
    rows, text = [], ""
    for epoch in range(1, epochs + 1):
        alpha = {cell: (goal[cell] * epoch / epochs).astype(np.float32) for cell in cells.cells}
        text = spaces.to_string(cells, spaces.discretise(cells, alpha))
        alpha = {cell: values.tolist() for cell, values in alpha.items()}
        rows.append({"step": 10 * epoch, "epoch": epoch, "genotype": text, "alpha": alpha, "evaluation": {}})
    write_lines(folder / "search" / "genotypes.jsonl", rows)
    config = {"method": "storm", "space": space, "seed": seed, "data": data, "epochs": epochs}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    environment = {
        "python": "3.11",
        "jax": "0.10.2",
        "jnas": "0.1.0",
        "platform": "cpu",
        "device": "cpu",
        "argv": ["jnas"],
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    if not finished:
        return Made(folder, loss, [])
    results = [trained("found", found, seed), *(trained(f"random-{i}", a, i) for i, a in enumerate(random))]
    for result in results:
        place = folder / "train" / result["name"]
        curve = [{"step": k, "loss": 2 / k + result["test_accuracy"], "accuracy": 0.04 * k} for k in range(1, 21)]
        curve += [{"step": 5 * k, "test_accuracy": result["test_accuracy"] * (0.6 + 0.1 * k)} for k in range(1, 5)]
        write_lines(place / "metrics.jsonl", curve)
        (place / "result.json").write_text(json.dumps(result))
    result = {
        "genotype": text,
        "space": space,
        "method": "storm",
        "seed": seed,
        "seconds": 123.0,
        "steps": steps,
        "found": results[0],
        "random": results[1:],
        "data": {
            "name": data,
            "train": 800,
            "validation": 800,
            "test": 400,
            "shape": [8, 8, 1],
            "num_classes": 10,
            "searched_shape": [4, 4, 1],
        },
        "derivation": "argmax of the mixture without none",
    }
    (folder / "result.json").write_text(json.dumps(result))
    return Made(folder, loss, list(random))


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Made:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def write_run():
    """The function that writes a run folder."""
    return make_run
