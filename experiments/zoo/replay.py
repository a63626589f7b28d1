"""Rules of choosing, replayed on the table of `table.py`: accuracy and time of each, over draws of the zoo.

A draw takes some of the networks, one task, and some of the fine-tunings of the other tasks as earlier records; a rule
sees what it pays for, and answers a fine-tuned network by validation accuracy. Its points lost are those of test
accuracy to what trying all of them and every setting to the end finds; its time is a share of that. `select` is the
code of `jnas select`: its order, its halving and what it learns on the way. Every program is compiled once in a draw,
and every network looks at the images once where the rule asks for it.

    python experiments/zoo/replay.py --results table.jsonl            # points lost at the share of the time
    python experiments/zoo/replay.py --results table.jsonl --target   # what reaches the target accuracy, and when

With `--target` the target is the validation accuracy that two in five of the fine-tunings of the draw reach at their
end, and the time is that until a rule reaches it, or gives up after all.

Intervals are those of the mean over tasks, 95 %, from a bootstrap of whole tasks: draws of one task are no new tasks.

Result, hardware, time: README.md beside this file.
"""

import argparse
import itertools
import json
import pathlib

import numpy as np

from jnas.recipes import config
from jnas.recipes.zoo import candidates, ranking, records, rungs
from jnas.recipes.zoo.settings import FineTuning, Selection

ETA = 3
SHARE = 0.25  # of the time of trying all, which the rules with a budget may take
PERCENTILE = 60  # of the final validation accuracies of a draw: the target


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", nargs="+", default=["experiments/zoo/table.jsonl"])
    parser.add_argument("--networks", type=int, default=12, help="of a draw")
    parser.add_argument("--draws", type=int, default=20, help="of each task")
    parser.add_argument("--first", type=int, default=0, help="the number of the first draw")
    parser.add_argument("--records", type=int, default=12, help="earlier fine-tunings of each other task")
    parser.add_argument("--target", action="store_true")
    arguments = parser.parse_args()
    text = "".join(pathlib.Path(path).read_text() for path in arguments.results)
    lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    print(table(replayed(lines, arguments), arguments.target))


def replayed(lines, arguments):
    """Of every rule `[tasks, draws, 2]`: points lost or whether the target was reached, and share of the time."""
    tasks, names = (sorted({line[key] for line in lines}) for key in ("task", "network"))
    pay_compilation(lines)
    found = {}
    for at, task in enumerate(tasks):
        for draw in range(arguments.first, arguments.first + arguments.draws):
            random = np.random.default_rng([at, draw])
            kept = set(random.choice(names, min(arguments.networks, len(names)), replace=False).tolist())
            there = standing(lines, kept)
            offered = [line for line in there if line["task"] == task]
            others = [one for one in tasks if one != task]
            known = {
                number: earlier(there, random.permutation(others)[:number], arguments.records, random)
                for number in (0, 2, len(others))
            }
            total = float(costs_of(offered)[:, -1].sum())
            best = to_the_end(offered, range(len(offered)), number=len(offered)).test
            target = float(np.percentile([line["validation"][-1] for line in offered], PERCENTILE))
            for rule, value in rules(offered, known, total, random, target if arguments.target else None).items():
                good = value.reached if arguments.target else 100 * (best - value.test)
                found.setdefault(rule, {}).setdefault(task, []).append((good, value.seconds / total))
    return {rule: np.array([by_task[task] for task in tasks]) for rule, by_task in found.items()}


def pay_compilation(lines):
    """Put into every line what its programs take to compile: the most of all lines that run them."""
    for part in ("look", "tune"):
        worst = {}
        for line in lines:
            key = (line["network"], *((line["frozen"], line["learning rate"]) if part == "tune" else ()))
            worst[key] = max(worst.get(key, 0.0), line["compiling"][part])
        for line in lines:
            key = (line["network"], *((line["frozen"], line["learning rate"]) if part == "tune" else ()))
            line["compiling"][part] = worst[key]


