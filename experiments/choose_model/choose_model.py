"""Which pre-trained model, learning rate and epochs for a new task? Predictors scored on whole tasks left out.

    python experiments/choose_model/choose_model.py RECORDS.csv.gz
    python experiments/choose_model/choose_model.py RECORDS.csv.gz --test KEPT_BACK.csv.gz --out kept_back.jsonl

RECORDS: linear probes of 12 models x 9 settings on 15 tasks (31 cases with their shots), see `linear_probe.py`. Each
task in turn is left out with all its shots; a predictor fits minus the regret of the others' records and ranks the 108
candidates of the new one, without a limit on compute and under the limits at each model's compute. All predictors but the
baselines know what the 3 cheapest models (of three upstream data sets) reach on the new task in all settings: 2.6 % of
the compute of the whole grid in forward passes. Ridge's penalty is chosen by an inner cross-validation over the training
tasks; the others have one setting.

Measured on one core of an AMD EPYC beside other work (seed 0, 15 tasks, 6 minutes). Regret in accuracy, mean over tasks;
"of 3": the best of the first three; top-3: the best candidate is among the first three; gain, won and lost tasks and
one-sided p (sign flips, Wilcoxon) against the best single (model, setting) of the other tasks:

                                    no limit                                   mean over limits
                                    regret  gain    won-lost  p            regret  gain    won-lost  p            of 3    rank   top-3  90 % covers
    best single                     .0141                                  .0169                                  .0141   .802   .35
    best single, probe's settings   .0128  +.0012   4-0   .062 .034        .0159  +.0011   4-4   .148 .163        .0101   .811   .43
    gp                              .0191  -.0050   4-10  .859 .890        .0161  +.0008   9-6   .392 .281        .0107   .817   .49    .795
    hedge                           .0124  +.0017   4-5   .191 .339        .0160  +.0010   5-10  .378 .598        .0091   .836   .51    .842
    ridge                           .0195  -.0054   5-8   .930 .914        .0181  -.0011   7-8   .683 .661        .0110   .808   .40    .905
    trees                           .0143  -.0002   7-5   .559 .531        .0139  +.0030   10-5  .036 .042        .0086   .862   .55    .933
    random                          .0962                                  .0909                                  .0416   0      .05

With --test the table is that of the other file's tasks, fitted to all of RECORDS: any file of the same columns, plain or
compressed. Rows without a number are left out; what is missing of the probes is made up from the other records; tasks
that both files have are fitted without.

Trees beat the best single choice only on the mean over limits; without a limit they do not. What this is worth:
the task level, the number of probes, the features, the target and the number of members were settled while looking at
results on these 15 tasks, over about a dozen variants (trees fitted to two thirds of the tasks: .0142, p .13;
to four fifths: .0126, p .012), so that the p-values are optimistic: the tasks kept back decide. The simple rule "best single model, with
the settings that the probes prefer" has the same information and no learned model.
"""  # noqa: E501 - tables

import argparse
import hashlib
import itertools
import json
import pathlib
import warnings
from math import comb

import jax
import linear_probe
import numpy as np
from scipy import stats

from jnas.searchers import hedge, predictor

# What an inner cross-validation over the training tasks chooses from. Trees, process and network: one first guess each.
SETTINGS = {
    "ridge": [(f"penalty {p:g}", {"penalty": p}) for p in (30.0, 300.0, 3000.0)],
    "trees": [("150 trees of depth 4", {"depth": 4, "num_trees": 150})],
    "hedge": [("5 passes", {"passes": 5})],
    "gp": [("512 records", {"max_records": 512})],
}


RESULTS = "experiments/choose_model/choose_model.jsonl"
RESULTS_OF_TEST = "experiments/choose_model/choose_model_kept_back.jsonl"
COLUMNS = (
    ("predictor", "predictor"), ("regret none", "regret, no limit"), ("gain none", "gain on best single [95 %]"),
    ("won none", "tasks won-lost"), ("p none", "p"), ("wilcoxon none", "Wilcoxon p"),
    ("regret all", "regret, mean over limits"), ("gain all", "gain [95 %]"), ("won all", "won-lost"), ("p all", "p"),
    ("wilcoxon all", "Wilcoxon p"), ("of 3", "regret of the best of 3, over limits"),
    ("rank", "rank correlation [95 %]"), ("top", "top 3 hold the best"), ("covered", "90 % interval covers"),
)  # fmt: skip
MEASURES = ("regret", "regret of 3", "rank correlation", "top-3 hit")


def build(name, arguments, num_features):
    """A predictor by its name."""
    if name == "gp":
        return predictor.gaussian_process(num_features, **arguments)
    return {"ridge": predictor.ridge, "trees": predictor.trees, "hedge": hedge.hedge_network}[name](**arguments)


