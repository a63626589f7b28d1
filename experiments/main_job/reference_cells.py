"""The distribution in which the main job shows its cell: NAS-Bench-201 cells trained exactly as `jnas search` does.

At random 60 cells, at random 8 more with each of three, four and five 3x3 convolutions, and the cell of six in eight
trainings; none has `none` on an edge. Each is trained with a seed of its own, on all embedded training images, and
measured on the embedded test images. The rows go to `--rows` one by one; interrupted, the script goes on. When all are
there, the table in the package is written, keyed by a digest of settings and data.

Command:   python experiments/main_job/reference_cells.py
           (--part 0/2 and --part 1/2 share the work of two processes)
Result, hardware, time: README.md beside this file.
"""

import argparse
import json
import pathlib

import numpy as np

from jnas import files, spaces
from jnas.distributed.cache import enable_compilation_cache
from jnas.recipes import reference, run_folder, train_network
from jnas.recipes.gradient.settings import Search

CONVOLUTION = "nor_conv_3x3"
OTHERS = ("nor_conv_1x1", "avg_pool_3x3", "skip_connect")
NUM_RANDOM, NUM_OF_A_SIZE, SIZES = 60, 8, (3, 4, 5)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="runs/reference/rows.jsonl")
    parser.add_argument("--part", default="0/1", help="I/N: every N-th cell from the I-th on")
    arguments = parser.parse_args()
    enable_compilation_cache()
    rows = pathlib.Path(arguments.rows)
    files.prepare_folder(rows.parent)
    settings = Search()
    space = spaces.by_name(settings.space)
    splits = run_folder.load_data(settings.data, None)
    wanted = list(enumerate(drawn()))
    first, parts = map(int, arguments.part.split("/"))
    for seed, (kind, genotype) in wanted[first::parts]:
        if seed in {row["seed"] for row in read(rows)}:
            continue
        prepared = train_network.prepare(space, spaces.from_string(space, genotype), splits, settings.train)
        found = train_network.train(prepared, splits, settings.train, rows.parent / f"cell-{seed}", seed)
        shown = ("genotype", "seed", "test_accuracy", "parameters", "seconds")
        with rows.open("a") as file:
            file.write(json.dumps({"kind": kind, **{name: found[name] for name in shown}}) + "\n")
    done = sorted(read(rows), key=lambda row: row["seed"])
    if [row["seed"] for row in done] == [seed for seed, _ in wanted]:
        write(done, space, splits, settings.train)


def drawn():
    """`(kind, genotype)` of every cell, the same ones each time."""
    draw, cells = np.random.default_rng(0), []
    cells += [("random", draw.choice((CONVOLUTION, *OTHERS), 6)) for _ in range(NUM_RANDOM)]
    for size in SIZES:
        for _ in range(NUM_OF_A_SIZE):
            ops = draw.choice(OTHERS, 6).astype("U12")
            ops[draw.permutation(6)[:size]] = CONVOLUTION
            cells.append((f"{size} {CONVOLUTION}", ops))
    cells += [(f"6 {CONVOLUTION}", np.full(6, CONVOLUTION))] * NUM_OF_A_SIZE
    return [(kind, "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*ops)) for kind, ops in cells]


def write(rows, space, splits, training):
    import importlib.metadata

    versions = {name: importlib.metadata.version(name) for name in ("jnas", "jax", "jaxlib", "flax", "optax")}
    kept = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    lines = ",\n".join(json.dumps(row) for row in kept)
    text = f'{{"digest": "{reference.digest(space, splits, training)}",\n"versions": {json.dumps(versions)},\n'
    files.atomic_write(reference.TABLE, f'{text}"cells": [\n{lines}\n]}}\n')
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of = [100 * row["test_accuracy"] for row in rows if row["kind"] == kind]
        print(f"{kind}: {np.mean(of):.2f} +- {np.std(of, ddof=1) if len(of) > 1 else 0:.2f} % (n = {len(of)})")


def read(path):
    return [json.loads(line) for line in path.open()] if path.exists() else []


if __name__ == "__main__":
    main()
