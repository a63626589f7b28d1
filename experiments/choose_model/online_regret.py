"""Does the choice of a pre-trained model improve as tasks accumulate? Many orders of the tasks, each task equally often at each place.

    python experiments/choose_model/online_regret.py RECORDS.csv.gz
    python experiments/choose_model/online_regret.py RECORDS.csv.gz --draw experiments/choose_model/online_regret.svg

RECORDS as in `choose_model.py`. A permutation of the tasks is begun at each of its tasks, which gives as many orders as
there are tasks: after k known tasks every task is asked for equally often, so that the curve shows what is known and not
which tasks happen to come last. After k tasks the regret on every task not yet known is measured, with the three probes of
`choose_model.py` on it. "hedge, updated" reads each task's records once, when they come; the others begin anew with all
records known. The best single choice has less regret with more tasks, too: it is the curve to compare with.

The slope is that of a task's regret against log2 k; the unit of the tests is the task.

Result, hardware, time: README.md beside this file. A permutation that is in the results is not run again.
"""  # noqa: E501

import argparse
import pathlib

import choose_model as protocol
import jax
import linear_probe
import numpy as np

KNOWN = (1, 2, 4, 7, 10, 14)  # tasks
# What begins anew with all records: one setting each, those of `choose_model.py`.
ANEW = {
    "trees": ("trees", {"num_folds": 2, "num_members": 1}),
    "ridge": ("ridge", {"penalty": 300.0, "num_folds": 2}),
    "hedge, anew": ("hedge", {"passes": 5}),
}
SINGLE, PROBED, UPDATED = "best single", "best single, settings of the probe", "hedge, updated"


def regret_by_task(grid, score, asked):
    """Regret of the first choice on each case asked for, over the limits of compute, ascending: `[cases, limits]`."""
    found = []
    for limit in np.unique(grid.compute):
        inside = (grid.compute <= limit)[None, :, None] & np.isfinite(grid.score[asked])
        kept = np.where(inside, grid.score[asked], -np.inf).reshape(len(score), -1)
        shown = np.where(inside, score, -np.inf).reshape(len(score), -1)
        chosen = shown.argmax(1)
        found.append(kept.max(1) - kept[np.arange(len(kept)), chosen])
    return np.stack(found, 1)


def one_order(grid, x, regret, probes, order, models, key):
    """`{predictor: {k: {task: (regret without a limit, mean over limits)}}}` of one order of the tasks."""
    found, state = {}, None
    for count in range(1, len(order)):
        train, asked = np.isin(grid.tasks, order[:count]), ~np.isin(grid.tasks, order[:count])
        if "hedge" in models:
            new = grid.tasks == order[count - 1]
            records, model = protocol.rows(x[new], regret[new], grid.tasks[new]), models["hedge"]
            state = model.fit(records, key) if state is None else model.update(state, records, key)
        if count not in KNOWN:
            continue
        base = protocol.baselines(grid, regret, train, asked, probes)
        scores = {SINGLE: base[SINGLE], PROBED: base[PROBED]}
        records = protocol.rows(x[train], regret[train], grid.tasks[train])
        for name in ANEW:
            if name in models:
                scores[name] = protocol.predict(models[name], models[name].fit(records, key), x[asked])[0]
        if state is not None:
            scores[UPDATED] = protocol.predict(models["hedge"], state, x[asked])[0]
        for name, score in scores.items():
            each = regret_by_task(grid, score, asked)
            found.setdefault(name, {})[count] = {
                task: (each[grid.tasks[asked] == task, -1].mean(), each[grid.tasks[asked] == task].mean())
                for task in np.unique(grid.tasks[asked])
            }
    return found


def run(args):
    """One line a permutation and predictor: mean regret by number of known tasks and by task, over the orders."""
    grid = linear_probe.read(args.records)
    tasks, regret, out = np.unique(grid.tasks), protocol.regret_of(grid.score), pathlib.Path(args.out)
    probes = linear_probe.cheapest(grid, 3)
    x, _ = linear_probe.features(grid, probes, sorted({fact[2] for fact in grid.facts}))
    models = {name: protocol.build(kind, given, x.shape[-1]) for name, (kind, given) in ANEW.items()}
    models["hedge"] = models["hedge, anew"]
    for number in args.permutations:
        if any(line["permutation"] == number for line in protocol.read_lines(out)):
            continue
        base, sums = np.random.default_rng(number).permutation(tasks), {}
        for start in range(args.most or len(tasks)):
            order = np.roll(base, -start)
            for name, curve in one_order(grid, x, regret, probes, order, models, jax.random.key(number)).items():
                for count, by_task in curve.items():
                    for task, pair in by_task.items():
                        sums.setdefault((name, count, task), []).append(pair)
            print(f"permutation {number}, order {start}", flush=True)
        protocol.append(out, [
            {
                "permutation": number, "predictor": name, "known": KNOWN, "tasks": tasks.tolist(),
                **{
                    what: [[mean_of(sums, (name, k, task), at) for task in tasks] for k in KNOWN]
                    for at, what in enumerate(("no limit", "mean over limits"))
                },
            }
            for name in dict.fromkeys(key[0] for key in sums)
        ])  # fmt: skip


