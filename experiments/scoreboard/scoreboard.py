"""Every gradient method on NAS-Bench-201 with real CIFAR-10 at CPU size: equal cost, several seeds, known truth.

One small supernet (6 channels, one cell a stage, 4,000 images, half for each level, batches of 16) without the operator
`none` is searched by each method with each seed; the cell is derived by argmax; the published table says what it
reaches after 200 epochs of full training. The table chooses nothing: it is read once, behind the search. (The searches
on one level see all images with weights and alpha, and their seeds are runs of their own.)

EQUAL COST: every method gets the same number of gradient units (a gradient 1, a Hessian-vector product 2), so that
cheap estimators take more steps; seconds are measured and listed beside them. Step sizes follow from the number of
steps by one rule for all: alpha's Adam takes 5 / steps a step, so that every method can walk equally far, and so does
the decay of the momentum's coefficients. All seeds of a method are one compiled program, run one after another in it.

Command:   python experiments/scoreboard/scoreboard.py --data cifar10.npz --table nasbench201.csv.gz
               --out runs/scoreboard
Adds to:   --results FILE.jsonl, one line a method and seed; a method that is there is not run again. Interrupted, it
           goes on from the last checkpoint. A further method is a further row of METHODS.
Cheaper:   --shrink 2 --units 6000 searches on images of half the side: a unit then takes a quarter of the time.
Two rows:  python experiments/scoreboard/scoreboard.py --pair "single loop + EMA" "first order + EMA" --units 6000
           compares them seed by seed: a sign-flip test of the mean difference, and Fisher's of the seeds below 93.0.
Figure:    python experiments/scoreboard/scoreboard.py --draw experiments/scoreboard/scoreboard.svg
Result, hardware, time: README.md beside this file.
"""

import argparse
import csv
import gzip
import itertools
import json
import pathlib
import statistics
import time

import jax
import numpy as np
from scipy import stats

from jnas import files, spaces
from jnas.distributed.cache import enable_compilation_cache
from jnas.recipes import config, driver, train_network
from jnas.recipes.gradient import recipe as gradient
from jnas.recipes.gradient.settings import Search
from jnas.recipes.grouped import recipe as grouped
from jnas.recipes.grouped.settings import GroupedSearch
from jnas.spaces.isomorphism import canonical

WHOLE = spaces.nasbench201()
SPACE = spaces.narrow(WHOLE, {"cell": [[op for op in edge.ops if op != "none"] for edge in WHOLE.edges("cell")]})
COMMON = {
    "space": "nasbench201", "channels": 6, "depth": 1, "batch_size": 16, "random_cells": 0, "beta_decay": 0.0,
    "alpha": {"warmup": 0.0, "weight_decay": 1e-3}, "scheme": "simultaneous",
}  # fmt: skip
PLAIN = {"momentum": "none", "weights": {"learning_rate": 0.025, "final_learning_rate": 0.001, "heavy_ball": 0.9}}
STORM = {"momentum": "storm", "weights": {"learning_rate": 0.1, "final_learning_rate": 0.001}}
EMA = {**STORM, "momentum": "moving_average"}
NEUMANN = {"estimator": "neumann", "terms": 2, "damping": 3.0}
GAUSS_NEWTON = {**NEUMANN, "curvature": "gauss_newton"}
BETA = {"beta_decay": 5.0}
FIRST, LOOP = {"estimator": "first_order"}, {"estimator": "single_loop"}
IDENTITY = LOOP | {  # v an average of grad_w L_val / 3, as slow as that of the loop with an eigenvalue near 30
    "curvature": "identity", "damping": 2.0, "adjoint": {"learning_rate": 0.1, "final_learning_rate": 0.1},
}  # fmt: skip
LARGEST = "|{0}~0|+|{0}~0|{0}~1|+|{0}~0|{0}~1|{0}~2|".format("nor_conv_3x3")
WALK = 5.0  # length of alpha's walk: the sum of Adam's step sizes

