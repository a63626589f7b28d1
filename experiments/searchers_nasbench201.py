"""Races searchers on NAS-Bench-201, where every answer is known.

Command:  python experiments/searchers_nasbench201.py NASBENCH201.csv.gz [--seeds 50] [--only NAME ...] [--data c10]
          [--shuffled]
Needs:    a table with the columns `arch`, `c10_val_e12` and `c10_test_e200`, 15,625 rows. With Optuna installed its TPE
          sampler runs too, and with PyTorch beside it its Gaussian-process sampler.

A searcher sees validation accuracy after 12 epochs. Its score after n evaluations is the test accuracy at 200 epochs of
the architecture with the best signal so far; the test column chooses nothing. `gaussian_process, by mean` is the same
run, answering with the largest posterior mean among what it evaluated. Random, evolution and Optuna are asked for one
architecture at a time, ours by Gaussian process for five at a time (which costs it a little, and saves time). Output:
one JSON line a seed, `curve` being the score after 10, 20 .. 200 evaluations, then the table at 50, 100 and 200. With
`--shuffled` signal and score are dealt out to the architectures at random: the control, in which no searcher may win.

Measured on one CPU core, CIFAR-10, test accuracy in % (mean +- standard deviation over seeds):

    evaluations                      50               100              200
    random                 50 seeds  93.47 +- 0.52    93.71 +- 0.43    93.89 +- 0.23
    evolution (50, 10)     50 seeds  93.47 +- 0.52    94.02 +- 0.33    94.32 +- 0.14
    evolution (10, 3)      50 seeds  93.73 +- 0.53    93.99 +- 0.28    94.13 +- 0.23
    Optuna TPE             50 seeds  93.92 +- 0.43    94.17 +- 0.25    94.28 +- 0.20
    gaussian_process       50 seeds  94.14 +- 0.37    94.20 +- 0.27    94.32 +- 0.17
      answering by mean    50 seeds  94.12 +- 0.41    94.21 +- 0.26    94.33 +- 0.16
    Optuna GPSampler        3 seeds  94.32 +- 0.07    94.37 +- 0.00    94.37 +- 0.00

At 200 the Gaussian process and evolution tie (94.324 and 94.321): four of its 50 seeds end at a local optimum below
94.36 (signal 84.28 or less, score 93.74 or 93.79), the other 46 at the optimum, 94.37, the best signal too. Optuna's
GPSampler ran 3 seeds, for it takes 20 to 50 s each against 2.5 s of ours and 0.25 s of evolution, not counting
compilation: about a minute for ours in all, once. Shuffled, 8 seeds: random 93.43 / 93.82 / 93.93, evolution 93.43 /
93.61 / 93.80, gaussian_process 93.49 / 93.66 / 93.77.
"""

import argparse
import csv
import gzip
import importlib.util
import json
import time

import jax
import numpy as np

from jnas import searchers, spaces

MARKS = (50, 100, 200)


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
    """Evaluated codes in order, and the searcher's final state at each mark."""
    state, key, at_mark = searcher.init(), jax.random.key(seed), {}
    while state.count < MARKS[-1]:
        codes = searcher.ask(state, jax.random.fold_in(key, state.count), batch)
        state = searcher.tell(state, codes, signal[tuple(codes.T)])
        if state.count in MARKS:
            at_mark[state.count] = state
    return state.codes[: state.count], at_mark


def run_optuna(sampler, signal):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    codes = []

    def objective(trial):
        code = tuple(trial.suggest_categorical(str(i), list(range(5))) for i in range(6))
        codes.append(code)
        return signal[code]

    optuna.create_study(direction="maximize", sampler=sampler).optimize(objective, n_trials=MARKS[-1])
    return np.array(codes)


def contestants(space):
    """Name -> (most seeds, function of the signal and a seed that returns codes and states)."""
    ours = {
        "random": (searchers.random(space), 1),
        "evolution": (searchers.evolution(space), 1),
        "evolution, 10 and 3": (searchers.evolution(space, population=10, tournament=3), 1),
        "gaussian_process": (searchers.gaussian_process(space), 5),
    }
    table = {
        name: (50, lambda signal, seed, searcher=searcher, batch=batch: run_ours(searcher, batch, signal, seed))
        for name, (searcher, batch) in ours.items()
    }
    if importlib.util.find_spec("optuna"):
        import optuna

        table["optuna_tpe"] = (
            50,
            lambda signal, seed: (run_optuna(optuna.samplers.TPESampler(seed=seed), signal), {}),
        )
        if importlib.util.find_spec("torch"):
            table["optuna_gp"] = (
                3,
                lambda signal, seed: (run_optuna(optuna.samplers.GPSampler(seed=seed), signal), {}),
            )
    return table


def by_mean(model, states, score, seed):
    """The score of the largest posterior mean among the evaluated, at each mark."""
    result = []
    for count in MARKS:
        state = states[count]
        hyper = model.fit(state, jax.random.key(seed)).hyper
        mean, _ = model.predict(state, hyper, state.codes)
        result.append(score[tuple(state.codes[np.argmax(np.asarray(mean)[:count])])])
    return result


def main(args):
    signal, score = read(args.table, args.data)
    if args.shuffled:
        order = np.random.default_rng(0).permutation(signal.size)
        signal, score = (values.ravel()[order].reshape(signal.shape) for values in (signal, score))
    model = searchers.surrogate(spaces.nasbench201())
    results = {}
    for name, (most, run) in contestants(spaces.nasbench201()).items():
        if args.only and name not in args.only:
            continue
        for seed in range(min(args.seeds, most)):
            start = time.perf_counter()
            codes, states = run(signal, seed)
            seconds = time.perf_counter() - start
            seen, reached = signal[tuple(codes.T)], score[tuple(codes.T)]
            best = [int(np.argmax(seen[:count])) for count in MARKS]
            line = {"searcher": name, "seed": seed, "score": reached[best].tolist(), "signal": seen[best].tolist()}
            line["curve"] = [reached[np.argmax(seen[:count])] for count in range(10, MARKS[-1] + 1, 10)]
            results.setdefault(name, []).append(line["score"])
            if name == "gaussian_process":
                line["score_by_mean"] = by_mean(model, states, score, seed)
                results.setdefault(f"{name}, by mean", []).append(line["score_by_mean"])
            print(json.dumps(line | {"seconds": round(seconds, 2)}), flush=True)
    for name, rows in results.items():
        cells = [f"{m:.2f} +- {s:.2f}" for m, s in zip(np.mean(rows, 0), np.std(rows, 0), strict=True)]
        print(f"{name:28} {len(rows):3} seeds   " + "   ".join(cells))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--data", default="c10", choices=["c10", "c100", "in16"])
    parser.add_argument("--shuffled", action="store_true")
    main(parser.parse_args())
