"""What searches by trials find, beside random search with the same trainings and cells drawn at random.

Command:  python experiments/trials/compare.py [key=value ...] [--seeds 20 21 ...] [--data NAME] [--out F.jsonl]
          python experiments/trials/compare.py trial.epochs=12 rungs=1 num_evaluations=20 --random 27 --seeds 28 29 ...
          python experiments/trials/compare.py --table F.jsonl
Needs:    nothing else: the embedded images, all 10,000 test images of which measure. Settings are chosen with --data of
          other images and --seeds from 100 on.
Result, hardware, time: README.md beside this file.

For each seed two runs of the preset `trials`, one as it is and one with `searcher=random` and more trials of the same
rungs, images and promotions, --random: a model costs time, and its cells are heavier. The rows have their seconds.
What each ends with is trained for 12 epochs, as `jnas search` trains what it finds; so were the 60 cells drawn at
random, in advance (experiments/main_job). Killed, it goes on: finished rows are left out, and an unfinished run resumes
in its folder of --runs.
"""

import argparse
import json
import pathlib
import time

import numpy as np
from scipy import stats

import jnas

ROWS = ("model", "random search")
PROOF = ("random_cells=0", "train.epochs=12")
COLUMNS = ("model", "random search", "random cells")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings over those of the preset trials")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(20, 28)))
    parser.add_argument("--random", type=int, default=96, help="trials of random search")
    parser.add_argument("--data", default="fashion-mnist-5k")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).with_name("compare.jsonl"))
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs"), help="folders of the runs")
    parser.add_argument("--table", type=pathlib.Path, metavar="F.jsonl", help="the table of results, and nothing else")
    arguments = parser.parse_args()
    if not arguments.table:
        race(arguments)
    show([json.loads(line) for line in (arguments.table or arguments.out).read_text().splitlines()])


def race(arguments):
    data = pathlib.Path(arguments.data).stem
    for seed in arguments.seeds:
        for row in ROWS:
            kept = arguments.out.read_text().splitlines() if arguments.out.exists() else []
            if (data, seed, row) in {(line["data"], line["seed"], line["row"]) for line in map(json.loads, kept)}:
                continue
            words = [f"data={arguments.data}", f"seed={seed}", *PROOF, *arguments.words]
            words += [] if row == "model" else ["searcher=random", f"num_evaluations={arguments.random}"]
            started = time.process_time()
            run = jnas.search_architecture("trials", *words, out=arguments.runs / f"{data}-{row}-{seed}")
            known = run.result.get("reference", {}).get("cells", ())
            cells = [one["test_accuracy"] for one in known if one["kind"] == "random"]
            line = {
                "data": data, "seed": seed, "row": row, "genotype": run.genotype,
                "accuracy": run.metrics["test_accuracy"], "random": round(float(np.mean(cells)), 6) if cells else None,
                "processor seconds": round(time.process_time() - started, 1),
            }  # fmt: skip
            with arguments.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)


def show(lines):
    """Each seed's accuracies, and the mean of the differences with their interval."""
    for data in sorted({line["data"] for line in lines}):
        by = {(line["row"], line["seed"]): line for line in lines if line["data"] == data}
        seeds = sorted(seed for row, seed in by if row == "model" and ("random search", seed) in by)
        if not seeds:
            continue
        found, search = (100 * np.array([by[row, seed]["accuracy"] for seed in seeds]) for row in ROWS)
        cells = 100 * np.array([by["model", seed]["random"] or np.nan for seed in seeds])
        print(f"{data}\n\n| seed | {' | '.join(COLUMNS)} |\n|{'---|' * (1 + len(COLUMNS))}")
        for seed, *values in zip(seeds, found, search, cells, strict=True):
            print(f"| {seed} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
        print("| mean | " + " | ".join(f"{values.mean():.2f}" for values in (found, search, cells)) + " |\n")
        for name, other in zip(COLUMNS[1:], (search, cells), strict=True):
            apart = found - other
            told = ""
            if len(seeds) > 1:
                low, high = stats.t.interval(0.95, len(apart) - 1, apart.mean(), stats.sem(apart))
                told = f", 95 % interval {low:.2f} to {high:.2f}"
            print(f"model less {name}: {apart.mean():.2f} points{told}; above in {(apart > 0).sum()} of {len(seeds)}")


if __name__ == "__main__":
    main()
