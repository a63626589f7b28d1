"""What carries the choice of a pre-trained model, and how the choice improves as tasks accumulate.

python experiments/choose_model_features.py RECORDS.csv.gz

Measured on one core of an AMD EPYC beside other work. Trees, 15 tasks left out in turn, mean regret over limits .0139;
with the features of a group shuffled (5 times) it rises by

    model    +.0196   worse on 13 of 15 tasks
    setting  +.0007   worse on  9 of 15 tasks
    size     +.0015   worse on 10 of 15 tasks
    probe    +.0169   worse on 15 of 15 tasks

Regret (mean over limits) on the next task, after 1, 3, 7 and 14 known ones all of whose records are told, with the
deviation over 5 orders: too few to say that it falls steadily, for each point is one next task an order.

    best single  0.0184 +- 0.0202   0.0098 +- 0.0094   0.0179 +- 0.0101   0.0111 +- 0.0060
    hedge        0.0098 +- 0.0038   0.0117 +- 0.0094   0.0145 +- 0.0078   0.0074 +- 0.0081
    trees        0.0128 +- 0.0085   0.0070 +- 0.0072   0.0167 +- 0.0132   0.0103 +- 0.0081
"""

import argparse
import pathlib

import choose_model as protocol
import jax
import linear_probe
import numpy as np

GROUPS = ("model", "setting", "size", "probe")
KNOWN = (1, 3, 7, 14)  # tasks, at which the curve is drawn


def shuffled(x, names, group, random, axis):
    """Features with one group's columns taken from another model, setting or case."""
    columns, changed = linear_probe.columns_of(group, names), x.copy()
    order = random.permutation(x.shape[axis])
    changed[..., columns] = np.take(x, order, axis)[..., columns]
    return changed


def importance(grid, x, names, regret, out, key, repeats=5):
    """Regret on each task left out with one group of features shuffled: between models, settings or cases."""
    axes = {"model": 1, "setting": 2, "size": 0, "probe": 0}
    had = {line["task"] for line in protocol.read_lines(out) if line["what"] == "importance"}
    for task, train, test in protocol.folds_of(grid, None):
        if task in had:
            continue
        model = protocol.build("trees", {"num_folds": 2}, x.shape[-1])
        state = model.fit(protocol.rows(x[train], regret[train], grid.tasks[train]), key)

        def cost(features, state=state, model=model, test=test):
            score = protocol.predict(model, state, features[test])[0]
            return mean_over_limits(grid, score, test)

        line = {"what": "importance", "task": task, "intact": cost(x)}
        for group in GROUPS:
            random = np.random.default_rng(0)
            line[group] = float(np.mean([cost(shuffled(x, names, group, random, axes[group])) for _ in range(repeats)]))
        protocol.append(out, [line])
        print(line, flush=True)


def mean_over_limits(grid, score, test):
    """Mean regret of some cases over all limits of compute."""
    found = []
    for limit in np.unique(grid.compute):
        shown, within = protocol.limited(grid, protocol.score_on(grid, score, test), limit)
        found.append(protocol.measures(shown[test], within[test])["regret"])
    return float(np.mean(found))


def online(grid, x, regret, out, orders, key):
    """Regret on the next task after 1, 3, 7 and 14 known ones, in several orders of the tasks."""
    tasks = np.unique(grid.tasks)
    had = {(line["order"], line["predictor"]) for line in protocol.read_lines(out) if line["what"] == "online"}
    for number in range(orders):
        order = np.random.default_rng(number).permutation(tasks)
        for name in ("best single", "hedge", "trees"):
            if (number, name) in had:
                continue
            curve, model, state = [], None, None
            if name != "best single":
                arguments = {"num_folds": 2, "num_members": 1} if name == "trees" else {"passes": 5}
                model = protocol.build(name, arguments, x.shape[-1])
            for count in range(1, len(tasks)):
                train, test = np.isin(grid.tasks, order[:count]), grid.tasks == order[count]
                new = grid.tasks == order[count - 1]
                if name == "hedge":  # the one that learns without starting anew
                    records = protocol.rows(x[new], regret[new], grid.tasks[new])
                    state = model.fit(records, key) if state is None else model.update(state, records, key)
                if count not in KNOWN:
                    continue
                if name == "trees":
                    state = model.fit(protocol.rows(x[train], regret[train], grid.tasks[train]), key)
                if model is None:
                    score = np.broadcast_to(-np.nanmean(regret[train], 0), regret[test].shape)
                else:
                    score = protocol.predict(model, state, x[test])[0]
                curve.append(round(mean_over_limits(grid, score, test), 5))
            protocol.append(out, [{"what": "online", "order": number, "predictor": name, "regret": curve}])
            print(number, name, curve, flush=True)


def summarise(lines):
    """The two tables of the docstring."""
    rows = [line for line in lines if line["what"] == "importance"]
    if rows:
        intact = np.array([line["intact"] for line in rows])
        print(f"\nregret with every feature {intact.mean():.4f}; shuffled, it rises by (mean over tasks, tasks worse)")
        for group in GROUPS:
            rise = np.array([line[group] for line in rows]) - intact
            print(f"{group:8} {rise.mean():+.4f}  {np.sum(rise > 0)} of {len(rows)}")
    rows = [line for line in lines if line["what"] == "online"]
    for name in dict.fromkeys(line["predictor"] for line in rows):
        curves = np.array([line["regret"] for line in rows if line["predictor"] == name])
        cells = "  ".join(f"{m:.4f} +- {s:.4f}" for m, s in zip(curves.mean(0), curves.std(0, ddof=1), strict=True))
        print(f"{name:12} after {KNOWN} tasks, {len(curves)} orders: {cells}")


def main(args):
    """Writes the lines that are missing, then the tables."""
    grid = linear_probe.read(args.records)
    regret, out = protocol.regret_of(grid.score), pathlib.Path(args.out)
    x, names = linear_probe.features(grid, linear_probe.cheapest(grid, 3), sorted({fact[2] for fact in grid.facts}))
    key = jax.random.key(0)
    online(grid, x, regret, out, args.orders, key)
    importance(grid, x, names, regret, out, key)
    summarise(protocol.read_lines(out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", help="CSV of records, see linear_probe.py")
    parser.add_argument("--orders", type=int, default=5)
    parser.add_argument("--out", default="experiments/results/choose_model_features.jsonl")
    main(parser.parse_args())
