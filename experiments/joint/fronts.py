"""The fronts of accuracy and size that a joint search finds, against those of its rivals at equal cost.

Command:  python experiments/joint/fronts.py [key=value ...] [--seeds 15 16 ...] [--data cifar10.npz] [--out F.jsonl]
          python experiments/joint/fronts.py --table fronts.jsonl [...]
Time:     35 minutes a seed, on one core.

Seven searches a seed with as many evaluations each, by `searchers.front` (the last one draws at random), the candidates
of all scored as the preset does it, by short trainings under their policies. Of each front, the scores smoothed by the
model of that searcher, three networks are taken, each adding most to the hypervolume of the estimates. Each is trained
three times from scratch under its policy and measured on the test images: the mean counts, for a single training is off
by a point or more.

    joint                        architectures and policies together
    uniform 2, 4, 8              architectures, all units at that width
    architecture, then policy    half of the evaluations for architectures at 8 bits; for each of three of their front
                                 policies, with a sixth of them
    policy, then architecture    half for policies of the largest architecture; for each of three of their front
                                 architectures, likewise
    random                       architectures and policies, drawn uniformly

The hypervolume is that of the trained networks, test accuracy against log2 of the bytes of the weights, beyond the
reference point of REFERENCE and the size of the largest network at 8 bits; in points of accuracy times octaves.
"""

import argparse
import dataclasses
import json
import pathlib
import tempfile

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure

import jnas
from jnas import searchers, spaces
from jnas.recipes import config, costs, quantised, train_network, trainer
from jnas.recipes.classification import evaluate
from jnas.recipes.joint import recipe
from jnas.recipes.joint.plan import make_plan, own_policies, policies_of
from jnas.recipes.joint.search import few, uniform
from jnas.recipes.joint.settings import QuantisedSearch
from jnas.report.plots import STYLE
from jnas.searchers.base import Evaluation, beginning
from jnas.searchers.front import estimates, hypervolume, undominated
from jnas.spaces import networks
from jnas.spaces.policy import method_of
from jnas.spaces.products import product

NETWORKS, TRAININGS = 3, 3
REFERENCE = {"fashion-mnist-5k": 0.7, "cifar10": 0.3}  # accuracy; fixed before anything was run
THEN, AFTER = "architecture, then policy", "policy, then architecture"
ROWS = ("joint", "uniform 2", "uniform 4", "uniform 8", THEN, AFTER, "random")


def best(candidates):
    """The front of estimated score and size."""
    points = np.array([(one["accuracy"], one["size"]) for one in candidates])
    return [one for one, kept in zip(candidates, undominated(points[:, 0], points[:, 1:]), strict=True) if kept]


