"""What a search over generated spaces finds, beside random search and networks drawn at random from the same spaces.

Command:  python experiments/spaces/compare.py [key=value ...] [--seeds 30 31 ...] [--data NAME] [--out F.jsonl]
          python experiments/spaces/compare.py --table F.jsonl
Needs:    nothing else: the embedded images, all 10,000 test images of which measure. Settings are chosen with --data of
          other images and --seeds from 100 on.
Result, hardware, time: README.md beside this file.

For each seed a run of the preset `space-search`, and a random search: networks drawn from spaces drawn at random, by
the same judge, as many as take as long, the best score of which counts. What each ends with is trained for 12 epochs,
and so are the networks drawn at random, each with a seed of its own, once for all seeds. The rows have their seconds.
Killed, it goes on: finished rows are left out.
"""

import argparse
import json
import pathlib
import time

import jax
import numpy as np
from scipy import stats

import jnas
from jnas.recipes import chains, config, costs, train_network
from jnas.recipes.generated import recipe
from jnas.recipes.generated.evaluator import Kept
from jnas.recipes.generated.settings import SpaceSearch

DRAWN = 20  # networks that are trained and nothing else
ROWS = ("model", "random search")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings over those of the preset space-search")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(30, 35)))
    parser.add_argument("--rows", nargs="+", default=["random networks", *ROWS], choices=("random networks", *ROWS))
    parser.add_argument("--random", type=int, default=24, help="networks of random search, in the time of a run")
    parser.add_argument("--data", default="fashion-mnist-5k")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).with_name("compare.jsonl"))
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs"), help="folders of the runs")
    parser.add_argument("--table", type=pathlib.Path, metavar="F.jsonl", help="the table of results, and nothing else")
    arguments = parser.parse_args()
    if not arguments.table:
        for row in arguments.rows:
            for seed in range(1000, 1000 + DRAWN) if row == "random networks" else arguments.seeds:
                race(arguments, row, seed)
    show([json.loads(line) for line in (arguments.table or arguments.out).read_text().splitlines()])


def race(arguments, row, seed):
    kept = arguments.out.read_text().splitlines() if arguments.out.exists() else []
    if (row, seed) in {(line["row"], line["seed"]) for line in map(json.loads, kept)}:
        return
    words = (f"data={arguments.data}", f"seed={seed}", "random_cells=0", "train.epochs=12", *arguments.words)
    folder, started = arguments.runs / f"{row.replace(' ', '-')}-{seed}", time.process_time()
    if row == "model":
        run = jnas.search_architecture("space-search", *words, out=folder)
        found = {"genotype": run.genotype, "space": run.result["space"], "networks": run.result["steps"]}
        accuracy = run.metrics["test_accuracy"]
    else:
        found, accuracy = by_chance(words, folder, 1 if row == "random networks" else arguments.random, seed)
    line = {"row": row, "seed": seed, **found, "accuracy": accuracy}
    line["processor seconds"] = round(time.process_time() - started, 1)
    with arguments.out.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def by_chance(words, folder, count, seed):
    """The network of the best score among so many random ones, and its accuracy after training."""
    settings = config.build(SpaceSearch, config.read_preset("space-search"), config.read_words(words))
    plan = recipe.plan(settings)
    keeps = costs.keeping(settings.limits, costs.of_networks(settings.train, plan.splits.train, None))
    drawn = recipe.random_networks(plan.family, jax.random.fold_in(jax.random.key(seed), 6), count, keeps)
    judge = Kept(folder / "evaluations.jsonl", plan.judge)
    space, arch = max(drawn, key=lambda one: judge(*one)) if count > 1 else drawn[0]
    prepared = chains.prepare(space, arch, plan.splits, settings.train)
    trained = train_network.train(prepared, plan.splits, settings.train, folder / "train", seed)
    return {"genotype": prepared.genotype, "space": space.name, "networks": count}, trained["test_accuracy"]


def show(lines):
    """Each seed's accuracies, and the mean of the differences with their intervals."""
    by = {(line["row"], line["seed"]): 100 * line["accuracy"] for line in lines}
    drawn = np.array([value for (row, _), value in by.items() if row == "random networks"])
    seeds = sorted(seed for row, seed in by if row == "model" and ("random search", seed) in by)
    if not seeds:
        return
    found, search = (np.array([by[row, seed] for seed in seeds]) for row in ROWS)
    print("| seed | model | random search |\n|---|---|---|")
    for seed, *values in zip(seeds, found, search, strict=True):
        print(f"| {seed} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    print(f"| mean | {found.mean():.2f} | {search.mean():.2f} |\n")
    if len(drawn):
        print(f"{len(drawn)} random networks: {drawn.mean():.2f} +- {drawn.std(ddof=1):.2f}, best {drawn.max():.2f}")
    others = {"random search": search, **({"random networks": drawn.mean()} if len(drawn) else {})}
    for name, other in others.items():
        apart = found - other
        told = ""
        if len(seeds) > 1:
            low, high = stats.t.interval(0.95, len(apart) - 1, apart.mean(), stats.sem(apart))
            told = f", 95 % interval {low:.2f} to {high:.2f}"
        print(f"model less {name}: {apart.mean():.2f} points{told}; above in {(apart > 0).sum()} of {len(seeds)}")


if __name__ == "__main__":
    main()
