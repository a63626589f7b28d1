"""How well short trainings rank cells: what each setting's score says of the accuracy after 12 epochs of training.

Command:  python experiments/trials/signals.py train --data other.npz [--part 1/2]                 (signals-cells.jsonl)
          python experiments/trials/signals.py score --data other.npz [key=value ...] --seeds 100 101   (signals.jsonl)
          python experiments/trials/signals.py table
Needs:    images that the package does not hold, for what is chosen here is judged on those of the package.
Result, hardware, time: README.md beside this file.

Cells of NAS-Bench-201 drawn uniformly are trained as `jnas search` trains what it finds, 12 epochs on all training
images, each with a seed of its own, and measured on the test images of the file. The second command scores each by the
objective of the preset `trials` under the settings. The table has, of the accuracy [%] and of the loss, its sign
changed [nats / 100], the noise between seeds, the signal between cells, and how one seed's scores go with the training.
"""

import argparse
import json
import pathlib
import tempfile
import time

import jax
import numpy as np
from scipy.stats import kendalltau, pearsonr

from jnas import spaces
from jnas.recipes import config, costs, run_folder, train_network
from jnas.recipes.trials import recipe
from jnas.recipes.trials.settings import TrialSearch

COUNT = 24
HERE = pathlib.Path(__file__).parent


def settings_of(arguments, *words):
    words = [f"data={arguments.data}", "rungs=1", *words, *arguments.words]
    return config.build(TrialSearch, config.read_preset("trials"), config.read_words(words))


def cells(space):
    """`[COUNT, num_choices]`, those that connect the input and the output."""
    drawn = np.asarray(spaces.sample(space, jax.random.key(1000), 4 * COUNT))
    return np.array([one for one in drawn if spaces.is_connected(space, one)][:COUNT])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write(path, line):
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def train(arguments):
    settings = settings_of(arguments, "train.epochs=12")
    space, splits = spaces.by_name(settings.space), run_folder.load_data(settings.data, None)
    part, parts = map(int, arguments.part.split("/"))
    done = {line["cell"] for line in lines(arguments.cells)}
    for n, arch in list(enumerate(cells(space)))[part - 1 :: parts]:
        if n in done:
            continue
        prepared = train_network.prepare(space, arch, splits, settings.train)
        with tempfile.TemporaryDirectory() as folder:
            found = train_network.train(prepared, splits, settings.train, pathlib.Path(folder) / "one", n)
        shown = {name: found[name] for name in ("genotype", "test_accuracy", "parameters", "seconds")}
        write(arguments.cells, {"cell": n, **shown})


def score(arguments):
    for seed in arguments.seeds:
        settings = settings_of(arguments, f"seed={seed}")
        space, splits = spaces.by_name(settings.space), run_folder.load_data(settings.data, None)
        name = " ".join(arguments.words)
        done = {(line["settings"], line["seed"], line["cell"]) for line in lines(arguments.out)}
        with tempfile.TemporaryDirectory() as folder:
            plan = recipe.plan(settings, splits, space)
            price = costs.of_networks(settings.train, plan.train, None)  # of nothing: no cost is set
            objective = recipe._objective(settings, plan, pathlib.Path(folder), price)
            for n, arch in enumerate(cells(space)):
                if (name, seed, n) in done:
                    continue
                started = time.process_time()
                found = objective(arch, jax.random.key(seed)).metrics
                row = {"accuracy": found["accuracy"], "loss": found["loss"]}
                row["seconds"] = round(time.process_time() - started, 2)
                write(arguments.out, {"settings": name, "seed": seed, "cell": n, **row})


def table(arguments):
    trained = {line["cell"]: 100 * line["test_accuracy"] for line in lines(arguments.cells)}
    by = {}
    for line in lines(arguments.out):
        by.setdefault(line["settings"], {}).setdefault(line["seed"], {})[line["cell"]] = line
    print("| settings | seeds | score | noise | signal / noise | correlation | Kendall's tau | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for name, seeds in by.items():
        both = sorted(set(trained).intersection(*seeds.values()))
        truth = np.array([trained[n] for n in both])
        seconds = np.median([seeds[seed][n]["seconds"] for seed in seeds for n in both])
        for kind, sign in (("accuracy", 100), ("loss", -100)):
            values = sign * np.array([[seeds[seed][n][kind] for n in both] for seed in seeds])
            centred = values - values.mean(1, keepdims=True)  # what a seed does to all cells ranks none
            among = ("–", "–")
            if len(seeds) > 1:
                noise = np.sqrt(centred.var(0, ddof=1).mean())
                signal = np.sqrt(max(centred.mean(0).var(ddof=1) - noise**2 / len(seeds), 0.0))
                among = (f"{noise:.2f}", f"{signal / noise:.2f}")
            beside = [np.mean([of(one, truth).statistic for one in values]) for of in (pearsonr, kendalltau)]
            cells = (name or "the preset", str(len(seeds)), kind, *among, *(f"{value:.2f}" for value in beside))
            print(f"| {' | '.join(cells)} | {seconds:.1f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("train", "score", "table"))
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings over those of the preset trials")
    parser.add_argument("--data", help="images of another file, not those of the package")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101])
    parser.add_argument("--part", default="1/1", help="I/N: every N-th cell from the I-th on")
    parser.add_argument("--cells", type=pathlib.Path, default=HERE / "signals-cells.jsonl")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "signals.jsonl")
    arguments = parser.parse_intermixed_args()
    {"train": train, "score": score, "table": table}[arguments.what](arguments)


if __name__ == "__main__":
    main()
