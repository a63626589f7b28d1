"""Races searchers on NAS-Bench-201, where every answer is known.

A searcher sees validation accuracy after 12 epochs. Its score after n evaluations is the test accuracy at 200 epochs of
the architecture with the best signal so far; the test column chooses nothing. Random, evolution and Optuna are asked
for one architecture at a time, our Gaussian process for five, which costs it a little and saves time. With `--shuffled`
signal and score are dealt out to the architectures at random: the control, in which no searcher may win.

Command:   python experiments/searchers/searchers_nasbench201.py NASBENCH201.csv.gz
           Options: --seeds 50 --first-seed 0 --only NAME ... --data c10 --shuffled
Needs:     a table with the columns `arch`, `c10_val_e12` and `c10_test_e200`, 15,625 rows. With Optuna installed its
           TPE sampler runs too, and with PyTorch beside it its Gaussian-process sampler.
Adds to:   --results FILE.jsonl, one line a searcher and seed, `curve` being the score after 10, 20 .. 200 evaluations;
           a line that is there is not run again. Then prints the table, and the Gaussian process against each of the
           others, seed by seed.
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

LAST, EVERY = 200, 10
MARKS = (50, 100, 200)
OURS = "gaussian_process"
TORCH = "optuna_gp is left out: Optuna's Gaussian-process sampler needs PyTorch; install torch beside optuna."
OPTUNA = "optuna_tpe and optuna_gp are left out: install optuna, and torch beside it for the second."


def read(path, data):
    """Signal and score of every code, both `[5] * 6` arrays."""
    space = spaces.nasbench201()
    signal, score = np.full([5] * 6, np.nan), np.full([5] * 6, np.nan)
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            code = tuple(spaces.from_string(space, row["arch"]).tolist())
            signal[code], score[code] = float(row[f"{data}_val_e12"]), float(row[f"{data}_test_e200"])
    return signal, score


def run_ours(searcher, batch, signal, seed):
    """Evaluated codes, in order."""
    state, key = searcher.init(), jax.random.key(seed)
    while state.count < LAST:
        codes = searcher.ask(state, jax.random.fold_in(key, state.count), batch)
        state = searcher.tell(state, codes, signal[tuple(codes.T)])
    return state.codes[: state.count]


def run_optuna(sampler, signal):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    codes = []

    def objective(trial):
        code = tuple(trial.suggest_categorical(str(i), list(range(5))) for i in range(6))
        codes.append(code)
        return signal[code]

    optuna.create_study(direction="maximize", sampler=sampler).optimize(objective, n_trials=LAST)
    return np.array(codes)


def contestants(space):
    """Name -> function of the signal and a seed that returns codes, and a sentence on whoever cannot come."""
    ours = {
        "random": (searchers.random(space), 1),
        "evolution": (searchers.evolution(space), 1),
        "evolution, 10 and 3": (searchers.evolution(space, population=10, tournament=3), 1),
        OURS: (searchers.gaussian_process(space), 5),
    }
    table = {
        name: lambda signal, seed, searcher=searcher, batch=batch: run_ours(searcher, batch, signal, seed)
        for name, (searcher, batch) in ours.items()
    }
    if not importlib.util.find_spec("optuna"):
        return table, OPTUNA
    from optuna.samplers import GPSampler, TPESampler

    table["optuna_tpe"] = lambda signal, seed: run_optuna(TPESampler(seed=seed), signal)
    if not importlib.util.find_spec("torch"):
        return table, TORCH
    table["optuna_gp"] = lambda signal, seed: run_optuna(GPSampler(seed=seed), signal)
    return table, ""


def main(args):
    results = pathlib.Path(args.results)
    if args.draw:
        return draw(kept(results, args), args.draw)
    runs, absent = contestants(spaces.nasbench201())
    if unknown := [name for name in args.only or [] if name not in runs]:
        sys.exit(f"no searcher {unknown[0]!r}: choose among {', '.join(map(repr, runs))}. {absent}".strip())
    if absent and not args.only:
        print(absent, file=sys.stderr)
    signal, score = read(args.table, args.data)
    if args.shuffled:
        order = np.random.default_rng(0).permutation(signal.size)
        signal, score = (values.ravel()[order].reshape(signal.shape) for values in (signal, score))
    results.parent.mkdir(parents=True, exist_ok=True)
    for name in args.only or runs:
        done = {row["seed"] for row in kept(results, args) if row["searcher"] == name}
        for seed in sorted({*range(args.first_seed, args.first_seed + args.seeds)} - done):
            start = time.perf_counter()
            codes = runs[name](signal, seed)
            seconds = time.perf_counter() - start
            seen, reached = signal[tuple(codes.T)], score[tuple(codes.T)]
            best = [int(np.argmax(seen[:count])) for count in range(EVERY, LAST + 1, EVERY)]
            line = {"searcher": name, "seed": seed, "data": args.data, "shuffled": args.shuffled}
            line |= {"seconds": round(seconds, 2), "signal": round(seen[best[-1]], 3)}
            line["curve"] = np.round(reached[best], 3).tolist()
            with results.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
    return say(kept(results, args))


def kept(path, args):
    """The lines of this setting."""
    rows = [json.loads(line) for line in path.open()] if path.exists() else []
    return [row for row in rows if (row["data"], row["shuffled"]) == (args.data, args.shuffled)]


def curves(rows):
    """Searcher -> {seed: `[20]` scores}."""
    found: dict = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        found.setdefault(row["searcher"], {})[row["seed"]] = np.array(row["curve"])
    return found


def say(rows):
    found = curves(rows)
    columns = [mark // EVERY - 1 for mark in MARKS]
    print(f"evaluations {'':28}" + "".join(f"{mark:<18}" for mark in MARKS) + "seconds a seed, median")
    for name, of in found.items():
        values = np.array(list(of.values()))[:, columns]
        cells = [f"{mean:.3f} +- {std:.3f}   " for mean, std in zip(values.mean(0), values.std(0), strict=True)]
        seconds = np.median([row["seconds"] for row in rows if row["searcher"] == name])
        print(f"{name:28} {len(of):3} seeds   {''.join(cells)}{seconds:.2f}")
    ours = found.get(OURS, {})
    for name, of in found.items():
        if name != OURS and ours.keys() & of.keys():
            print(f"{OURS} against {name}: {paired(ours, of, columns)}")


def paired(one, other, columns):
    """Mean difference +- its standard error, wins-ties-losses and the p of sign flips, at each mark."""
    seeds = sorted(one.keys() & other.keys())
    differences = np.array([one[seed] - other[seed] for seed in seeds])[:, columns]
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (20_000, len(seeds)))
    parts = []
    for mark, column in zip(MARKS, differences.T, strict=True):
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
    evaluations = np.arange(EVERY, LAST + 1, EVERY)
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
    parser.add_argument("--data", default="c10", choices=["c10", "c100", "in16"])
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument("--results", default="experiments/searchers/searchers_nasbench201.jsonl")
    parser.add_argument("--draw", metavar="FILE.svg", help="the figure from the results, and nothing else")
    arguments = parser.parse_args()
    if not (arguments.table or arguments.draw):
        parser.error("give the table, or --draw FILE.svg")
    main(arguments)
