"""What wider blocks are worth in trainings from scratch, and what ways to score candidates say of it.

Command:  python experiments/joint/widths.py train --data other.npz
          python experiments/joint/widths.py score --data other.npz [key=value ...]
          python experiments/joint/widths.py repeat --data other.npz [--seeds 100 101 102] [key=value ...]
          python experiments/joint/widths.py table
Time:     30 s a candidate that is trained, 1 to 4 minutes a score of 120 candidates, one minute and a half a seed of
          `repeat`, on one core.

Candidates are random: an architecture of the preset, and 2, 4 or 8 bits for each of the five blocks. To their
accuracies or scores a sum is fitted: what a convolution adds in the place of a skip connection, and what at least 4,
and 8, bits add in each block. `train` uses seeds 100 to 149, one a candidate. `repeat` scores those that were trained,
with several seeds: how well does a score repeat, and how well does it rank? The model of `searchers.front` is fitted to
31 scores of a seed and says the last, with what options are worth shared between choices and without.
"""

import argparse
import dataclasses
import importlib
import json
import pathlib
import tempfile
from typing import NamedTuple

import numpy as np
from fronts import trained
from scipy import stats

from jnas import spaces
from jnas.recipes import config
from jnas.recipes.joint import recipe
from jnas.recipes.joint.plan import make_plan
from jnas.recipes.joint.settings import QuantisedSearch

front = importlib.import_module("jnas.searchers.front")
COUNT, SCORED = 32, 120
HERE = pathlib.Path(__file__).parent
EFFECTS = ("1x1", "3x3", *(f"{bits} bits, block {n}" for bits in ("4+", "8") for n in range(5)))


def candidates():
    """Name, architecture, columns and seed of each: five policies of four cells, then four of random ones."""
    random = np.random.default_rng(7)
    known = [[0, 0, 0, 0, 0, 1], [1, 0, 0, 2, 2, 1], [0, 0, 0, 1, 2, 1], [2, 2, 0, 2, 2, 2]]
    archs = known + random.integers(0, 3, (20, 6)).tolist()
    for n, arch in enumerate(archs):
        first = [[0] * 5, [1] * 5] if n < len(known) else []
        policies = first + random.integers(0, 3, (3 if first else 4, 5)).tolist()
        if not first:
            policies[0] = [int(random.integers(0, 3))] * 5
        for m, columns in enumerate(policies):
            yield f"{n}.{m}", arch, columns, 100 + int(random.integers(0, 50))


def effects(archs, columns, values):
    """The sum that fits best, by least squares with little weight on large effects, and what it leaves."""
    archs, columns, values = map(np.asarray, (archs, columns, values))
    ops = [(archs == op).sum(1)[:, None] for op in (1, 2)]
    rows = np.concatenate([np.ones((len(archs), 1)), *ops, columns >= 1, columns == 2], 1)
    penalty = np.diag([0.0] + [0.1] * len(EFFECTS))
    found = np.linalg.solve(rows.T @ rows + penalty, rows.T @ values)
    return found[1:], float(np.std(values - rows @ found))


def plan_of(arguments):
    words = [f"data={arguments.data}", "seed=100", "units=blocks", *arguments.words]
    settings = config.build(QuantisedSearch, config.read_preset("joint"), config.read_words(words))
    return settings, make_plan(settings)


def train(arguments):
    settings, plan = plan_of(arguments)
    done = {json.loads(line)["name"] for line in arguments.truths.read_text().splitlines()}
    for name, arch, columns, seed in [*candidates()][:COUNT]:
        if name not in done:
            one = trained(dataclasses.replace(settings, seed=seed), plan, {"arch": arch, "columns": columns})
            line = {"name": name, "arch": arch, "columns": columns, "seed": seed, "accuracy": one["test_accuracy"]}
            with arguments.truths.open("a") as file:
                file.write(json.dumps(line) + "\n")


def score(arguments):
    settings, plan = plan_of(arguments)
    with tempfile.TemporaryDirectory() as folder:
        judge = recipe.supernet(settings, plan, pathlib.Path(folder))(at_once=8)
    random = np.random.default_rng(11)
    archs = random.integers(0, 3, (2 * SCORED, 6)).astype(np.int32)[:SCORED]
    columns = random.integers(0, 3, (2 * SCORED, 5)).astype(np.int32)[:SCORED]
    found, left = effects(archs, columns, judge(archs, columns))
    line = {"words": arguments.words, "effects": found.tolist(), "left": left}
    with arguments.scores.open("a") as file:
        file.write(json.dumps(line) + "\n")