# name: (gradient units a step, settings). First order takes one gradient a level; finite difference and unrolled(1) two
# gradients and a further pair of them or one mixed product. Neumann(Q) at one point: 2 Q + 4, and 2 for the power
# iteration that chooses its step size; the recursion evaluates two points; a Gauss-Newton product counts as a
# Hessian-vector product. The single loop: 4 at a point, and 2 every 16th step for its power iteration.
METHODS = {
    "single loop + EMA": (4.125, EMA | LOOP),
    "single loop + EMA + beta-decay": (4.125, EMA | LOOP | BETA),
    "single loop + STORM": (8.125, STORM | LOOP),
    "single loop + STORM + beta-decay": (8.125, STORM | LOOP | BETA),
    "identity + EMA": (4, EMA | IDENTITY),
    "identity + EMA + beta-decay": (4, EMA | IDENTITY | BETA),
    "first order + EMA": (2, EMA | FIRST),
    "first order + EMA + beta-decay": (2, EMA | FIRST | BETA),
    # The control of as few steps as the loop makes.
    "first order + EMA, half the steps": (4.125, EMA | FIRST),
    "first order": (2, PLAIN | {"estimator": "first_order"}),
    "first order + beta-decay": (2, PLAIN | {"estimator": "first_order"} | BETA),
    "finite difference": (4, PLAIN | {"estimator": "finite_difference"}),
    "unrolled(1)": (4, PLAIN | {"estimator": "unrolled", "terms": 1}),
    "neumann(2)": (10, PLAIN | NEUMANN),
    "neumann(2) + beta-decay": (10, PLAIN | NEUMANN | BETA),
    "neumann(2) + EMA": (10, EMA | NEUMANN),
    "neumann(2) + EMA + beta-decay": (10, EMA | NEUMANN | BETA),
    "neumann(2) + STORM": (18, STORM | NEUMANN),
    "neumann(2) + STORM + beta-decay": (18, STORM | NEUMANN | BETA),
    "neumann(2) + STORM, Gauss-Newton": (18, STORM | GAUSS_NEWTON),
    "first order + STORM + beta-decay": (4, STORM | {"estimator": "first_order"} | BETA),
    "finite difference + beta-decay": (4, PLAIN | {"estimator": "finite_difference"} | BETA),
    "unrolled(1) + beta-decay": (4, PLAIN | {"estimator": "unrolled", "terms": 1} | BETA),
    "neumann(2) + STORM, Gauss-Newton + beta-decay": (18, STORM | GAUSS_NEWTON | BETA),
}
# One level, weights and alpha on all images: a step a unit, a run a seed. In two stages over groups, or in one without.
ONE_LEVEL = {
    "grouped, one level": "nor_conv_3x3 nor_conv_1x1, skip_connect, avg_pool_3x3",
    "one level, no groups": "",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="CIFAR-10 as x_train, y_train, x_test, y_test")
    parser.add_argument("--table", help="arch, index, c10_test_e200, ... of all 15,625 cells")
    parser.add_argument("--seed", type=int, default=200, help="the first one")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--units", type=int, default=1000, help="gradient units a search")
    parser.add_argument("--shrink", type=int, default=1, help="2: search on images of half the side, in its own rows")
    parser.add_argument("--images", type=int, default=4000, help="training images used, half for each level")
    parser.add_argument("--methods", nargs="*", default=[*METHODS, *ONE_LEVEL])
    parser.add_argument("--out", default="runs/scoreboard")
    parser.add_argument("--results", default="experiments/scoreboard/scoreboard.jsonl")
    parser.add_argument("--pair", nargs=2, metavar="METHOD", help="compare two rows of the results, and nothing else")
    parser.add_argument("--draw", metavar="FILE.svg", help="the figure of these methods and units, nothing else")
    arguments = parser.parse_args()
    results = pathlib.Path(arguments.results)
    names = {method: named(method, arguments.shrink) for method in arguments.methods}
    if arguments.draw:
        chosen = [row for row in read(results) if row["method"] in names.values() and row["units"] == arguments.units]
        return draw(chosen, arguments.draw)
    if arguments.pair:
        of = grouped_rows(read(results))
        return pair(*(of[named(method, arguments.shrink), arguments.units] for method in arguments.pair))
    if arguments.shrink != 1 and set(arguments.methods) & set(ONE_LEVEL):
        parser.error(f"--shrink {arguments.shrink} is for searches on two levels: name such --methods")
    out = pathlib.Path(arguments.out)
    files.prepare_folder(out)
    files.prepare_folder(results.parent)
    enable_compilation_cache()
    truth = Truth(arguments.table)
    data = subset(arguments.data, arguments.images, out)
    for method, name in names.items():
        seeds = range(arguments.seed, arguments.seed + arguments.seeds)
        done = {row["seed"] for row in read(results) if row["method"] == name and row["units"] == arguments.units}
        if done >= set(seeds):
            continue
        folder = out / f"{name}-{arguments.units}-{arguments.seed}".replace(" ", "-")
        run = run_one_level if method in ONE_LEVEL else run_method
        rows = [
            {"method": name, "units": arguments.units, "images": arguments.images, **row}
            for row in run(method, arguments, seeds, data, folder, truth)
        ]
        with results.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        say(rows)
    table(read(results), truth)
    return None


