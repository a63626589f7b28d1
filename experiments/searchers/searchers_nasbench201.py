"""Races searchers on NAS-Bench-201 and NAS-Bench-Macro, where every answer is known.

On NAS-Bench-201 a searcher sees validation accuracy after 12 epochs. Its score after n evaluations is the test accuracy
at 200 epochs of the architecture with the best signal so far; the test column chooses nothing. Random, evolution and
Optuna are asked for one architecture at a time, our Gaussian process for five, which costs it a little and saves time.
With `--shuffled` signal and score are dealt out to the architectures at random: the control, in which no searcher may
win. With `--by-time` a run ends by the seconds that its trainings took on the table's GPU, 12 / 200 of the training of
200 epochs each, as in the literature on this benchmark (Dong et al., TPAMI 2021: 20,000 s).

On NAS-Bench-Macro (`--data macro`) the signal is the test accuracy of the first of three trainings, the score the mean
of the three: the table has no validation images, and nothing was chosen on it.

Command:   python experiments/searchers/searchers_nasbench201.py NASBENCH201.csv.gz
           Options: --seeds 50 --first-seed 0 --only NAME ... --data c10 --shuffled --by-time
           python experiments/searchers/searchers_nasbench201.py NASBENCH_MACRO.json.gz --data macro
Needs:     a table with the columns `arch`, `c10_val_e12`, `c10_test_e200` and `c10_train_s`, 15,625 rows. With Optuna
           installed its TPE sampler runs too, and with PyTorch beside it its Gaussian-process sampler.
Adds to:   --results FILE.jsonl, one line a searcher and seed, `curve` being the score after 10, 20 .. 200 evaluations,
           or after 1,000, 2,000 .. 20,000 s; a line that is there is not run again. Then prints the table, and the
           Gaussian process against each of the others, seed by seed.
Figure:    python experiments/searchers/searchers_nasbench201.py --draw experiments/searchers/searchers.svg
Result, hardware, time: README.md beside this file.
"""

import argparse
import csv
import gzip
import importlib.util
import json
import pathlib
import sys
import time

import jax
import numpy as np

from jnas import searchers, spaces
from jnas.spaces.chain import ChainSpace

POINTS = 20  # of a curve
EVERY = {False: 10, True: 1000}  # evaluations, or with --by-time seconds
MARKS = {False: (20, 30, 50, 100, 200), True: (12_000, 20_000)}
OURS = "gaussian_process"
TORCH = "optuna_gp is left out: Optuna's Gaussian-process sampler needs PyTorch; install torch beside optuna."
OPTUNA = "optuna_tpe and optuna_gp are left out: install optuna, and torch beside it for the second."


def space_of(data):
    if data == "macro":
        return ChainSpace((("skip_connect", "conv_3x3-e3-dw", "conv_5x5-e6-dw"),) * 8)
    return spaces.nasbench201()


def read(path, data):
    """Signal, score and seconds of every code, arrays with an axis a choice."""
    space = space_of(data)
    signal, score, seconds = np.full((3, *spaces.num_options(space)), np.nan)
    with gzip.open(path, "rt") as file:
        if data == "macro":
            for name, row in json.load(file).items():
                code = tuple(map(int, name))
                signal[code], score[code] = row["test_acc"][0], row["mean_acc"]
            return signal, score, seconds
        for row in csv.DictReader(file):
            code = tuple(spaces.from_string(space, row["arch"]).tolist())
            signal[code], score[code] = float(row[f"{data}_val_e12"]), float(row[f"{data}_test_e200"])
            seconds[code] = float(row["c10_train_s"]) * 12 / 200
    return signal, score, seconds


def run_ours(searcher, batch, signal, cost, budget, seed):
    """Evaluated codes, in order, until their cost reaches the budget."""
    state, key = searcher.init(), jax.random.key(seed)
    while cost[tuple(state.codes[: state.count].T)].sum() < budget:
        codes = searcher.ask(state, jax.random.fold_in(key, state.count), batch)
        state = searcher.tell(state, codes, signal[tuple(codes.T)])
    return state.codes[: state.count]


