"""What carries the choice of a pre-trained model: regret with a group of features shuffled.

python experiments/choose_model/choose_model_features.py RECORDS.csv.gz

Measured on one core of an AMD EPYC beside other work. Trees, 15 tasks left out in turn, mean regret over limits .0139;
with the features of a group shuffled (5 times) it rises by

    model    +.0196   worse on 13 of 15 tasks
    setting  +.0007   worse on  9 of 15 tasks
    size     +.0015   worse on 10 of 15 tasks
    probe    +.0169   worse on 15 of 15 tasks
"""

import argparse
import pathlib

import choose_model as protocol
import jax
import linear_probe
import numpy as np

GROUPS = ("model", "setting", "size", "probe")


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


def summarise(lines):
    """The table of the docstring."""
    rows = [line for line in lines if line["what"] == "importance"]
    if rows:
        intact = np.array([line["intact"] for line in rows])
        print(f"\nregret with every feature {intact.mean():.4f}; shuffled, it rises by (mean over tasks, tasks worse)")
        for group in GROUPS:
            rise = np.array([line[group] for line in rows]) - intact
            print(f"{group:8} {rise.mean():+.4f}  {np.sum(rise > 0)} of {len(rows)}")


def main(args):
    """Writes the lines that are missing, then the tables."""
    grid = linear_probe.read(args.records)
    regret, out = protocol.regret_of(grid.score), pathlib.Path(args.out)
    x, names = linear_probe.features(grid, linear_probe.cheapest(grid, 3), sorted({fact[2] for fact in grid.facts}))
    key = jax.random.key(0)
    importance(grid, x, names, regret, out, key)
    summarise(protocol.read_lines(out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", help="CSV of records, see linear_probe.py")
    parser.add_argument("--out", default="experiments/choose_model/choose_model_features.jsonl")
    main(parser.parse_args())
