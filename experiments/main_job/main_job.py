"""Does the main job pay? `jnas search` with seeds of its own, each found cell among the cells trained in advance.

Every seed is the main job as it is, its random cell left out: the search, and the training of what it found. What the
cell reaches on the embedded test images is compared with the table in the package (`reference_cells.py`):
with the mean of its 60 random cells, with the mean of its cells of as many 3x3 convolutions, and with the cell of six.

Command:   python experiments/main_job/main_job.py --seeds 10
Adds to:   --results FILE.jsonl, one line a seed; a seed that is there is not run again.
Result, hardware, time: README.md beside this file.
"""

import argparse
import json
import math
import pathlib
import statistics

import numpy as np

from jnas import files
from jnas.distributed.cache import enable_compilation_cache
from jnas.recipes import driver, reference
from jnas.recipes.gradient import recipe as gradient
from jnas.recipes.gradient.settings import Search

CONVOLUTION = "nor_conv_3x3"
STUDENT = {5: 2.776, 8: 2.365, 10: 2.262, 20: 2.093}  # 97.5 % of Student's t with n - 1 degrees of freedom


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", default="runs/main-job")
    parser.add_argument("--results", default="experiments/main_job/main_job.jsonl")
    arguments = parser.parse_args()
    enable_compilation_cache()
    results = pathlib.Path(arguments.results)
    files.prepare_folder(results.parent)
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        if seed in {row["seed"] for row in read(results)}:
            continue
        found = driver.run(gradient, Search(seed=seed, random_cells=0), f"{arguments.out}/{seed}")
        trained = found["found"]
        row = {
            "seed": seed, "method": found["method"], "genotype": found["genotype"],
            **{name: trained[name] for name in ("test_accuracy", "parameters", "epochs")},
            "search_s": found["seconds"], "train_s": trained["seconds"],
        }  # fmt: skip
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
    compare(read(results), json.loads(reference.TABLE.read_text())["cells"])


def compare(rows, cells):
    """One line a seed, and what holds over all of them."""
    of = lambda kept: [100 * cell["test_accuracy"] for cell in cells if kept(cell)]
    chance = of(lambda cell: cell["kind"] == "random")
    most = max(cell["parameters"] for cell in cells)
    largest = of(lambda cell: cell["parameters"] == most)
    gains, alike, near = [], [], []
    print("| seed | test [%] | parameters | 3x3 | better than random | its size, mean | cell |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        score, size = 100 * row["test_accuracy"], row["genotype"].count(CONVOLUTION)
        same = of(lambda cell, size=size: cell["genotype"].count(CONVOLUTION) == size)
        gains.append(score - statistics.mean(chance))
        alike += [score - statistics.mean(same)] if same else []
        near.append(row["parameters"] <= 2 / 3 * most or score >= statistics.mean(largest) - 0.3)
        beaten = sum(score > other for other in chance)
        peers = f"{statistics.mean(same):.2f} (n = {len(same)})" if same else "none"
        print(f"| {row['seed']} | {score:.2f} | {row['parameters']:,} | {size} | {beaten} of {len(chance)} | {peers} | "
              f"`{row['genotype'].replace('|', chr(92) + '|')}` |")  # fmt: skip
    print(f"random: {statistics.mean(chance):.2f} +- {statistics.stdev(chance):.2f} (n = {len(chance)}); "
          f"the cell of six: {statistics.mean(largest):.2f} (n = {len(largest)}) with {most:,}")  # fmt: skip
    for name, values in (("over the mean of random cells", gains), ("over cells of its size", alike)):
        reach = STUDENT.get(len(values), 2.0) * statistics.stdev(values) / math.sqrt(len(values))
        above = int(np.sum(np.asarray(values) > 0))
        print(f"{name}: {statistics.mean(values):+.2f} +- {reach:.2f} (95 %), above in {above} of {len(values)}")
    print(f"within .3 of the cell of six, or smaller by a third: {sum(near)} of {len(near)}")


def read(path):
    return [json.loads(line) for line in path.open()] if path.exists() else []


if __name__ == "__main__":
    main()
