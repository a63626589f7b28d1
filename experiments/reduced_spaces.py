"""S2 and S4, where a search by gradient is known to fail, on the embedded images: search, then short trainings.

S2 lets each edge choose between a skip connection and a 3x3 separable convolution, S4 between noise and the same
convolution: a gradient that is worth anything finds convolutions. Every method gets the same number of gradient units;
all seeds of a method are one compiled program; each distinct cell is trained for a few epochs, like the random ones.

Command:  python experiments/reduced_spaces.py --out runs/reduced --results experiments/results/reduced_spaces.jsonl
Result, hardware, time: experiments/README.md. A method that is in the results is not run again; a killed one goes on.
"""

import argparse
import json
import pathlib
import statistics

import scoreboard

from jnas import files
from jnas.distributed.cache import enable_compilation_cache
from jnas.recipes import config, driver
from jnas.recipes.gradient import recipe as gradient
from jnas.recipes.gradient.settings import Search

SIZE = {
    "channels": 4, "depth": 3, "batch_size": 16,
    "train": {"channels": 6, "depth": 3, "epochs": 3},
}  # fmt: skip
RANDOM = "random cell"
METHODS = (RANDOM, "first order", "first order + beta-decay", "neumann(2) + STORM", "neumann(2) + STORM + beta-decay")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spaces", nargs="*", default=["s2", "s4"])
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--units", type=int, default=400, help="gradient units a search")
    parser.add_argument("--out", default="runs/reduced")
    parser.add_argument("--results", default="experiments/results/reduced_spaces.jsonl")
    arguments = parser.parse_args()
    results = pathlib.Path(arguments.results)
    files.prepare_folder(results.parent)
    enable_compilation_cache()
    for space in arguments.spaces:
        for name in arguments.methods:
            if any((row["space"], row["method"]) == (space, name) for row in scoreboard.read(results)):
                continue
            rows = run(space, name, arguments)
            with results.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            print(f"{space} {name}: {[row['test'] for row in rows]}", flush=True)
    table(scoreboard.read(results))


def run(space, name, arguments):
    """The rows of a method's seeds, or of as many cells drawn at random, trained alike."""
    folder = pathlib.Path(arguments.out) / f"{space}-{name}".replace(" ", "-")
    if name == RANDOM:
        units, own, runs = 1, {}, {"steps": 1, "random_cells": arguments.seeds}
    else:
        units, own = scoreboard.METHODS[name]
        steps = max(1, round(arguments.units / units))
        rate = scoreboard.WALK / steps
        own = own | {"alpha": scoreboard.COMMON["alpha"] | {"learning_rate": rate, "final_learning_rate": rate}}
        runs = {"num_runs": arguments.seeds, "steps": steps, "record_every": max(1, steps // 10), "random_cells": 0}
    result = driver.run(gradient, config.build(Search, scoreboard.COMMON, own, SIZE, {"space": space}, runs), folder)
    found = result["random"] if name == RANDOM else result.get("runs") or [result["found"] | {"seed": 0}]
    return [
        {
            "space": space, "method": name, "seed": row.get("seed", n) if name != RANDOM else n,
            "units": arguments.units, "steps": runs["steps"], "test": round(100 * row["test_accuracy"], 2),
            "separable": row["genotype"].count("sep_conv_3x3"), "genotype": row["genotype"],
        }
        for n, row in enumerate(found)
    ]  # fmt: skip


def table(rows):
    """Mean, spread and every seed, as Markdown."""
    print("| space | method | test [%], mean ± std | each seed | separable convolutions of 16 |\n" + "|---" * 5 + "|")
    for space, name in dict.fromkeys((row["space"], row["method"]) for row in rows):
        of = [row for row in rows if (row["space"], row["method"]) == (space, name)]
        tests = [row["test"] for row in of]
        spread = statistics.stdev(tests) if len(tests) > 1 else 0.0
        count = statistics.mean(row["separable"] for row in of)
        each = " ".join(f"{test:.2f}" for test in tests)
        print(f"| {space} | {name} | {statistics.mean(tests):.2f} ± {spread:.2f} | {each} | {count:.1f} |")


if __name__ == "__main__":
    main()