def standing(lines, kept):
    """The lines of the networks of a draw, with where they stand at their source."""
    one = {line["network"]: candidate_of(line) for line in lines if line["network"] in kept}
    at = dict(zip(one, ranking.standings(list(one.values())), strict=True))
    return [line | {"standing": at[line["network"]]} for line in lines if line["network"] in kept]


def earlier(lines, tasks, number, random):
    """Records of some fine-tunings of the networks on each of these tasks, one for each rung."""
    found = []
    for task in tasks:
        there = [line for line in lines if line["task"] == task]
        for at in random.permutation(len(there))[:number]:
            found += [record_of(there[at], rung) for rung in range(len(there[at]["seconds"]))]
    return found


class Outcome:
    """What a rule came to."""

    def __init__(self, offered, done, costs, look, target):
        last = {one.choice: one for one in done}.values()
        best = max(last, key=lambda one: rungs.worth(one.score, one.rung, target))
        self.test = offered[best.choice]["test"][best.rung]
        self.seconds = look + float(sum(costs[one.choice, one.rung] for one in last))
        self.reached = target is not None and any(one.score >= target for one in done)


def rules(offered, known, total, random, target):
    """Each rule's outcome."""
    rates = sorted({line["learning rate"] for line in offered})
    middle, whole = rates[len(rates) // 2], min(line["frozen"] for line in offered)
    plain = [at for at, line in enumerate(offered) if (line["frozen"], line["learning rate"]) == (whole, middle)]
    rest = [at for at in range(len(offered)) if at not in plain]

    def sorted_by(key):
        """The plain setting of every network in the order of a fact, then the other settings in the same order."""
        return [*sorted(plain, key=lambda at: -offered[at][key]), *sorted(rest, key=lambda at: -offered[at][key])]

    look = sum(offered[at]["look"] + offered[at]["compiling"]["look"] for at in plain)
    chance = random.permutation(len(offered))
    simple = {
        "random": (chance, 0.0), "largest": (sorted_by("parameters"), 0.0),
        "most accurate at its source": (sorted_by("source accuracy"), 0.0), "LogME": (sorted_by("logme"), look),
        "nearest centroid": (sorted_by("nearest centroid"), look),
    }  # fmt: skip
    share = SHARE * total
    if target is not None:
        found = {name: to_the_end(offered, order, seen, target=target) for name, (order, seen) in simple.items()}
    else:
        found = {"every network and setting": to_the_end(offered, range(len(offered)), number=len(offered))}
        found |= {f"{name}, one": to_the_end(offered, order, seen, number=1) for name, (order, seen) in simple.items()}
        found |= {
            f"{name}, as many as the budget allows": to_the_end(offered, order, seen, budget=share)
            for name, (order, seen) in simple.items() if name in ("random", "most accurate at its source", "LogME")
        }  # fmt: skip
        found["halving without a prior, budget"] = select(offered, [], 0.0, order=chance, budget=share)
    for number, rows in known.items():
        label = f"select, records of {number} tasks" if number else "select, no records"
        if target is not None:
            found[label] = select(offered, rows, look, target=target)
            continue
        found[f"{label}, one"] = select(offered, rows, look, trials=1)
        found[label] = select(offered, rows, look)
        found[f"{label}, budget"] = select(offered, rows, look, budget=share)
    return found


def to_the_end(offered, order, look=0.0, *, number=None, budget=None, target=None):
    """One fine-tuning after the other to its end, in an order."""
    costs, done, spent = costs_of(offered), [], look
    for at in map(int, order):
        spent += costs[at, -1]
        if done and budget is not None and spent > budget:
            break
        done.append(rungs.Done(at, costs.shape[1] - 1, offered[at]["validation"][-1]))
        if len(done) == number or (target is not None and done[-1].score >= target):
            break
    return Outcome(offered, done, costs, look, target)


def select(offered, known, look, *, order=None, trials=Selection.trials, target=None, budget=None):
    """`jnas select`, whose loop is that of `selection.search`."""
    costs, done, choices = costs_of(offered), [], [choice_of(line) for line in offered]
    settings = settings_of(offered, target)
    ranked = order
    while True:
        if order is None and (ranked is None or known):
            ranked, _ = ranking.ranked(settings, choices, known)
        step, end = rungs.next_step(
            [int(at) for at in ranked], costs, done, trials=trials, eta=ETA, target=target,
            budget=None if budget is None else budget - look,
        )  # fmt: skip
        if end or step is None:
            return Outcome(offered, done, costs, look, target)
        done.append(rungs.Done(step.choice, step.rung, offered[step.choice]["validation"][step.rung]))
        if known:
            known = [*known, record_of(offered[step.choice], step.rung)]


def costs_of(offered):
    """Seconds from the beginning to the end of each rung, `[n, num_rungs]`."""
    return np.cumsum([line["seconds"] for line in offered], 1) + [[line["compiling"]["tune"]] for line in offered]


def settings_of(offered, target):
    """The settings of `jnas select` whose grid is that of the lines."""
    rates, shares = (sorted({line[key] for line in offered}) for key in ("learning rate", "frozen"))
    own = {"data": "replayed", "learning_rates": rates, "frozen": shares, "target_accuracy": target}
    return config.build(Selection, own)


def candidate_of(line):
    """The network of a line."""
    facts = (line["source accuracy"], line["parameters"], line["flops"], None, ())
    return candidates.Candidate(line["network"], "", *facts, data=line["source"])


def choice_of(line):
    """A line as a choice of `jnas select`."""
    settings = FineTuning(frozen=line["frozen"], learning_rate=line["learning rate"])
    facts = {f"task: {name}": value for name, value in line["task facts"].items()}
    features = facts | {
        records.NAMES[0]: np.log10(line["parameters"]), records.NAMES[1]: np.log10(max(line["flops"] or 1, 1)),
        records.SOURCE: line["source accuracy"], records.STANDING: line["standing"],
        records.CENTROID: line["nearest centroid"], records.LOGME: line["logme"],
        records.FROZEN: line["frozen"], records.RATE: np.log10(line["learning rate"]),
    }  # fmt: skip
    costs = list(itertools.accumulate(line["seconds"]))
    return ranking.Choice(candidate_of(line), settings, features, tuple(line["steps"]), costs[-1] / line["steps"][-1])


def record_of(line, rung):
    """The record that a fine-tuning leaves at the end of a rung."""
    return {
        "task": line["task"], "features": choice_of(line).row(rung), "score": line["validation"][rung],
        "model": line["network"],
    }  # fmt: skip


def table(found, target, repeats=2000):
    """Means over tasks with their intervals; markdown."""
    random = np.random.default_rng(0)
    again = random.integers(0, len(next(iter(found.values()))), (repeats, len(next(iter(found.values())))))

    def interval(values):
        low, high = np.percentile(values[again].mean(1), [2.5, 97.5])
        return f"{values.mean():.2f} [{low:.2f}, {high:.2f}]"

    first = "draws that reach the target" if target else "points lost"
    rows = [f"| rule | {first}, mean over tasks [95 %] | share of the time of trying all |", "|---|---|---|"]
    for rule, values in found.items():
        of_task = values.mean(1)
        rows.append(f"| {rule} | {interval(of_task[:, 0])} | {of_task[:, 1].mean():.3f} |")
    if not target:
        source = found["most accurate at its source, one"].mean(1)[:, 0]
        rows.append("\n| select less the most accurate at its source, points [95 %] | |\n|---|---|")
        rows += [
            f"| {rule} | {interval(source - values.mean(1)[:, 0])} |"
            for rule, values in found.items() if rule.startswith("select")
        ]  # fmt: skip
    return "\n".join(rows)


if __name__ == "__main__":
    main()