def searches(settings, plan, judge):
    """What finds the front of each row, by evaluations of `judge`."""
    whole, seed, total = own_policies(settings, plan), jax.random.key(settings.seed), settings.num_evaluations

    def find(name, space, policies, count, draw=None):
        both, key = product(space, policies), jax.random.fold_in(seed, sum(map(ord, name)))

        def parts(code):
            arch, policy = (np.asarray(part) for part in both.split(code))
            whole = networks.from_string(plan.space, networks.to_string(space, arch))
            return np.asarray(whole, np.int32), policies.columns(policy)

        def size(code):
            arch, columns = parts(code)
            return costs.costs(plan.costs, costs.operators(plan.costs, arch), columns)["size"]

        def objective(code, key):
            arch, columns = parts(code)
            score = float(judge(arch[None], columns[None])[0])
            return Evaluation(score, {"size": size(code), "arch": arch.tolist(), "columns": columns.tolist()})

        count = min(count, spaces.size(both))
        first = min(settings.population, max(count // 2, 2))
        breeding = searchers.front(both, lambda codes: np.array([[size(code)] for code in codes]), num_initial=first)
        searcher = draw(both) if draw else beginning(breeding, uniform(both, jax.random.fold_in(key, 1), first))
        trials = jnas.search(searcher, objective, key=key, num_evaluations=count, batch_size=10).trials
        codes, scores = (np.array(each) for each in zip(*[(one.code, one.scores[0]) for one in trials], strict=True))
        smooth = zip(trials, estimates(both, codes, scores).tolist(), strict=True)
        return best([{"score": one.scores[0], "accuracy": value, **one.metrics} for one, value in smooth])

    def twice(name, first, then):
        """Half of the evaluations for a front, the others for what is left of each of three of it."""
        starts = few(find(name, *first, total // 2), "size", NETWORKS, plan)
        count = total // 2 // len(starts)
        return best([one for n, start in enumerate(starts) for one in find(f"{name} {n}", *then(start), count)])

    def alone(start):
        return networks.fix(plan.space, np.array(start["arch"], np.int32)), whole

    def under(start):
        methods = [(plan.methods[column],) for column in start["columns"]]
        return plan.space, dataclasses.replace(whole, allowed=tuple(methods))

    each = lambda width: (plan.space, policies_of(plan, [method_of(f"w{width}a8")]))
    largest = np.array([max(range(len(c.options)), key=lambda n: "3x3" in c.options[n]) for c in plan.space.choices])
    return {
        "joint": lambda: find("joint", plan.space, whole, total),
        **{
            f"uniform {width}": lambda width=width: find(f"uniform {width}", *each(width), total) for width in (2, 4, 8)
        },
        THEN: lambda: twice(THEN, each(8), alone),
        AFTER: lambda: twice(AFTER, (networks.fix(plan.space, largest), whole), under),
        "random": lambda: find("random", plan.space, whole, total, searchers.random),
    }


def trained(settings, plan, one):
    """A candidate with its mean test accuracy, trained from scratch under its policy as the command does it."""
    policy = {name: str(plan.methods[column]) for name, column in zip(plan.units.names, one["columns"], strict=True)}
    prepared = train_network.prepare(plan.space, np.array(one["arch"], np.int32), plan.splits, settings.train)
    facts = train_network.facts_of(prepared, plan.splits, settings.train)
    network = quantised.of_facts(prepared.net, facts | {"quantisation": {"units": settings.units, "policy": policy}})
    job = quantised.job_of(network, plan.splits.train, prepared.augment, settings.train)
    accuracies = []
    for number in range(TRAININGS):
        weights = trainer.train(job, jax.random.fold_in(jax.random.key(settings.seed), 1 + number))
        weights = quantised.calibrated(network, weights, plan.splits.train, prepared.augment)
        measured = evaluate(network.net, quantised.variables(network, weights), plan.splits.test, prepared.augment)
        accuracies.append(measured["accuracy"])
    about = {"policy": policy, "genotype": prepared.genotype}
    return {**one, "test_accuracy": float(np.mean(accuracies)), "test_accuracies": accuracies, **about}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings over those of the preset joint")
    parser.add_argument("--seeds", type=int, nargs="+", default=[15, 16, 17, 18, 19])
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS, metavar="ROW", help="all")
    parser.add_argument("--data", default="fashion-mnist-5k")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).with_name("fronts.jsonl"))
    parser.add_argument("--table", type=pathlib.Path, nargs="+", metavar="JSONL")
    parser.add_argument("--figure", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.table:
        show([json.loads(line) for path in arguments.table for line in path.read_text().splitlines()], arguments.figure)
        return
    name = pathlib.Path(arguments.data).stem
    for seed in arguments.seeds:
        kept = arguments.out.read_text().splitlines() if arguments.out.exists() else []
        done = {(line["data"], line["seed"], line["row"]) for line in map(json.loads, kept)}
        if all((name, seed, row) in done for row in arguments.rows):
            continue
        words = [f"data={arguments.data}", f"seed={seed}", *arguments.words]
        settings = config.build(QuantisedSearch, config.read_preset("joint"), config.read_words(words))
        plan = make_plan(settings)
        with tempfile.TemporaryDirectory() as folder:
            judge = recipe.supernet(settings, plan, pathlib.Path(folder))()
        for row, search in searches(settings, plan, judge).items():
            if (name, seed, row) in done or row not in arguments.rows:
                continue
            front = search()
            networks = [trained(settings, plan, one) for one in few(front, "size", NETWORKS, plan)]
            line = {
                "data": name, "seed": seed, "row": row, "networks": networks,
                "reference": [REFERENCE.get(name, 0.7), costs.largest(plan.costs)["size"]],
            }  # fmt: skip
            with arguments.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"seed {seed}, {row}: {shown(networks)}", flush=True)


def shown(networks):
    return ", ".join(f"{100 * one['test_accuracy']:.2f} % / {one['size']:,.0f}" for one in networks)


def volume(line):
    scores, sizes = (np.array([one[name] for one in line["networks"]]) for name in ("test_accuracy", "size"))
    return 100 * hypervolume(scores, sizes, *line["reference"])


def show(lines, figure):
    """Each row's networks and hypervolume of every seed, and how often the joint row's is above it."""
    for data in sorted({line["data"] for line in lines}):
        mine = [line for line in lines if line["data"] == data]
        seeds = sorted({line["seed"] for line in mine})
        by = {(line["row"], line["seed"]): line for line in mine}
        rows = [row for row in ROWS if all((row, seed) in by for seed in seeds)]
        print(f"{data}\n\n| hypervolume | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | joint above |")
        print("|---|" + "---|" * (len(seeds) + 2))
        for row in rows:
            each = [volume(by[row, seed]) for seed in seeds]
            above = sum(volume(by["joint", seed]) > one for seed, one in zip(seeds, each, strict=True))
            told = "" if row == "joint" else f"{above} of {len(seeds)}"
            print(f"| {row} | " + " | ".join(f"{one:.2f}" for one in each) + f" | {np.mean(each):.2f} | {told} |")
        print("\n| test accuracy / bytes | " + " | ".join(f"seed {seed}" for seed in seeds) + " |")
        print("|---|" + "---|" * len(seeds))
        for row in rows:
            print(f"| {row} | " + " | ".join(shown(by[row, seed]["networks"]) for seed in seeds) + " |")
        print("\n| seed | best uniform network | smallest of the joint row that is not worse | its share of the size |")
        print("|---|---|---|---|")
        for seed in (seed for seed in seeds if any((row, seed) in by for row in ROWS[1:4])):
            uniform = [one for row in ROWS[1:4] if (row, seed) in by for one in by[row, seed]["networks"]]
            best = max(uniform, key=lambda one: (one["test_accuracy"], -one["size"]))
            fine = [one for one in by["joint", seed]["networks"] if one["test_accuracy"] >= best["test_accuracy"]]
            small = min(fine, key=lambda one: one["size"], default=None)
            told = "none | " if small is None else f"{shown([small])} | {small['size'] / best['size']:.2f}"
            print(f"| {seed} | {shown([best])} | {told} |")
        print()
    if figure:
        draw(lines, figure)


def draw(lines, path):
    """All trained networks, a panel a data set."""
    names = sorted({line["data"] for line in lines})
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.5 * len(names), 4), layout="constrained")
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        for axis, name in zip(panels, names, strict=True):
            for row, marker in zip(ROWS, "o234^vx", strict=True):
                mine = [line for line in lines if (line["data"], line["row"]) == (name, row)]
                points = [(one["size"] / 1e3, 100 * one["test_accuracy"]) for line in mine for one in line["networks"]]
                if points:
                    axis.scatter(*np.transpose(points), marker=marker, label=row, alpha=0.8)
            axis.set(xscale="log", xlabel="kilobytes of weights", ylabel="test accuracy [%]", title=name)
            axis.set_xticks((4, 8, 16, 32), ("4", "8", "16", "32"))
            axis.minorticks_off()
        panels[0].legend(fontsize=7)
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