def regret_of(score):
    """How much each candidate falls short of the best of its case; NaN where there is no record."""
    best = np.where(np.isnan(score), -np.inf, score).max((1, 2), keepdims=True)
    return np.where(np.isinf(best), np.nan, best) - score  # a case without any record under a limit has no regret


def rows(x, regret, tasks):
    """Records of the cases `[n, models, settings, ...]`: the target is minus the regret."""
    groups = np.broadcast_to(np.unique(tasks, return_inverse=True)[1][:, None, None], regret.shape)
    there = np.isfinite(regret)
    return predictor.checked(x[there], -regret[there], groups[there])


def predict(model, state, x):
    """Predicted minus regret, `[cases, models, settings]`, and its deviation."""
    mean, std = model.predict(state, x.reshape(-1, x.shape[-1]))
    return mean.reshape(x.shape[:-1]), std.reshape(x.shape[:-1])


def inner_choice(name, x, regret, tasks, key, folds=4):
    """The setting of a predictor that has the least mean regret over folds of the tasks given."""
    options = SETTINGS[name]
    if len(options) == 1:
        return options[0]
    unique = np.unique(tasks)
    fold = np.random.default_rng(0).permutation(len(unique))[np.searchsorted(unique, tasks)] % folds
    totals = []
    for _, arguments in options:
        model = build(name, {**arguments, "num_folds": 2}, x.shape[-1])
        chosen = []
        for k in range(folds):
            state = model.fit(rows(x[fold != k], regret[fold != k], tasks[fold != k]), key)
            chosen += list(measures(predict(model, state, x[fold == k])[0], regret[fold == k])["regret"])
        totals.append(np.nanmean(chosen))
    return options[int(np.argmin(totals))]


def measures(score, regret):
    """Of each case: regret of the first choice, of the best of three, rank correlation, whether three hold the best."""
    score = np.broadcast_to(score, regret.shape)
    found = {"regret": [], "regret of 3": [], "rank correlation": [], "top-3 hit": [], "chosen": []}
    for s, r in zip(score.reshape(len(score), -1), regret.reshape(len(regret), -1), strict=True):
        there = np.flatnonzero(np.isfinite(r) & np.isfinite(s))
        order = there[np.argsort(-s[there], kind="stable")]
        if not len(order):  # no model of this case keeps the limit
            for key, value in zip(found, (np.nan, np.nan, np.nan, np.nan, -1), strict=True):
                found[key].append(value)
            continue
        found["regret"].append(float(r[order[0]]))
        found["regret of 3"].append(float(r[order[:3]].min()))
        varies = np.ptp(s[there]) > 0 and np.ptp(r[there]) > 0
        found["rank correlation"].append(float(stats.spearmanr(s[there], -r[there]).statistic) if varies else 0.0)
        found["top-3 hit"].append(float(r[order[:3]].min() <= 0))
        found["chosen"].append(int(order[0]))
    return found


def limited(grid, score, limit):
    """Scores and regrets among the models within a limit of compute."""
    inside = grid.compute <= limit
    kept = np.where(inside[None, :, None], grid.score, np.nan)
    return np.where(inside[None, :, None], score, np.nan), regret_of(kept)


def paired(ours, theirs):
    """One-sided tests that the first has less regret, over tasks; the mean difference, and its bootstrap interval."""
    gain = np.asarray(theirs) - np.asarray(ours)
    if len(gain) <= 16:
        signs = np.array(list(itertools.product((1, -1), repeat=len(gain))))
    else:
        signs = np.random.default_rng(0).choice((1, -1), (100_000, len(gain)))
    flips = float(np.mean(signs @ gain >= gain.sum() - 1e-12))
    wilcoxon = float(stats.wilcoxon(gain, alternative="greater").pvalue) if np.any(gain) else 1.0
    return {
        "gain": float(gain.mean()), "interval": interval_of(gain),
        "wins": int((gain > 1e-9).sum()), "losses": int((gain < -1e-9).sum()),
        "sign flips p": flips, "wilcoxon p": wilcoxon,
    }  # fmt: skip


def interval_of(values):
    """The 95 % interval of a mean over tasks, from a bootstrap."""
    again = np.random.default_rng(0).integers(0, len(values), (10_000, len(values)))
    return np.percentile(values[again].mean(1), [2.5, 97.5]).tolist()


def score_all(name, arguments, grid, x, regret, train, test, key):
    """Fit on some cases and score others; the inner choice sees the first ones only."""
    label, given = arguments or inner_choice(name, x[train], regret[train], grid.tasks[train], key)
    model = build(name, given, x.shape[-1])
    state = model.fit(rows(x[train], regret[train], grid.tasks[train]), key)
    score, std = predict(model, state, x[test])
    return label, model, state, score, std