def run_optuna(sampler, signal, cost, budget):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    codes = []

    def objective(trial):
        code = tuple(trial.suggest_categorical(str(i), list(range(bound))) for i, bound in enumerate(signal.shape))
        codes.append(code)
        return signal[code]

    def stop(study, _):
        if cost[tuple(np.transpose(codes))].sum() >= budget:
            study.stop()

    optuna.create_study(direction="maximize", sampler=sampler).optimize(objective, callbacks=[stop])
    return np.array(codes)


def contestants(space):
    """Name -> function of signal, cost, budget and a seed, and a sentence on whoever cannot come."""
    ours = {
        "random": (searchers.random(space), 1),
        "evolution": (searchers.evolution(space), 1),
        "evolution, 10 and 3": (searchers.evolution(space, population=10, tournament=3), 1),
        OURS: (searchers.gaussian_process(space), 5),
    }
    table = {
        name: lambda *rest, searcher=searcher, batch=batch: run_ours(searcher, batch, *rest)
        for name, (searcher, batch) in ours.items()
    }
    if not importlib.util.find_spec("optuna"):
        return table, OPTUNA
    from optuna.samplers import GPSampler, TPESampler

    table["optuna_tpe"] = lambda *rest: run_optuna(TPESampler(seed=rest[-1]), *rest[:-1])
    if not importlib.util.find_spec("torch"):
        return table, TORCH
    table["optuna_gp"] = lambda *rest: run_optuna(GPSampler(seed=rest[-1]), *rest[:-1])
    return table, ""


def main(args):
    results = pathlib.Path(args.results)
    if args.draw:
        return draw(kept(results, args), args.draw)
    runs, absent = contestants(space_of(args.data))
    if unknown := [name for name in args.only or [] if name not in runs]:
        sys.exit(f"no searcher {unknown[0]!r}: choose among {', '.join(map(repr, runs))}. {absent}".strip())
    if absent and not args.only:
        print(absent, file=sys.stderr)
    signal, score, seconds = read(args.table, args.data)
    cost = seconds if args.by_time else np.ones_like(signal)
    budget = POINTS * EVERY[args.by_time]
    if args.shuffled:
        order = np.random.default_rng(0).permutation(signal.size)
        signal, score = (values.ravel()[order].reshape(signal.shape) for values in (signal, score))
    results.parent.mkdir(parents=True, exist_ok=True)
    for name in args.only or runs:
        done = {row["seed"] for row in kept(results, args) if row["searcher"] == name}
        for seed in sorted({*range(args.first_seed, args.first_seed + args.seeds)} - done):
            start = time.perf_counter()
            codes = runs[name](signal, cost, budget, seed)
            took = time.perf_counter() - start
            seen, reached, spent = (values[tuple(codes.T)] for values in (signal, score, cost))
            points = EVERY[args.by_time] * (1 + np.arange(POINTS))
            best = [int(np.argmax(seen[:count])) for count in np.searchsorted(np.cumsum(spent), points, "right")]
            line = {"searcher": name, "seed": seed, "data": args.data, "shuffled": args.shuffled}
            line |= {"by": "seconds"} if args.by_time else {}
            line |= {"seconds": round(took, 2), "signal": round(seen[best[-1]], 3)}
            line["curve"] = np.round(reached[best], 3).tolist()
            with results.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
    return say(kept(results, args), args.by_time)


def kept(path, args):
    """The lines of this setting."""
    rows = [json.loads(line) for line in path.open()] if path.exists() else []
    mine = (args.data, args.shuffled, args.by_time)
    return [row for row in rows if (row["data"], row["shuffled"], "by" in row) == mine]


def curves(rows):
    """Searcher -> {seed: `[20]` scores}."""
    found: dict = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        found.setdefault(row["searcher"], {})[row["seed"]] = np.array(row["curve"])
    return found


