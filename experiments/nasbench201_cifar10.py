"""Searches NAS-Bench-201 on real CIFAR-10 at CPU size and looks the found cells up in the published table.

For each method and seed: one small supernet (6 channels, 1 cell a stage) is searched, the cell is derived by argmax,
and the table says what that cell reaches after 200 epochs of full training. The table chooses nothing: it is read
once, after the search. EQUAL COST: every method gets the same number of gradient units (METHOD costs below), so that
cheap estimators take more steps; random choice costs nothing and is the table's own distribution over connected
cells.

Command:  python experiments/nasbench201_cifar10.py --data cifar10.npz --table nasbench201.csv.gz --out runs/nb201
Result:   see experiments/README.md. Interrupted, it resumes: every search has a run folder of its own.
"""

import argparse
import csv
import gzip
import json
import pathlib
import statistics

import jax
import numpy as np

from jnas import config, engine, spaces
from jnas.methods import differentiable
from jnas.methods.settings import Search

# Gradient units a step: a gradient 1, a Hessian-vector product 2. Neumann(Q) at one point takes 2 Q + 4, and 2 for the
# power iteration; the double recursion evaluates two points.
METHODS = {
    "storm + neumann(2)": (18, {}),
    "neumann(2)": (10, {"momentum": "none", "scheme": "alternating"}),
    "first order": (2, {"estimator": "first_order", "momentum": "none", "scheme": "alternating"}),
}
COMMON = {
    "space": "nasbench201", "channels": 6, "depth": 1, "batch_size": 16, "random_cells": 0,
    "weights": {"learning_rate": 0.1}, "alpha": {"learning_rate": 0.02, "final_learning_rate": 0.02, "warmup": 0.0},
}  # fmt: skip
HEAVY_BALL = {"heavy_ball": 0.9, "learning_rate": 0.025}  # what DARTS uses where there is no recursive momentum


def read_table(path):
    with gzip.open(path, "rt") as file:
        return {row["arch"]: row for row in csv.DictReader(file)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--table", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--units", type=int, default=2250, help="gradient units a search")
    parser.add_argument("--images", type=int, default=4000, help="training images used, half for each level")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--out", default="runs/nb201")
    arguments = parser.parse_args()
    out = pathlib.Path(arguments.out)
    engine.prepare_folder(out)
    engine.enable_compilation_cache()
    table = read_table(arguments.table)
    accuracies = np.sort([float(row["c10_test_e200"]) for row in table.values()])
    percentile = lambda value: 100 * np.searchsorted(accuracies, value) / len(accuracies)

    data = out / f"images-{arguments.images}.npz"
    if not data.exists():
        with np.load(arguments.data) as whole:
            chosen = np.random.default_rng(0).permutation(len(whole["x_train"]))[: arguments.images]
            engine_npz(data, whole["x_train"][chosen], whole["y_train"][chosen], whole["x_test"], whole["y_test"])

    rows = []
    for name in arguments.methods:
        units, settings = METHODS[name]
        steps_per_epoch = arguments.images // 2 // COMMON["batch_size"]
        epochs = max(1, round(arguments.units / units / steps_per_epoch))
        for seed in range(arguments.seeds):
            layers = [COMMON, settings, {"data": str(data), "seed": seed, "epochs": epochs}]
            if settings.get("momentum") == "none":
                layers.append({"weights": HEAVY_BALL})
            settings_of_run = config.build(Search, *layers)
            found = differentiable.search(settings_of_run, out / f"{name}-{seed}".replace(" ", "-"))
            row = table[found["genotype"]]
            rows.append({
                "method": name, "seed": seed, "genotype": found["genotype"], "index": int(row["index"]),
                "steps": found["steps"], "units": units * found["steps"], "seconds": found["seconds"],
                "test": float(row["c10_test_e200"]), "percentile": round(percentile(float(row["c10_test_e200"])), 1),
                "skips": found["genotype"].count("skip_connect"), "connected": found["connected"],
            })  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    space = spaces.nasbench201()
    drawn = differentiable.random_cells(space, jax.random.key(0), 1000)
    chance = [float(table[spaces.to_string(space, arch)]["c10_test_e200"]) for arch in drawn]
    mean, std, median = np.mean(chance), np.std(chance), np.median(chance)
    print(f"1000 random connected cells: mean {mean:.2f}, std {std:.2f}, median {median:.2f} %")
    for name in arguments.methods:
        tests = [row["test"] for row in rows if row["method"] == name]
        spread = statistics.stdev(tests) if len(tests) > 1 else 0.0
        print(f"{name}: {statistics.mean(tests):.2f} +- {spread:.2f} % over {len(tests)} seeds: {tests}")


def engine_npz(path, x_train, y_train, x_test, y_test):
    import io

    buffer = io.BytesIO()
    np.savez(buffer, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    engine.atomic_write(path, buffer.getvalue())


if __name__ == "__main__":
    main()