def baselines(grid, regret, train, test, probes):
    """What needs no predictor, as scores of the cases of `test`."""
    mean = usual_of(regret[train])
    shape = regret[test].shape
    found = {"best single": np.broadcast_to(-mean, shape), "oracle": -regret[test], "random": np.zeros(shape)}
    if len(probes):
        # The best single model with what the probes say of the settings on this task, in place of what they say mostly.
        known = linear_probe.completed(grid.score[:, probes], train)
        loss = (known.max(-1, keepdims=True) - known).mean(1)  # [cases, settings]
        found["best single, settings of the probe"] = -mean - 0.5 * (loss[test] - loss[train].mean(0))[:, None]
    return found


def usual_of(regret):
    """Mean regret over cases, `[models, settings]`; of what has no record that of its setting, its model, or all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of an empty mean
        mean = np.nanmean(regret, 0)
        for axis in (0, 1):
            mean = np.where(np.isnan(mean), np.nanmean(mean, axis, keepdims=True), mean)
        return np.where(np.isnan(mean), np.nanmean(mean), mean)


def lines_of(grid, regret, test, score, common, std=None):
    """One JSON line a case: its measures are lists over the limits of compute, ascending, the last none at all."""
    cases = np.flatnonzero(test)
    lines = [{**common, "task": grid.cases[case][0], "shots": grid.cases[case][1]} for case in cases]
    for limit in np.unique(grid.compute):
        shown, within = limited(grid, score_on(grid, score, test), limit)
        found = by_chance(within[test]) if common["predictor"] == "random" else measures(shown[test], within[test])
        for at, line in enumerate(lines):
            for key in MEASURES:
                value = found[key][at]
                line.setdefault(key, []).append(None if np.isnan(value) else round(value, 4))
            if "chosen" in found and found["chosen"][at] >= 0:
                model, setting = np.unravel_index(found["chosen"][at], regret.shape[1:])
                line["choice"] = " ".join(map(str, (*grid.models[model], *grid.settings[setting])))
    for at, (line, case) in enumerate(zip(lines, cases, strict=True)):
        if std is not None:
            inside = np.abs(score[at] + regret[case]) < 1.6449 * std[at]
            inside = inside[np.isfinite(regret[case])]
            line["covered at 90 %"] = round(float(inside.mean()), 3) if len(inside) else None
    return lines


def by_chance(regret):
    """What a candidate drawn at random, or three, come to on average."""
    found = {key: [] for key in MEASURES}
    for case in regret:
        values = np.sort(case[np.isfinite(case)])
        count = len(values)
        few = min(3, count)
        three = [comb(count - 1 - i, few - 1) / comb(count, few) for i in range(count)]
        found["regret"].append(float(values.mean()) if count else np.nan)
        found["regret of 3"].append(float(values @ three) if count else np.nan)
        found["rank correlation"].append(0.0 if count else np.nan)
        found["top-3 hit"].append(few / count if count else np.nan)
    return found


def score_on(grid, score, test):
    """Scores of some cases among those of all."""
    whole = np.full(grid.score.shape, np.nan)
    whole[test] = score
    return whole


def folds_of(grid, tested, name="kept back"):
    """`(name, train, test)`: each task in turn, or the kept-back ones together."""
    tasks = grid.tasks
    if tested is None:
        return [(str(task), tasks != task, tasks == task) for task in np.unique(tasks)]
    test = np.isin(tasks, tested)
    return [(name, ~test, test)]


def kept_back(args):
    """The tasks to score on and a name for them: another file is another fold."""
    if args.test is None:
        return None, ""
    ours, theirs = (np.unique(linear_probe.read(path).tasks) for path in (args.records, args.test))
    digest = hashlib.sha256(b"".join(pathlib.Path(path).read_bytes() for path in (args.records, args.test)))
    both = np.intersect1d(ours, theirs)
    if len(both) == len(ours):
        raise SystemExit(f"every task of {args.records} is in {args.test}, too: give records of other tasks to fit on")
    if len(both):
        print(f"fitted without {', '.join(both)}, which {args.test} has, too")
    unknown = [task for task in theirs if not linear_probe.is_listed(task)]
    if unknown:
        print(f"sizes of {', '.join(unknown)} are not listed: taken as the median of the listed ones")
    return theirs, f"kept back {digest.hexdigest()[:8]}"


def run(args):
    """All lines that the file does not hold yet."""
    tested, name_of_test = kept_back(args)
    grid = linear_probe.read(args.records, *([args.test] if args.test else []), say=print)
    regret, out = regret_of(grid.score), pathlib.Path(args.out or (RESULTS if tested is None else RESULTS_OF_TEST))
    had = {(line["fold"], line["predictor"], line["probes"]) for line in read_lines(out)}
    upstream, folds = sorted({fact[2] for fact in grid.facts}), folds_of(grid, tested, name_of_test)
    if not any(train.any() for _, train, _ in folds):
        raise SystemExit(f"{args.records} has one task: give several, or others to score on with --test")
    for number in args.probes:
        # Only of models that the records to fit on know: a probe that nobody has tried before says nothing.
        probes = [p for p in linear_probe.cheapest(grid, len(grid.models)) if known_to(regret, folds, p)][:number]
        for fold, train, test in folds:
            x, _ = linear_probe.features(grid, probes, upstream, train)
            about = {"fold": fold, "probes": number}
            for name, score in baselines(grid, regret, train, test, probes).items():
                if (fold, name, number) not in had:
                    append(out, lines_of(grid, regret, test, score, {**about, "predictor": name}))
            for name in args.predictors:
                if (fold, name, number) not in had:
                    key = jax.random.key(args.seed)
                    label, _, _, score, std = score_all(name, None, grid, x, regret, train, test, key)
                    append(
                        out, lines_of(grid, regret, test, score, {**about, "predictor": name, "setting": label}, std)
                    )
                    print(f"{number} probes, {name}, without {fold}", flush=True)
    names = {fold for fold, _, _ in folds}
    summarise([line for line in read_lines(out) if line["fold"] in names])


def known_to(regret, folds, model):
    """Whether every fold has records of a model to fit on."""
    return all(np.isfinite(regret[train, model]).any() for _, train, _ in folds)


def read_lines(path):
    """The lines written so far; a torn last one is left out."""
    lines = pathlib.Path(path).read_text().splitlines() if pathlib.Path(path).is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def append(path, lines):
    """Write lines of JSON, at once."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def by_task(lines, key, where):
    """Mean over a task's shots and the limits `where`, `[tasks]`; limits without a model are left out."""
    tasks, found = sorted({line["task"] for line in lines}), []
    for task in tasks:
        values = [value for line in lines if line["task"] == task for value in line[key][where] if value is not None]
        found.append(float(np.mean(values)) if values else np.nan)
    return np.array(found)