def say(rows, by_time):
    found, marks = curves(rows), MARKS[by_time]
    columns = [mark // EVERY[by_time] - 1 for mark in marks]
    what = "seconds" if by_time else "evaluations"
    print(f"{what:40}" + "".join(f"{mark:<18}" for mark in marks) + "seconds a seed, median")
    for name, of in found.items():
        values = np.array(list(of.values()))[:, columns]
        cells = [f"{mean:.3f} +- {std:.3f}   " for mean, std in zip(values.mean(0), values.std(0), strict=True)]
        seconds = np.median([row["seconds"] for row in rows if row["searcher"] == name])
        print(f"{name:28} {len(of):3} seeds   {''.join(cells)}{seconds:.2f}")
    ours = found.get(OURS, {})
    for name, of in found.items():
        if name != OURS and ours.keys() & of.keys():
            print(f"{OURS} against {name}: {paired(ours, of, columns, marks)}")


def paired(one, other, columns, marks):
    """Mean difference +- its standard error, wins-ties-losses and the p of sign flips, at each mark."""
    seeds = sorted(one.keys() & other.keys())
    differences = np.array([one[seed] - other[seed] for seed in seeds])[:, columns]
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (20_000, len(seeds)))
    parts = []
    for mark, column in zip(marks, differences.T, strict=True):
        flipped = np.abs(signs @ column) >= abs(column.sum()) - 1e-9
        error = column.std(ddof=1) / np.sqrt(len(column)) if len(column) > 1 else float("nan")
        record = f"{np.sum(column > 0)}-{np.sum(column == 0)}-{np.sum(column < 0)}"
        parts.append(f"at {mark} {column.mean():+.3f} +- {error:.3f}, {record}, p {(1 + flipped.sum()) / 20_001:.1g}")
    return "; ".join(parts)


LABELS = {
    OURS: ("Gaussian process", "#0969da", "-"),
    "optuna_gp": ("Optuna's Gaussian process", "#bc4c00", "-"),
    "optuna_tpe": ("Optuna's TPE", "#bf8700", "-"),
    "evolution": ("evolution (50, 10)", "#1a7f37", "-"),
    "evolution, 10 and 3": ("evolution (10, 3)", "#1a7f37", ":"),
    "random": ("random", "#6e7781", "-"),
}


def draw(rows, path):
    """Left the mean over seeds with its standard error, right the seed at the lower decile."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "searchers"
    from matplotlib import pyplot

    found = curves(rows)
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.8), sharex=True, sharey=True)
    evaluations = EVERY[False] * (1 + np.arange(POINTS))
    for name, (label, colour, style) in LABELS.items():
        if name not in found:
            continue
        values = np.array(list(found[name].values()))
        mean, error = values.mean(0), values.std(0) / np.sqrt(len(values))
        axes[0].plot(evaluations, mean, color=colour, linestyle=style, linewidth=1.5, label=label)
        axes[0].fill_between(evaluations, mean - error, mean + error, color=colour, alpha=0.13, linewidth=0)
        axes[1].plot(evaluations, np.quantile(values, 0.1, axis=0), color=colour, linestyle=style, linewidth=1.5)
    axes[0].set_title("mean over seeds and its standard error", fontsize=9, loc="left")
    axes[1].set_title("the lower decile of the seeds", fontsize=9, loc="left")
    axes[0].set_ylabel("test accuracy of the chosen cell [%]", fontsize=8)
    axes[0].set_ylim(92, 94.45)
    for axis in axes:
        axis.set_xlabel("evaluations", fontsize=8)
        axis.grid(color="0.92", linewidth=0.6)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=7.5, frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", nargs="?", help="the table; not needed with --draw")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--data", default="c10", choices=["c10", "c100", "in16", "macro"])
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument("--by-time", action="store_true", help="20,000 s of the table's trainings each")
    parser.add_argument("--results", default="experiments/searchers/searchers_nasbench201.jsonl")
    parser.add_argument("--draw", metavar="FILE.svg", help="the figure from the results, and nothing else")
    arguments = parser.parse_args()
    if not (arguments.table or arguments.draw):
        parser.error("give the table, or --draw FILE.svg")
    main(arguments)