def mean_of(sums, key, at):
    """Rounded mean of one of two measures; None where an order was left out."""
    return round(float(np.mean([pair[at] for pair in sums[key]])), 5) if key in sums else None


def curves(lines, what):
    """`{predictor: [permutations, known, tasks]}`."""
    found = {}
    for line in sorted(lines, key=lambda line: line["permutation"]):
        found.setdefault(line["predictor"], []).append(np.array(line[what], float))
    return {name: np.stack(each) for name, each in found.items()}


def slopes(each):
    """Least-squares slope of regret against log2 of the known tasks, of each task: `[tasks]`."""
    at = np.log2(KNOWN) - np.log2(KNOWN).mean()
    return np.einsum("k,kt->t", at, each.mean(0)) / np.sum(at**2)


def summarise(lines):
    """Two tables for each measure: regret and its slope, and the gain on the best single; tests over tasks."""
    for what in ("no limit", "mean over limits"):
        found = curves(lines, what)
        number, tasks = len(next(iter(found.values()))), len(lines[0]["tasks"])
        heads = " | ".join(f"{k} known" for k in KNOWN)
        print(f"\n{what}: {number * tasks} orders; mean over tasks, in brackets its deviation over permutations")
        print(f"| regret | {heads} | slope a doubling | falls on | p |\n" + "|---" * (len(KNOWN) + 4) + "|")
        for name, each in found.items():
            by_order, slope = each.mean(2), slopes(each)
            spread = by_order.std(0, ddof=1) if number > 1 else np.full(len(KNOWN), np.nan)
            cells = " | ".join(f"{m:.4f} ({s:.4f})" for m, s in zip(by_order.mean(0), spread, strict=True))
            p = protocol.paired(slope, np.zeros(tasks))["sign flips p"]
            falls = f"{np.sum(slope < 0)} of {tasks}"
            error = slope.std(ddof=1) / np.sqrt(tasks)
            print(f"| {name} | {cells} | {slope.mean():+.4f} ± {error:.4f} | {falls} | {p:.5f} |")
        print(f"\n| gain on the best single, p | {heads} |\n" + "|---" * (len(KNOWN) + 1) + "|")
        for name, each in found.items():
            tests = [protocol.paired(*(e.mean(0)[k] for e in (each, found[SINGLE]))) for k in range(len(KNOWN))]
            cells = " | ".join(f"{test['gain']:+.4f}, {test['sign flips p']:.3f}" for test in tests)
            print(f"| {name} | {cells} |")


def draw(lines, path):
    """The curves: mean over tasks, the band one standard error over permutations of the tasks' mean."""
    import matplotlib
    from matplotlib.figure import Figure

    from jnas.report.plots import STYLE

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "jnas"}):
        figure = Figure(figsize=(9.0, 3.6), layout="constrained")
        for axes, what in zip(figure.subplots(1, 2, sharey=True), ("no limit", "mean over limits"), strict=True):
            for name, each in curves(lines, what).items():
                by_order = 100 * each.mean(2)  # [permutations, known]
                mean, spread = by_order.mean(0), by_order.std(0, ddof=1)
                (line,) = axes.plot(KNOWN, mean, marker="o", markersize=3, label=name)
                axes.fill_between(KNOWN, mean - spread, mean + spread, alpha=0.12, color=line.get_color(), linewidth=0)
            axes.set(title=what, xlabel="known tasks", xscale="log", ylim=(0, None))
            axes.set_xticks(KNOWN, [str(k) for k in KNOWN])
            axes.minorticks_off()
        figure.axes[0].set_ylabel("regret on the other tasks [%]")
        figure.axes[1].legend(loc="best", fontsize=7)
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", nargs="?", help="CSV of records, see linear_probe.py; left out: only the tables")
    parser.add_argument("--permutations", type=int, nargs="*", default=list(range(5)))
    parser.add_argument("--most", type=int, help="starts of a permutation; for a trial of the script")
    parser.add_argument("--out", default="experiments/choose_model/online_regret.jsonl")
    parser.add_argument("--draw", metavar="SVG")
    args = parser.parse_args()
    if args.records:
        run(args)
    summarise(protocol.read_lines(args.out))
    if args.draw:
        draw(protocol.read_lines(args.out), args.draw)
