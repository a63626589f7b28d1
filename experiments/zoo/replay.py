"""Rules of choosing, replayed on the table of `table.py`: accuracy and time of each, over draws of the zoo.

A draw takes some of the networks, and one task; a rule sees what it pays for, and answers a fine-tuned network by
validation accuracy. Its points lost are those of test accuracy to what trying all of them and every setting to the end
finds; its time is a share of that. `select` is the code of `jnas select`, without records (prior of both ranks) and with
the records of the other tasks, in whose order and halving nothing of the task itself is known before it is paid.

    python experiments/zoo/replay.py --results table.jsonl

Intervals are those of the mean over tasks, 95 %, from a bootstrap of whole tasks: draws of one task are no new tasks.
Result: none yet, the table is not measured.
"""  # noqa: E501

import argparse
import itertools
import json
import pathlib

import numpy as np

from jnas.recipes import config
from jnas.recipes.zoo import candidates, ranking, records, rungs
from jnas.recipes.zoo.settings import FineTuning, Selection

ETA = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", nargs="+", default=["experiments/zoo/table.jsonl"])
    parser.add_argument("--networks", type=int, default=12, help="of a draw")
    parser.add_argument("--draws", type=int, default=20, help="of each task")
    parser.add_argument("--trials", type=int, default=9, help="on the first rung")
    arguments = parser.parse_args()
    text = "".join(pathlib.Path(path).read_text() for path in arguments.results)
    lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    print(table(replayed(lines, arguments.networks, arguments.draws, arguments.trials)))


def replayed(lines, number, draws, trials):
    """Of every rule `[tasks, draws, 2]`: points lost, and share of the time of trying all."""
    tasks, names = (sorted({line[key] for line in lines}) for key in ("task", "network"))
    number, found = min(number, len(names)), {}
    for at, task in enumerate(tasks):
        known = [record for line in lines if line["task"] != task for record in records_of(line)]
        for draw in range(draws):
            random = np.random.default_rng([at, draw])
            kept = set(random.choice(names, number, replace=False).tolist())
            offered = [line for line in lines if line["task"] == task and line["network"] in kept]
            total = sum(sum(line["seconds"]) for line in offered)
            for rule, (test, seconds) in rules(offered, known, trials, random).items():
                best = offered[int(np.argmax([line["validation"][-1] for line in offered]))]["test"][-1]
                found.setdefault(rule, {}).setdefault(task, []).append((100 * (best - test), seconds / total))
    return {rule: np.array([by_task[task] for task in tasks]) for rule, by_task in found.items()}


def rules(offered, known, trials, random):
    """Each rule's test accuracy and seconds."""
    first = [line for line in offered if (line["frozen"], line["learning rate"]) == plain(offered)]
    look = sum(line["look"] for line in first)
    chance = random.permutation(len(offered))
    select = [np.asarray(ranked(offered, rows)) for rows in ([], known)]
    return {
        "every network and setting": halved(offered, range(len(offered)), len(offered), single=True),
        "most accurate at its source": alone(max(first, key=lambda line: line["source accuracy"])),
        "probe alone (LogME)": alone(max(first, key=lambda line: line["logme"]), look),
        "largest": alone(max(first, key=lambda line: line["parameters"])),
        "random": alone(offered[chance[0]]),
        "halving without a prior": halved(offered, chance, trials),
        "select, no records": halved(offered, select[0], trials, look),
        "select, no records, one candidate": halved(offered, select[0], 1, look, single=True),
        "select, records of the other tasks": halved(offered, select[1], trials, look),
        "select, records of the other tasks, one candidate": halved(offered, select[1], 1, look, single=True),
    }


def plain(offered):
    """The setting that rules without a model of settings take, as `ranking.ranked`: unfrozen, the middle rate."""
    rates = sorted({line["learning rate"] for line in offered})
    return min(line["frozen"] for line in offered), rates[len(rates) // 2]


def alone(line, look=0.0):
    """One network with one setting, to the end."""
    return line["test"][-1], look + sum(line["seconds"])


def halved(offered, order, trials, look=0.0, *, single=False):
    """Halving in an order, as `jnas select` does; `single`: one rung, the last."""
    costs = np.cumsum([line["seconds"] for line in offered], 1)
    scores = np.array([line["validation"] for line in offered])
    if single:
        costs, scores = costs[:, -1:], scores[:, -1:]
    done = []
    while True:
        step, end = rungs.next_step([int(at) for at in order], costs, done, trials=trials, eta=ETA)
        if end:
            break
        done.append(rungs.Done(step.choice, step.rung, scores[step.choice, step.rung]))
    last = {one.choice: one for one in done}.values()
    best = max(last, key=lambda one: one.score)
    seconds = look + sum(costs[one.choice, one.rung] for one in last)
    return offered[best.choice]["test"][-1 if single else best.rung], float(seconds)


def ranked(offered, known):
    """The order of `jnas select` over the lines of a task."""
    rates, shares = (sorted({line[key] for line in offered}) for key in ("learning rate", "frozen"))
    settings = config.build(Selection, {"data": "replayed", "learning_rates": rates, "frozen": shares})
    return ranking.ranked(settings, [choice_of(line) for line in offered], known)[0]


def choice_of(line):
    """A line as a choice of `jnas select`."""
    one = candidates.Candidate(
        line["network"], "", line["source accuracy"], line["parameters"], line["flops"], None, ()
    )
    settings = FineTuning(frozen=line["frozen"], learning_rate=line["learning rate"])
    facts = {f"task: {name}": value for name, value in line["task facts"].items()}
    features = facts | {
        records.NAMES[0]: np.log10(line["parameters"]), records.NAMES[1]: np.log10(max(line["flops"] or 1, 1)),
        records.SOURCE: line["source accuracy"], records.CENTROID: line["nearest centroid"],
        records.LOGME: line["logme"], records.FROZEN: line["frozen"], records.RATE: np.log10(line["learning rate"]),
    }  # fmt: skip
    return ranking.Choice(one, settings, features, tuple(line["steps"]), float("nan"))


def records_of(line):
    """The records that a fine-tuning leaves, one a rung."""
    choice = choice_of(line)
    for rung, (score, _) in enumerate(zip(line["validation"], itertools.accumulate(line["seconds"]), strict=True)):
        yield {"task": line["task"], "features": choice.row(rung), "score": score, "model": line["network"]}


def table(found, repeats=2000):
    """Points lost with the interval over tasks, and the share of the time; markdown."""
    random = np.random.default_rng(0)
    rows = ["| rule | points lost, mean over tasks [95 %] | share of the time of trying all |", "|---|---|---|"]
    for rule, values in found.items():
        lost = values[..., 0].mean(1)
        again = lost[random.integers(0, len(lost), (repeats, len(lost)))].mean(1)
        low, high = np.percentile(again, [2.5, 97.5])
        rows.append(f"| {rule} | {lost.mean():.2f} [{low:.2f}, {high:.2f}] | {values[..., 1].mean():.3f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
