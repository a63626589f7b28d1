"""How well scores with shared weights rank candidates: two scores, untrained and after a few steps, two supernets.

Command:  python experiments/joint/evaluators.py train --data other.npz [--part 1/2]      (candidates.jsonl)
          python experiments/joint/evaluators.py score --data other.npz [key=value ...]   (evaluators.jsonl)
          python experiments/joint/evaluators.py table
          The images should not be those that the package holds, on which the search is judged in the end.
Time:     a minute a candidate for 12 epochs of training, on one core, 30 candidates; some minutes a supernet.

Candidates are random architectures under random policies of the preset joint. The first command gives each its accuracy
on the test images of the file after 12 epochs of training under its policy; the second trains a supernet by the
settings, and scores each candidate on the validation images of the search, after 0, 5 and 20 steps of its own. The
table has Kendall's tau of the two, an interval of 95 % from 2,000 bootstrap samples of the candidates, and the seconds.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import tempfile
import time

import jax
import numpy as np
from scipy.stats import kendalltau

from jnas import spaces
from jnas.recipes import config, costs, quantised, train_network
from jnas.recipes.joint import recipe
from jnas.recipes.joint.plan import make_plan, own_policies
from jnas.recipes.joint.settings import QuantisedSearch

COUNT, STEPS, SCORES = 30, (0, 5, 20), ("probability", "accuracy")
HERE = pathlib.Path(__file__).parent


def plan_of(arguments, *words):
    words = [f"data={arguments.data}", *words, *arguments.words]
    settings = config.build(QuantisedSearch, config.read_preset("joint"), config.read_words(words))
    return settings, make_plan(settings)


def candidates(settings, plan):
    """`[COUNT, num_choices]` architectures and `[COUNT, num_units]` columns, whatever the seed of the settings is."""
    key, policies = jax.random.key(1000), own_policies(settings, plan)
    archs = np.asarray(spaces.sample(plan.space, key, COUNT))
    return archs, policies.columns(np.asarray(spaces.sample(policies, jax.random.fold_in(key, 1), COUNT)))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def train(arguments):
    settings, plan = plan_of(arguments, "train.epochs=12")
    part, parts = map(int, arguments.part.split("/"))
    archs, columns = candidates(settings, plan)
    done = {line["candidate"] for line in lines(arguments.candidates)}
    for n in (n for n in range(part - 1, COUNT, parts) if n not in done):
        policy = {name: str(plan.methods[at]) for name, at in zip(plan.units.names, columns[n], strict=True)}
        prepared = train_network.prepare(plan.space, archs[n], plan.splits, settings.train)
        how = {"units": settings.units, "policy": policy}
        with tempfile.TemporaryDirectory() as folder:
            found = quantised.train(prepared, how, plan.splits, settings.train, pathlib.Path(folder) / "one", n)
        size = costs.costs(plan.costs, costs.operators(plan.costs, archs[n]), columns[n])["size"]
        line = {"candidate": n, "arch": archs[n].tolist(), "columns": columns[n].tolist(), "size": size}
        with arguments.candidates.open("a") as file:
            file.write(json.dumps({**line, "trained": found["test_accuracy"]}) + "\n")
        print(f"candidate {n}: {found['test_accuracy']:.4f}, {size:.0f} bytes", flush=True)


def score(arguments):
    settings, plan = plan_of(arguments)
    archs, columns = candidates(settings, plan)
    with tempfile.TemporaryDirectory() as folder, arguments.out.open("a") as file:
        begin = time.perf_counter()
        of = functools.partial(recipe.supernet, plan=plan, folder=pathlib.Path(folder))
        of(settings)
        spent = time.perf_counter() - begin
        for steps in STEPS:
            for name in SCORES:
                judge = of(dataclasses.replace(settings, tuning_steps=steps, score=name))()
                judge(archs[:1], columns[:1])  # compiles
                begin = time.perf_counter()
                values = [float(judge(archs[n : n + 1], columns[n : n + 1])[0]) for n in range(COUNT)]
                line = {
                    "epochs": settings.supernet.epochs, "validation": len(plan.validation), "score": name,
                    "steps": steps, "values": values, "seconds": (time.perf_counter() - begin) / COUNT,
                    "supernet_seconds": spent,
                }  # fmt: skip
                file.write(json.dumps(line) + "\n")
                print(f"{name}, {steps} steps: {line['seconds']:.2f} s", flush=True)


def table(arguments):
    """Kendall's tau of each evaluator."""
    known = {line["candidate"]: line for line in lines(arguments.candidates)}
    trained = np.array([known[n]["trained"] for n in range(COUNT)])
    samples = np.random.default_rng(0).integers(0, COUNT, (2000, COUNT))

    def cells(values):
        each = [kendalltau(values[rows], trained[rows]).statistic for rows in samples]
        return "{:.2f} | {:.2f} to {:.2f}".format(
            kendalltau(values, trained).statistic, *np.nanquantile(each, (0.025, 0.975))
        )

    print("| epochs of supernet | score | own steps | Kendall's tau with 12 epochs | 95 % interval | seconds a score |")
    print("|---|---|---|---|---|---|")
    for line in lines(arguments.out):
        told = f"| {line['epochs']} | {line['score']} | {line['steps']} | {cells(np.array(line['values']))} "
        print(told + f"| {line['seconds']:.2f} |")
    print(f"| | size | | {cells(np.array([known[n]['size'] for n in range(COUNT)]))} | 0 |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "score", "table"])
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings over those of the preset joint")
    parser.add_argument("--data", help="an .npz file of images that the package does not hold")
    parser.add_argument(
        "--part", default="1/1", metavar="K/N", help="train only every N-th candidate, from the K-th on"
    )
    parser.add_argument("--candidates", type=pathlib.Path, default=HERE / "candidates.jsonl")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "evaluators.jsonl")
    arguments = parser.parse_intermixed_args()
    {"train": train, "score": score, "table": table}[arguments.what](arguments)


if __name__ == "__main__":
    main()