def named(method, shrink):
    """The row of a method, whose search may see smaller images."""
    return method if shrink == 1 else f"{method}, shrunk by {shrink}"


class Truth:
    """The published table: what a cell reaches, and where that stands."""

    def __init__(self, path):
        with gzip.open(path, "rt") as file:
            self.rows = {row["arch"]: row for row in csv.DictReader(file)}
        self.sorted = np.sort([float(row["c10_test_e200"]) for row in self.rows.values()])

    def accuracy(self, genotype: str, data: str = "c10") -> float:
        return float(self.rows[genotype][f"{data}_test_e200"])

    def of(self, genotype: str) -> dict:
        test = self.accuracy(genotype)
        return {
            "genotype": genotype, "index": int(self.rows[genotype]["index"]), "test": test,
            "percentile": round(100 * float(np.searchsorted(self.sorted, test)) / len(self.sorted), 2),
            "regret": round(float(self.sorted[-1]) - test, 2), "skips": genotype.count("skip_connect"),
        }  # fmt: skip


def run_method(name, arguments, seeds, data, folder, truth):
    units, own = METHODS[name]
    steps = max(1, round(arguments.units / units))
    rate = WALK / steps
    alpha = {"alpha": {"learning_rate": rate, "final_learning_rate": rate}}
    run = {
        "data": str(data),
        "seed": seeds[0],
        "num_runs": len(seeds),
        "steps": steps,
        "record_every": max(1, steps // 20),
        "shrink": arguments.shrink,
        "augmentation": {"crop": 4 // arguments.shrink},
    }
    found = driver.search(gradient, config.build(Search, COMMON, own, alpha, run), folder, space=SPACE)
    rows = []
    for row in found["runs"]:
        path = folder / "search" / f"run-{row['seed']}" / "genotypes.jsonl"
        curve = [(line["step"] * units, truth.accuracy(line["genotype"])) for line in map(json.loads, path.open())]
        rows.append({
            "seed": row["seed"], "steps": steps,
            "seconds": round(found["seconds"] / len(seeds), 1), **truth.of(row["genotype"]),
            "connected": row["connected"], "diverged_at": row["diverged_at"], "curve": curve,
            "supernet": row["outer_accuracy"],
            "identical": found["agreement"]["identical_pairs"], "isomorphic": found["agreement"]["isomorphic_pairs"],
            "tau": found["agreement"]["kendall_tau_mean"],
        })  # fmt: skip
    return rows


def run_one_level(name, arguments, seeds, data, folder, truth):
    """One or two stages on all training images that share the units; alpha's walk in each as long as the others'."""
    groups = ONE_LEVEL[name]
    stages = 2 if groups else 1
    batches = arguments.images // COMMON["batch_size"]
    epochs = max(1, round(arguments.units / stages / batches))
    rate = WALK / (epochs * batches)
    rows = []
    for seed in seeds:
        settings = config.build(GroupedSearch, {
            "space": "nasbench201", "data": str(data), "seed": seed, "groups": groups, "batch_size": 16,
            "first": {"channels": 6, "depth": 1, "epochs": epochs}, "random_cells": 0,
            "second": {"channels": 6, "depth": 1, "epochs": epochs}, "patience": None,
            "alpha": {"learning_rate": rate, "final_learning_rate": rate}, "weights": PLAIN["weights"],
        })  # fmt: skip
        began = time.time()
        found = driver.search(grouped, settings, folder / str(seed), space=SPACE)
        rows.append({
            "seed": seed, "steps": stages * epochs * batches, "seconds": round(time.time() - began, 1),
            **truth.of(found["genotype"]), "connected": True, "diverged_at": None,
            "curve": [(arguments.units, truth.accuracy(found["genotype"]))],
        })  # fmt: skip
    agreed = agreement([row["genotype"] for row in rows])
    return [row | agreed for row in rows]


def agreement(genotypes):
    """Shares of the pairs of cells that are identical, and identical up to the names of their nodes."""
    named = [canonical(WHOLE, spaces.from_string(WHOLE, text)) for text in genotypes]
    kinds = {"identical": genotypes, "isomorphic": named}
    pairs = {name: [a == b for a, b in itertools.combinations(of, 2)] for name, of in kinds.items()}
    return {name: statistics.mean(same) if same else None for name, same in pairs.items()}


def subset(path, images, out):
    data = out / f"images-{images}.npz"
    if not data.exists():
        import io

        with np.load(path) as whole:
            chosen = np.random.default_rng(0).permutation(len(whole["x_train"]))[:images]
            arrays = {name: whole[name] for name in ("x_test", "y_test")}
            arrays |= {name: whole[name][chosen] for name in ("x_train", "y_train")}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        files.atomic_write(data, buffer.getvalue())
    return data


def read(path):
    path = pathlib.Path(path)
    return [json.loads(line) for line in path.open()] if path.exists() else []


def grouped_rows(rows):
    """(method, units) -> its rows by seed, in the order of the file."""
    found = {}
    for row in rows:
        found.setdefault((row["method"], row["units"]), {})[row["seed"]] = row
    return {name: [of[seed] for seed in sorted(of)] for name, of in found.items()}


def say(rows):
    tests = [row["test"] for row in rows]
    spread = statistics.stdev(tests) if len(tests) > 1 else 0.0
    print(f"{rows[0]['method']}: {statistics.mean(tests):.2f} +- {spread:.2f} %: {tests}", flush=True)


def pair(first, second):
    """Two methods on the seeds that both have; the tests were fixed before the runs, for rare collapses decide."""
    tests = [{row["seed"]: row["test"] for row in of} for of in (first, second)]
    seeds = sorted(set(tests[0]) & set(tests[1]))
    a, b = (np.array([of[seed] for seed in seeds]) for of in tests)
    signs = 1 - 2 * ((np.arange(2 ** len(seeds))[:, None] >> np.arange(len(seeds))) & 1).astype(np.int8)
    share = np.mean(np.abs(signs @ (a - b)) >= abs((a - b).sum()) - 1e-9)  # of all ways to flip the differences
    low = [int((x < 93.0).sum()) for x in (a, b)]
    fisher = stats.fisher_exact([[n, len(seeds) - n] for n in low]).pvalue
    print(
        f"{len(seeds)} pairs: {_interval(a)} against {_interval(b)}; difference {np.mean(a - b):.2f} on average, "
        f"{np.median(a - b):.2f} in the median, {int((a > b).sum())} of {len(seeds)} above 0, sign-flip p {share:.3g}; "
        f"below 93.0: {low[0]} and {low[1]}, Fisher's p {fisher:.3g}"
    )


def table(rows, truth):
    """The scoreboard as Markdown: the methods, and cells of the same space that were not searched."""
    columns = (
        "method", "units", "steps", "seconds", "test [%], mean ± std (95 % interval of the mean)", "below 93.0",
        "each seed", "CIFAR-100", "ImageNet16-120", "regret", "percentile, median", "skips", "depth, width",
        "random cells of this size", "same cell: identical, isomorphic", "tau of alphas",
        "of 3 searches the surest: mean, best",
    )  # fmt: skip
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    drawn = [spaces.to_string(SPACE, arch) for arch in train_network.random_cells(SPACE, jax.random.key(0), 1000)]
    shown = lambda value: "–" if value is None else f"{value:.2f}"
    for (name, units), of in sorted(grouped_rows(rows).items(), key=lambda item: -mean(item[1], "test")):
        tests, cells = [row["test"] for row in of], [row["genotype"] for row in of]
        alike = agreement(cells)
        print(
            f"| {name} | {units} | {of[0]['steps']} | {mean(of, 'seconds'):.0f} | {_interval(tests)} | "
            f"{sum(test < 93.0 for test in tests)} of {len(tests)} | {' '.join(f'{test:.2f}' for test in tests)} | "
            f"{_columns(cells, truth)} | {mean(of, 'regret'):.2f} | "
            f"{statistics.median(row['percentile'] for row in of):.1f} | {mean(of, 'skips'):.1f} | {_shapes(cells)} | "
            f"{_of_this_size(cells, drawn, truth)} | {shown(alike['identical'])}, {shown(alike['isomorphic'])} | "
            f"{shown(of[0].get('tau'))} | {_surest(of)} |"
        )
    for name, cells in (("the cell of six 3x3 convolutions", [LARGEST]), ("random connected cell, 1,000 draws", drawn)):
        tests = [truth.accuracy(cell) for cell in cells]
        print(
            f"| {name} | 0 | | | {_interval(tests)} | {sum(test < 93.0 for test in tests)} of {len(tests)} | median "
            f"{statistics.median(tests):.2f} | {_columns(cells, truth)} | {truth.sorted[-1] - np.mean(tests):.2f} | | "
            f"{statistics.mean(cell.count('skip') for cell in cells):.1f} | {_shapes(cells)} | | | | |"
        )


def _interval(values):
    """Mean, deviation, and Student's 95 % interval of the mean."""
    if len(values) < 2:
        return f"{values[0]:.2f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    middle = statistics.mean(values)
    return f"{middle:.2f} ± {statistics.stdev(values):.2f} ({middle - half:.2f} to {middle + half:.2f})"


def _columns(cells, truth):
    """What the same cells reach on the other two data sets of the table."""
    means = [statistics.mean(truth.accuracy(cell, name) for cell in cells) for name in ("c100", "in16")]
    return " | ".join(f"{value:.2f}" for value in means)


def depth_and_width(genotype):
    """The most convolutions on a path from input to output, and how many nodes a convolution joins to the input."""
    depths, width = [0], 0
    for node in genotype.split("+"):
        edges = [edge.rsplit("~", 1) for edge in node.strip("|").split("|")]
        depths.append(max((depths[int(source)] + ("conv" in op) for op, source in edges if op != "none"), default=0))
        width += any("conv" in op and source == "0" for op, source in edges)
    return depths[-1], width


def _shapes(cells):
    depths, widths = zip(*map(depth_and_width, cells), strict=True)
    return f"{statistics.mean(depths):.1f}, {statistics.mean(widths):.1f}"


def _size(cell):
    """Weights of the convolutions, in units of a 1x1 one: what the parameters of a cell grow with."""
    return 9 * cell.count("conv_3x3") + cell.count("conv_1x1")


def _of_this_size(cells, drawn, truth):
    """The mean of random cells whose convolutions have as many weights, to within 10 %, a found cell a vote."""
    means = []
    for cell in cells:
        near = [other for other in drawn if abs(_size(other) - _size(cell)) <= 0.1 * _size(cell)]
        means += [statistics.mean(map(truth.accuracy, near))] if near else []
    return f"{statistics.mean(means):.2f}" if means else "–"


def _surest(rows):
    """Searches in threes, of each three the one whose supernet has the best accuracy on its outer images."""
    if any(row.get("supernet") is None for row in rows) or len(rows) < 3:
        return "–"
    threes = [rows[n : n + 3] for n in range(0, len(rows) - 2, 3)]
    kept = [max(three, key=lambda row: row["supernet"])["test"] for three in threes]
    return f"{statistics.mean(kept):.2f}, {max(kept):.2f}"


def mean(rows, name):
    return statistics.mean(row[name] for row in rows)


def draw(rows, path):
    """Regret to the optimum against gradient units: the mean over seeds, each seed as a thin line, 93.7 % dotted."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    best = max(row["test"] + row["regret"] for row in rows)
    chosen = grouped_rows(rows)
    columns = min(3, len(chosen))
    lines = -(-len(chosen) // columns)
    size = (3 * max(columns, 2), 1.9 * lines + 0.4)
    figure, axes = pyplot.subplots(lines, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(chosen) :]:
        axis.set_visible(False)
    order = sorted(chosen.items(), key=lambda item: mean(item[1], "regret"))
    for axis, ((name, _), of) in zip(axes.flat, order, strict=False):
        # The last record may lie before the last step, from which the cell is derived.
        curves = [np.array([*row["curve"], (row["units"], row["test"])]) for row in of]
        marker = None if len(of[0]["curve"]) > 1 else "."  # a search in stages has a cell at its end only
        for curve in curves:
            axis.plot(curve[:, 0], best - curve[:, 1], color="0.75", linewidth=0.7, marker=marker)
        middle = best - np.mean([curve[:, 1] for curve in curves], 0)
        axis.plot(curves[0][:, 0], middle, color="#0969da", linewidth=1.6, marker=marker)
        axis.axhline(best - 93.7, color="#bc4c00", linewidth=0.8, linestyle=":")
        axis.set_title(f"{name}: {mean(of, 'test'):.2f} %", fontsize=6, loc="left")
        axis.set_yscale("log")
        axis.set_ylim(0.05, 100)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("gradient units", fontsize=8)
    figure.supylabel("regret, points of test accuracy", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
