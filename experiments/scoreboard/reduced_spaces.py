"""S2 and S4, where searches by gradient are known to fail, and DARTS' space: search, then training, on small images.

S2 lets each edge choose between a skip connection and a 3x3 separable convolution, S4 between noise and the same
convolution: a gradient that is worth anything finds convolutions. Every method gets the same number of gradient units;
all seeds of a method are one compiled program; each distinct cell is trained like the random ones and like the cells
that stand for the ends of the space, which come first and say whether this training can tell cells apart at all. The
embedded images of Fashion-MNIST, halved to 14x14, are searched and trained on, the 10,000 test images only report.

Command:  python experiments/scoreboard/reduced_spaces.py --out runs/reduced
Result, hardware, time: README.md beside this file. A method in the results is not run again; a killed one goes on.
"""

import argparse
import io
import json
import pathlib
import statistics

import numpy as np
import scoreboard

from jnas import files, spaces
from jnas.data.shrink import shrunk
from jnas.distributed.cache import enable_compilation_cache
from jnas.recipes import config, driver, run_folder, train_network
from jnas.recipes.gradient import recipe as gradient
from jnas.recipes.gradient.settings import Search
from jnas.recipes.settings import Augmentation, Training
from jnas.spaces.families.darts import Genotype

RANDOM = "random cell"
METHODS = ("single loop + EMA", "first order + EMA", "single loop + EMA + beta-decay", "first order + EMA + beta-decay")
TRAINING = Training(channels=6, depth=3, epochs=12, augmentation=Augmentation(crop=2))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spaces", nargs="*", default=["s2", "s4"])
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--seed", type=int, default=200, help="the first one")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--units", type=int, default=3000, help="gradient units a search")
    parser.add_argument("--out", default="runs/reduced")
    parser.add_argument("--results", default="experiments/scoreboard/reduced_spaces.jsonl")
    arguments = parser.parse_args()
    results, out = pathlib.Path(arguments.results), pathlib.Path(arguments.out)
    files.prepare_folder(results.parent)
    files.prepare_folder(out)
    enable_compilation_cache()
    images = half(out)
    for name in arguments.spaces:
        space = spaces.by_name(name)
        for method in (*ends(space), RANDOM, *arguments.methods):
            key = name, method, arguments.units * (method in arguments.methods)
            if any((row["space"], row["method"], row["units"]) == key for row in scoreboard.read(results)):
                continue
            rows = [{"space": name, "method": method, **row} for row in run(space, method, images, arguments)]
            with results.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            print(f"{name} {method}: {[row['test'] for row in rows]}", flush=True)
    table(scoreboard.read(results))


def half(out):
    """The embedded images with half the side, as a file."""
    path, splits = out / "half.npz", run_folder.load_data("fashion-mnist-5k", None)
    if not path.exists():
        arrays = {}
        for part, of in {"train": splits.train, "test": splits.test}.items():
            smaller = shrunk(of, 2)
            arrays |= {f"x_{part}": smaller.images.reshape(-1, *smaller.shape), f"y_{part}": smaller.labels}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        files.atomic_write(path, buffer.getvalue())
    return path


def ends(space):
    """Row -> the cell that has one operator on all edges; every node reads both inputs of the cell."""
    wiring = [0, 1] * space.num_nodes
    names = {op: f"all {op}" for op in ("sep_conv_3x3", "skip_connect", "noise") if op in space.ops}
    whole = {name: [(op, source) for source in wiring] for op, name in names.items()}
    concat = list(range(2, 2 + space.num_nodes))
    return {name: Genotype(cell, concat, cell, concat) for name, cell in whole.items()}


def run(space, method, images, arguments):
    """The rows of a method's seeds, or of as many trainings of an end of the space, or of random cells."""
    splits = run_folder.load_data(str(images), None)
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    folder = pathlib.Path(arguments.out) / f"{space.name}-{method}-{arguments.units}".replace(" ", "-")
    steps, seconds = 0, 0.0
    if method in ends(space):
        cells = [spaces.to_string(space, spaces.encode(space, ends(space)[method]))] * len(seeds)
    elif method == RANDOM:
        drawn = train_network.random_cells(space, scoreboard.jax.random.key(arguments.seed), len(seeds))
        cells = [spaces.to_string(space, arch) for arch in drawn]
    else:
        units, own = scoreboard.METHODS[method]
        steps = max(1, round(arguments.units / units))
        rate = scoreboard.WALK / steps
        settings = config.build(Search, scoreboard.COMMON, own, {
            "space": space.name, "data": str(images), "shrink": 1, "channels": 4, "depth": 3, "seed": arguments.seed,
            "alpha": scoreboard.COMMON["alpha"] | {"learning_rate": rate, "final_learning_rate": rate},
            "num_runs": len(seeds), "steps": steps, "record_every": max(1, steps // 10),
        })  # fmt: skip
        found = driver.search(gradient, settings, folder / "search")
        cells = [row["genotype"] for row in found["runs"]]
        seconds = found["seconds"] / len(seeds)
    for seed, cell in zip(seeds, cells, strict=True):
        prepared = train_network.prepare(space, spaces.from_string(space, cell), splits, TRAINING)
        trained = train_network.train(prepared, splits, TRAINING, folder / f"train-{seed}", seed)
        yield {
            "seed": seed, "units": arguments.units if steps else 0, "steps": steps, "seconds": round(seconds, 1),
            "test": round(100 * trained["test_accuracy"], 2), "parameters": trained["parameters"],
            "separable": cell.count("sep_conv_3x3"), "genotype": cell,
        }  # fmt: skip


def table(rows):
    """Mean, spread and every seed, as Markdown."""
    print(
        "| space | method | units | steps | seconds | test [%], mean ± std (95 % interval) | each seed | parameters | "
        "separable convolutions of 16 |\n" + "|---" * 9 + "|"
    )
    for key in dict.fromkeys((row["space"], row["method"], row["units"]) for row in rows):
        of = [row for row in rows if (row["space"], row["method"], row["units"]) == key]
        tests, mean = [row["test"] for row in of], lambda key, of=of: statistics.mean(row[key] for row in of)
        each = " ".join(f"{test:.2f}" for test in tests)
        print(
            f"| {' | '.join(map(str, key))} | {of[0]['steps']} | {mean('seconds'):.0f} | "
            f"{scoreboard._interval(tests)} | {each} | {mean('parameters'):,.0f} | {mean('separable'):.1f} |"
        )


if __name__ == "__main__":
    main()
