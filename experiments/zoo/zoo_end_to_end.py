"""A zoo of 12 networks that jnas searched and trained, and a new task: choosing against trying every one of them.

The networks are found by searches by gradient with different seeds and trained at two widths on the first five classes
of CIFAR-10, of 16 x 16 pixels. The new task has the other five classes and 200 images a class, a fifth of them for
validation. "Every network" fine-tunes all twelve with the same hyper-parameters and keeps the best on the validation
images; `jnas select` orders them by its prior and fine-tunes by successive halving. Seconds are processor time,
compilation included; nothing compiled is kept from one part to the next. Lines of `select 0.15.0` are those of an
earlier rule: the network whose frozen features tell the classes apart best, fine-tuned alone.

    python experiments/zoo/zoo_end_to_end.py build --data cifar10.npz --out runs/zoo          # searches, trains, adds
    python experiments/zoo/zoo_end_to_end.py compare --data cifar10.npz --out runs/zoo --seed 0 1 2
    python experiments/zoo/zoo_end_to_end.py table

DATA: x_train, y_train, x_test, y_test, uint8; the first 10,000 training and 2,000 test images are used. `--only NAME`
fine-tunes some of the networks, so that several processes share the work; `--part` does one arm only. What is done is
not done again.

Result, hardware, time: README.md beside this file.
"""

import argparse
import itertools
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time

import numpy as np

from jnas.data.load import load
from jnas.distributed.cache import enable_compilation_cache

SIZE = 16  # pixels of a side, means of 2 x 2: a network takes a quarter of the time
# Searches by gradient, several seeds in one program; all cells found are trained at that width.
COMMON = {
    "estimator": "first_order", "scheme": "alternating", "momentum": "none", "channels": 4, "random_cells": 0,
    "weights": {"learning_rate": 0.2}, "alpha": {"learning_rate": 0.03, "final_learning_rate": 0.03, "warmup": 0.4},
    "beta_decay": 0.0, "without_none": False, "shrink": 1, "augmentation": {"crop": 4},
}  # fmt: skip
SEARCHES = {
    "wide": {"space": "nasbench201", "seed": 0, "num_runs": 6, "train": {"channels": 8}},
    "narrow": {"space": "nasbench201", "seed": 10, "num_runs": 8, "train": {"channels": 4}},
}
STEPS, EPOCHS = 150, 4  # of each search, and of the trainings on the first classes
NUMBER = 12  # networks; the searches may find more
BATCH = 32  # of every fine-tuning
DEFAULT = {"frozen": 0.0, "learning_rate": 0.05, "batch_size": BATCH}
RUNGS = (3, 8, 25)  # epochs; every network alone has the last in one
IMAGES = 200  # a class of the new task, a fifth of them for validation
TRIALS = 9
SHARE = 0.25  # of the time of trying every network, which choosing may take in all


def arrays(path):
    """The images and labels in use."""
    with np.load(path) as file:
        kept = {"train": 10_000, "test": 2_000}
        return {
            part: (halved(file[f"x_{part}"][:count]), file[f"y_{part}"].ravel()[:count].astype(np.int64))
            for part, count in kept.items()
        }


def halved(images):
    """Means of blocks of pixels, `[n, SIZE, SIZE, 3]`."""
    block = images.shape[1] // SIZE
    means = images.reshape(len(images), SIZE, block, SIZE, block, 3).mean((2, 4))
    return np.round(means).astype(np.uint8)


def write_source(path, out):
    """The first five classes, `OUT/first.npz`."""
    parts = {}
    for part, (x, y) in arrays(path).items():
        parts |= {f"x_{part}": x[y < 5], f"y_{part}": y[y < 5]}
    return write(out / "first.npz", parts)


def write_task(path, out, seed):
    """The other five classes, other images a seed to learn from, `OUT/other-SEED.npz`."""
    random, parts = np.random.default_rng(seed), {}
    for part, (x, y) in arrays(path).items():
        rows = [np.flatnonzero(y == label) for label in range(5, 10)]
        if part == "train":
            rows = [random.permutation(of)[:IMAGES] for of in rows]
        rows = np.concatenate(rows)
        parts |= {f"x_{part}": x[rows], f"y_{part}": y[rows] - 5}
    return write(out / f"other-{seed}.npz", parts)