def summarise(lines):
    """One table: means over tasks, and a paired test over tasks against the best single (model, setting)."""
    tasks = sorted({line["task"] for line in lines})
    cases = {(line["task"], line["shots"]) for line in lines}
    print(f"\n{len(tasks)} tasks, {len(cases)} cases; p: sign flips over tasks, one-sided")
    for _, title in COLUMNS:
        print(f"| {title} ", end="")
    print("|\n" + "|---" * len(COLUMNS) + "|")
    order = sorted({(line["probes"], line["predictor"]) for line in lines})
    for probes, name in order:
        ours = [line for line in lines if (line["probes"], line["predictor"]) == (probes, name)]
        had = {(line["task"], line["shots"]) for line in ours}
        single = [line for line in lines if (line["probes"], line["predictor"]) == (probes, "best single")]
        single = [line for line in single if (line["task"], line["shots"]) in had]
        cells = {"predictor": name if len({p for p, _ in order}) == 1 else f"{name}, {probes} probes"}
        for short, where in (("none", slice(-1, None)), ("all", slice(None))):
            regret, theirs = (by_task(of, "regret", where) for of in (ours, single))
            both = np.isfinite(regret) & np.isfinite(theirs)
            test = paired(regret[both], theirs[both])
            low, high = test["interval"]
            cells |= {
                f"regret {short}": f"{np.nanmean(regret):.4f}",
                f"gain {short}": f"{test['gain']:+.4f} [{low:+.4f}, {high:+.4f}]",
                f"won {short}": f"{test['wins']}-{test['losses']}",
                f"p {short}": f"{test['sign flips p']:.3f}", f"wilcoxon {short}": f"{test['wilcoxon p']:.3f}",
            }  # fmt: skip
        cells["of 3"], cells["rank"], cells["top"] = (
            f"{np.nanmean(by_task(ours, key, slice(None))):.4f}"[: 6 if key == "regret of 3" else 5]
            for key in MEASURES[1:]
        )
        low, high = interval_of(by_task(ours, "rank correlation", slice(None)))
        cells["rank"] += f" [{low:.3f}, {high:.3f}]"
        covered = [line["covered at 90 %"] for line in ours if line.get("covered at 90 %") is not None]
        cells["covered"] = f"{np.mean(covered):.3f}" if covered else "–"
        print("".join(f"| {cells[key]} " for key, _ in COLUMNS) + "|")


def main(words=None):
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", help="CSV of records, see linear_probe.py")
    parser.add_argument("--test", help="CSV of further tasks: fit on all of RECORDS and score on these")
    parser.add_argument("--probes", type=int, nargs="+", default=[3], help="cheap models tried on the new task")
    parser.add_argument("--predictors", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help=f"lines of JSON ({RESULTS}, with --test {RESULTS_OF_TEST})")
    run(parser.parse_args(words))


if __name__ == "__main__":
    main()