def repeat(arguments):
    known = [*candidates()][:COUNT]
    for seed in arguments.seeds:
        settings = config.build(
            QuantisedSearch, config.read_preset("joint"), config.read_words(arguments.words),
            {"data": str(arguments.data), "seed": seed},
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            judge = recipe.supernet(settings, make_plan(settings), pathlib.Path(folder))(at_once=8)
        scores = judge(*(np.array([one[part] for one in known], np.int32) for part in (1, 2)))
        with arguments.repeats.open("a") as file:
            file.write(json.dumps({"words": arguments.words, "seed": seed, "scores": scores.tolist()}) + "\n")


def repeats(truths, lines):
    """Rows of the second table: how settings' scores repeat and rank."""
    archs, columns = (np.array([one[name] for one in truths]) for name in ("arch", "columns"))
    true = np.array([one["accuracy"] for one in truths])
    three = [spaces.Choice(str(n), (0, 1, 2)) for n in range(6)]
    space = Listed((*three, *(spaces.Choice(f"block {n}", ("2", "4", "8")) for n in range(5))))
    codes = np.concatenate([archs, columns], 1)

    def left_out(scores, shared):
        front.SHARED = shared
        others = [np.arange(len(codes)) != n for n in range(len(codes))]
        told = [front.estimates(space, codes[rest], scores[rest], codes[~rest])[0] for rest in others]
        return np.corrcoef(told, true)[0, 1]

    for words in dict.fromkeys(tuple(line["words"]) for line in lines):
        each = np.array([line["scores"] for line in lines if tuple(line["words"]) == words])
        apart = each - each.mean(1, keepdims=True)
        noise = np.sqrt((apart.std(0, ddof=1) ** 2).mean())
        signal = np.sqrt(max(apart.mean(0).var() - noise**2 / len(each), 0))
        found, _ = effects(archs, columns, each.mean(0))
        ranks = [stats.kendalltau(one, true)[0] for one in each]
        fits = [np.mean([left_out(one, shared) for one in each]) for shared in (0.0, 2.0)]
        worth = 600 * found[1], 100 * sum(found[2:])
        yield " ".join(words) or "the preset", len(each), 100 * noise, signal / noise, np.mean(ranks), *fits, *worth


class Listed(NamedTuple):
    """A space of these choices."""

    choices: tuple[spaces.Choice, ...]
    name: str = "candidates"


def table(arguments):
    truths = [json.loads(line) for line in arguments.truths.read_text().splitlines()]
    rows = [("trained from scratch", *effects(*zip(*[(t["arch"], t["columns"], t["accuracy"]) for t in truths])))]  # noqa: B905
    for line in map(json.loads, arguments.scores.read_text().splitlines()):
        rows.append((" ".join(line["words"]) or "the preset", line["effects"], line["left"]))
    head = ("points by", *EFFECTS, "8 bits for 2 everywhere", "left")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for name, found, left in rows:
        print(f"| {name} | " + " | ".join(f"{100 * one:.2f}" for one in (*found, sum(found[2:]), left)) + " |")
    found, left = effects(*zip(*[(t["arch"], t["columns"], t["accuracy"]) for t in truths]))  # noqa: B905
    print(f"\ntrained from scratch: 3x3 everywhere {600 * found[1]:.2f}, 8 bits for 2 {100 * sum(found[2:]):.2f}")
    head = ("settings", "seeds", "noise", "signal / noise", "tau", "fit, apart", "fit, shared", "3x3", "8 bits")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for name, count, *values in repeats(truths, [*map(json.loads, arguments.repeats.read_text().splitlines())]):
        print(f"| {name} | {count} | " + " | ".join(f"{one:.2f}" for one in values) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("train", "score", "repeat", "table"))
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings over those of the preset joint")
    parser.add_argument("--data", help="images that are not embedded")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--truths", type=pathlib.Path, default=HERE / "widths.jsonl")
    parser.add_argument("--scores", type=pathlib.Path, default=HERE / "widths-scores.jsonl")
    parser.add_argument("--repeats", type=pathlib.Path, default=HERE / "widths-repeats.jsonl")
    arguments = parser.parse_intermixed_args()
    {"train": train, "score": score, "repeat": repeat, "table": table}[arguments.command](arguments)


if __name__ == "__main__":
    main()