def write(path, parts):
    """A data set; whole or not at all, for several processes may share the folder."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{os.getpid()}-{path.name}")
        np.savez(staged, **parts)
        staged.rename(path)
    return path


def build(arguments):
    """Search, train and add every network that the zoo does not have."""
    from jnas.recipes import config, driver
    from jnas.recipes.gradient import recipe as gradient
    from jnas.recipes.gradient.settings import Search
    from jnas.recipes.zoo import entries, networks

    enable_compilation_cache()
    out = pathlib.Path(arguments.out)
    first = write_source(arguments.data, out)
    for name, own in SEARCHES.items():
        training = {"train": {**own["train"], "epochs": arguments.epochs}}
        settings = config.build(Search, {"data": str(first), **COMMON}, own, training, {"steps": arguments.steps})
        started = time.process_time()
        driver.run(gradient, settings, out / name)
        spent = round(time.process_time() - started, 1)
        for trained in sorted((out / name / "train").iterdir()):
            entry = f"{name}-{trained.name}"
            there = entries.names(out / "zoo", entries.NETWORKS)
            if entry in there or len(there) >= NUMBER:
                continue
            facts = networks.add_network(
                out / "zoo", trained, name=entry, data="CIFAR-10, first 5 classes, 16 x 16", licence="not stated"
            )
            print(json.dumps({
                "network": entry, "accuracy": round(facts["accuracy"], 4), "parameters": facts["parameters"],
                "flops": facts["flops"], "genotype": facts["genotype"], "seconds of the search and trainings": spent,
            }), flush=True)  # fmt: skip


def every(arguments, seed):
    """Fine-tune every network with the same hyper-parameters; one line each."""
    import jax

    from jnas import data
    from jnas.recipes import config, models, run_folder
    from jnas.recipes.zoo import entries, finetune, networks
    from jnas.recipes.zoo.settings import FineTuning

    out, results = pathlib.Path(arguments.out), pathlib.Path(arguments.results)
    task = write_task(arguments.data, out, seed)
    settings, epochs = config.build(FineTuning, DEFAULT), arguments.rungs[-1]
    had = {(line["seed"], line["network"]) for line in read(results) if line["arm"] == "every"}
    splits = load(str(task))
    for name in entries.names(out / "zoo", entries.NETWORKS):
        if (seed, name) in had or name not in (arguments.only or [name]):
            continue
        folder = out / f"every-{seed}" / name
        if (folder / run_folder.RESULT).is_file():  # cut off between its end and its line: its time is not known
            shutil.rmtree(folder)
        started = time.process_time()
        train, validation = data.split(splits.train, jax.random.key(seed), 0.8)
        pretrained = networks.load(out / "zoo", name)
        result = finetune.prepare(pretrained.model, train, validation, settings, (epochs,), folder, seed)(0)
        seconds = time.process_time() - started
        model = models.load_model(folder)
        test = finetune.evaluate(model.net, model.weights, splits.test, finetune.normalisation_of(model))
        append(results, {
            "arm": "every", "seed": seed, "network": name, "validation": round(result["test_accuracy"], 4),
            "test": round(test["accuracy"], 4), "seconds": round(seconds, 2), "parameters": result["parameters"],
            "source accuracy": round(pretrained.facts["accuracy"], 4), "epochs": epochs,
        })  # fmt: skip


def select(arguments, seed):
    """`jnas select` as a user runs it, on a copy of the zoo without records; one line."""
    out, results = pathlib.Path(arguments.out), pathlib.Path(arguments.results)
    if any((line["arm"], line["seed"]) == ("select", seed) for line in read(results)):
        return
    task, own = write_task(arguments.data, out, seed), out / f"select-{seed}"
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(out / "zoo" / "networks", own / "zoo" / "networks")
    words = [
        "select", task, "--zoo", own / "zoo", f"seed={seed}", f"trials={arguments.trials}",
        f"frozen=[{DEFAULT['frozen']}]", f"learning_rates=[{DEFAULT['learning_rate']}]", f"epochs={arguments.rungs}",
        f"fine_tuning.batch_size={BATCH}", "--out", own / "run",
    ]  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "jnas", *map(str, words)],
        check=True,
        env={**os.environ, "JNAS_CACHE_DIR": str(own / "cache")},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = json.loads((own / "run" / "result.json").read_text())
    trials = result["selection"]["trials"]
    append(results, {
        "arm": "select", "seed": seed, "network": result["found"]["model"],
        "test": round(result["found"]["test_accuracy"], 4),
        "validation": round(result["found"]["validation_accuracy"], 4),
        "tried": [[trial["model"], trial["epochs"], round(trial["test_accuracy"], 4)] for trial in trials],
        "seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
        "epochs": arguments.rungs[-1],
    })  # fmt: skip


def by_chance(lines, budget, draws=2000):
    """Networks in random order while they fit into the seconds, the best on the validation images kept: mean test."""
    random, found = np.random.default_rng(0), []
    for _ in range(draws):
        spent, tried = 0.0, []
        for at in random.permutation(len(lines)):
            if spent + lines[at]["seconds"] <= budget:
                spent += lines[at]["seconds"]
                tried.append(lines[at])
        if tried:
            found.append((max(tried, key=lambda line: line["validation"])["test"], spent, len(tried)))
    return np.mean(found, 0) if found else (np.nan, 0.0, 0)


def table(lines):
    """Every arm: test accuracy and seconds, mean over the seeds, and of each seed."""
    rows = {}
    for seed in sorted({line["seed"] for line in lines}):
        of = [line for line in lines if (line["arm"], line["seed"]) == ("every", seed)]
        own = [line for line in lines if line["arm"].startswith("select") and line["seed"] == seed]
        if len(of) < NUMBER or not own:
            print(f"seed {seed}: {len(of)} of {NUMBER} networks fine-tuned, {len(own)} selections")
            continue
        total = sum(line["seconds"] for line in of)
        test, spent, tried = by_chance(of, SHARE * total)
        cells = {
            "every network, default hyper-parameters": (best(of, "validation"), total, len(of)),
            **{f"jnas {line['arm']}": (line["test"], line["seconds"], begun(line["tried"])) for line in own},
            "random networks in a quarter of the time, mean": (test, spent, tried),
            "the most accurate at its source": (best(of, "source accuracy"), None, 1),
            "the largest": (best(of, "parameters"), None, 1),
            "the best on the test images": (best(of, "test"), None, len(of)),
            "mean network": (np.mean([line["test"] for line in of]), None, 1),
        }
        for name, (accuracy, seconds, number) in cells.items():
            rows.setdefault(name, []).append(
                (accuracy, np.nan if seconds is None else seconds / total, number, seconds)
            )
    print("| | test accuracy [%], mean ± std of seeds | each seed | share of the time of trying all | networks tried |")
    print("|---" * 5 + "|")
    for name, found in rows.items():
        accuracy = 100 * np.array([row[0] for row in found])
        share = np.mean([row[1] for row in found])
        spread = accuracy.std(ddof=1) if len(accuracy) > 1 else 0.0
        each = " ".join(f"{value:.1f}" for value in accuracy)
        number, part = np.mean([row[2] for row in found]), "–" if np.isnan(share) else f"{share:.3f}"
        print(f"| {name} | {accuracy.mean():.2f} ± {spread:.2f} | {each} | {part} | {number:.1f} |")


def begun(tried):
    """How many networks were fine-tuned; a line of an earlier version has their names alone."""
    return len({one if isinstance(one, str) else one[0] for one in tried})


def best(lines, key):
    """Test accuracy of the line with the largest value."""
    return max(lines, key=lambda line: line[key])["test"]


def read(*paths):
    """The lines of some files; a torn last one is left out."""
    texts = [pathlib.Path(path).read_text() for path in paths if pathlib.Path(path).is_file()]
    return [json.loads(line) for line in itertools.chain(*(text.splitlines() for text in texts)) if line.endswith("}")]


def append(path, line):
    """Write a line of JSON, at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("build", "compare", "table"))
    parser.add_argument("--data", help="npz of CIFAR-10")
    parser.add_argument("--out", default="runs/zoo")
    parser.add_argument("--only", nargs="*", help="names of networks")
    parser.add_argument("--part", choices=("every", "select"), help="one arm only")
    parser.add_argument("--seed", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS, help="of every search")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the trainings at the source")
    parser.add_argument("--rungs", type=int, nargs="*", default=list(RUNGS), help="epochs of a fine-tuning")
    parser.add_argument("--trials", type=int, default=TRIALS, help="networks on the first rung of jnas select")
    parser.add_argument("--results", nargs="*", default=["experiments/zoo/zoo_end_to_end.jsonl"])
    arguments = parser.parse_args()
    if arguments.action == "build":
        build(arguments)
    if arguments.action == "compare":
        (arguments.results,) = arguments.results
        for seed in arguments.seed:
            if arguments.part != "select":
                every(arguments, seed)
            if arguments.part != "every":
                select(arguments, seed)
    if arguments.action != "build":
        table(read(*([arguments.results] if isinstance(arguments.results, str) else arguments.results)))


if __name__ == "__main__":
    main()
