"""The page of a selection: what was on offer, what was predicted, what fine-tuning came to, and why it ended."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from jnas.report.plots import FIRST, SECOND, Chart, axes_of, figures, to_svg
from jnas.report.reading import Run
from jnas.report.tables import Table, as_html


def selection_section(run: Run) -> str:
    """The section of a run that chose among the networks of a zoo; empty for any other run.

    Args:
      run: from `read_run`.

    Returns:
      HTML.
    """
    if (found := run.result.get("selection")) is None:
        return ""
    trials = found.get("trials", [])
    charts = (front_chart(found.get("candidates", []), trials), rung_chart(trials), predicted_chart(trials))
    tables = [as_html(trial_table(trials)), as_html(ranking_table(found.get("ranking", [])))]
    said = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in ending(found))
    return "\n".join([figures(charts), said, *tables, carried_by(found)])


def words(found: dict[str, Any]) -> list[str]:
    """What was chosen among how many, in a sentence."""
    trials = found.get("trials", [])
    if not trials:
        return []
    last = last_of_each(trials)
    chosen = [trial for trial in last if "chosen" in found and trial.get("name") == found["chosen"]]
    best = max(chosen or last, key=lambda trial: trial["test_accuracy"])
    among, tried = len(found.get("candidates", [])), len({trial.get("model") for trial in trials})
    return [
        f"Networks within the limits: {among}; fine-tuned: {tried}, in {len(trials)} steps. Chosen was "
        f"{best.get('model')}, with {100 * best['test_accuracy']:.2f} % of the validation images."
    ]


def last_of_each(trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each candidate the step to its last rung, whose weights are kept; older runs have one step each."""
    return list({trial.get("name", at): trial for at, trial in enumerate(trials)}.values())


def ending(found: dict[str, Any]) -> list[str]:
    """Why a selection ended, how far it is from its target, and what would have come next at which cost; sentences."""
    said = []
    target, trials = found.get("target"), found.get("trials", [])
    if target is not None and trials:
        best = max(trial["test_accuracy"] for trial in last_of_each(trials))
        reached = "is reached" if best >= target else f"is missed by {100 * (target - best):.2f} points"
        said.append(f"The target, {100 * target:g} % of the validation images, {reached}: {100 * best:.2f} %.")
    spent = sum(trial.get("predicted", {}).get("seconds") or 0.0 for trial in trials)
    if "stopped" in found:
        cost = f" after {spent:.1f} s of fine-tuning as measured steps predict them" if spent else ""
        said.append(f"It ended{cost}: {found['stopped']}.")
    if (after := found.get("next")) is not None:
        cost = f", {after['seconds']:.1f} s" if after.get("seconds") is not None else ""
        said.append(
            f"Next would come {after.get('model')}, up to epoch {after.get('epochs')}{cost}: {after.get('why')}."
        )
    return said


def front(cost: Sequence[float], score: Sequence[float]) -> list[int]:
    """The members of the front: nothing is both cheaper and better; in the order of cost.

    >>> front([3.0, 1.0, 2.0], [0.7, 0.5, 0.4])
    [1, 0]
    """
    kept, best = [], -np.inf
    for at in sorted(range(len(cost)), key=lambda i: (cost[i], -score[i])):
        if score[at] > best:
            kept.append(at)
            best = score[at]
    return kept


def front_chart(candidates: Sequence[dict[str, Any]], trials: Sequence[dict[str, Any]]) -> Chart | None:
    """Accuracy at the source against parameters, the front drawn, what was tried marked.

    Args:
      candidates: with `model`, `accuracy` and `parameters`.
      trials: with `model`.

    Returns:
      The chart; None where nothing is known.
    """
    known = [c for c in candidates if c.get("accuracy") is not None and c.get("parameters")]
    if not known:
        return None
    cost, score = [float(c["parameters"]) for c in known], [100 * float(c["accuracy"]) for c in known]
    line = front(cost, score)
    tried = {trial.get("model") for trial in trials}
    marked = [at for at, c in enumerate(known) if c["model"] in tried]
    title = "Networks within the limits"
    with axes_of() as axes:
        axes.plot([cost[i] for i in line], [score[i] for i in line], color=FIRST, linewidth=1.2, label="front")
        axes.scatter(cost, score, s=18, color=FIRST)
        axes.scatter(
            [cost[i] for i in marked], [score[i] for i in marked], s=60, facecolors="none", edgecolors=SECOND,
            linewidths=1.6, label="fine-tuned",
        )  # fmt: skip
        axes.set(title=title, xlabel="parameters", ylabel="accuracy at the source [%]", xscale="log")
        axes.legend(loc="best")
        names = ", ".join(str(known[i]["model"]) for i in line)
        alt = f"{len(known)} networks by parameters and accuracy on what they were trained on. Front: {names}."
        return Chart(title, alt, to_svg(axes.figure))


def rung_chart(trials: Sequence[dict[str, Any]]) -> Chart | None:
    """The validation accuracy of every candidate at the end of its rungs; None where there was one rung.

    Args:
      trials: with `name`, `model`, `epochs` and `test_accuracy`.

    Returns:
      The chart.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    for trial in trials:
        if "name" in trial and "epochs" in trial:
            curves.setdefault(trial["name"], []).append((trial["epochs"], 100 * trial["test_accuracy"]))
    if max(map(len, curves.values()), default=0) < 2:
        return None
    longest = max(curves.values(), key=lambda curve: curve[-1])
    title = "Accuracy at the end of each rung"
    with axes_of() as axes:
        for curve in curves.values():
            axes.plot(*zip(*curve, strict=True), color=SECOND if curve is longest else FIRST, marker="o", markersize=4)
        axes.set(title=title, xlabel="epochs of fine-tuning", ylabel="validation accuracy [%]", xscale="log")
        alt = f"{len(curves)} candidates; the longest fine-tuning ends at {longest[-1][1]:.1f} %."
        return Chart(title, alt, to_svg(axes.figure))


def predicted_chart(trials: Sequence[dict[str, Any]]) -> Chart | None:
    """Measured against predicted accuracy of the trials, with the 90 % intervals; None where nothing was predicted.

    Args:
      trials: with `test_accuracy` and `predicted`, see `ranking_table`.

    Returns:
      The chart.
    """
    known = [trial for trial in trials if "mean" in trial.get("predicted", {})]
    if not known:
        return None
    said = [trial["predicted"] for trial in known]
    measured = np.array([100 * trial["test_accuracy"] for trial in known])
    mean, low, high = (100 * np.array([one[key] for one in said]) for key in ("mean", "low", "high"))
    title = "Predicted against measured"
    with axes_of() as axes:
        axes.errorbar(mean, measured, xerr=[mean - low, high - mean], fmt="o", color=FIRST, capsize=2)
        ends = [min(mean.min(), measured.min()), max(mean.max(), measured.max())]
        axes.plot(ends, ends, color=SECOND, linewidth=1, label="equal")
        axes.set(title=title, xlabel="predicted accuracy [%], 90 % interval", ylabel="measured accuracy [%]")
        axes.legend(loc="best")
        inside = int(np.sum((measured >= low) & (measured <= high)))
        alt = f"{inside} of {len(known)} measured accuracies lie in their 90 % interval."
        return Chart(title, alt, to_svg(axes.figure))


def trial_table(trials: Sequence[dict[str, Any]]) -> Table:
    """What was fine-tuned, in its order, to the end of which rung and why, with the predicted and measured accuracy."""
    rows = []
    for trial in trials:
        said = trial.get("predicted", {})
        seconds = said.get("seconds")
        rows.append((
            str(trial.get("model")), *_setting(said), _interval(said), f"{100 * trial['test_accuracy']:.2f}",
            "–" if seconds is None else f"{seconds:.1f}", f"{trial.get('seconds', float('nan')):.1f}",
            str(trial.get("why", "–")),
        ))  # fmt: skip
    columns = (
        "network", "frozen", "learning rate", "epochs", "predicted [%]", "validation accuracy [%]",
        "time, from a measured step [s]", "time with compilation [s]", "why",
    )  # fmt: skip
    return Table("Fine-tuned", columns, tuple(rows))


def ranking_table(ranking: Sequence[dict[str, Any]]) -> Table:
    """The first candidates at the start, with what was predicted of them and why they stand there.

    Args:
      ranking: with `model`, `frozen`, `learning rate`, `epochs`, `reasons`, and where it was predicted `mean`, `low`
        and `high` in [0, 1].

    Returns:
      The table.
    """
    rows = tuple(
        (str(line.get("model")), *_setting(line), _interval(line), str(line.get("reasons", ""))) for line in ranking
    )
    return Table("First candidates", ("network", "frozen", "learning rate", "epochs", "predicted [%]", "why"), rows)


def carried_by(found: dict[str, Any]) -> str:
    """What the predictor rests on: its error on tasks left out, and by how much each feature raises it when shuffled.

    Args:
      found: the selection; under `carried by` what `ranking.carrying` returned, under `records` how many there are now
        and how many a prediction takes.

    Returns:
      HTML: a table, or a sentence where there were too few records; empty for a run of an older version.
    """
    if (carried := found.get("carried by")) is None:
        if "records" not in found:
            return ""
        have, least = found["records"]
        why = f"a prediction takes {least} of two tasks" if have < least else "all are of one task"
        known = "1 record of a fine-tuning is" if have == 1 else f"{have} records of fine-tunings are"
        return f"<p>{known} known now; {why}, so no feature carries one yet.</p>"
    rows = [("none", f"{100 * carried['error']:.2f}", "–")]
    rows += [
        (str(one["name"]), f"{100 * (carried['error'] + one['rise']):.2f}",
         f"{100 * one['rise']:+.2f} ± {100 * one['spread']:.2f}")
        for one in carried["features"]
    ]  # fmt: skip
    title = (
        f"What the prediction rests on: {carried['predictor']}, {carried['records']} records of {carried['tasks']} "
        f"tasks, tasks left out; the mean score of the others errs by {100 * carried['guess']:.2f}"
        + (f"; {100 * carried['coverage']:.0f} % lie in their 90 % interval" if "coverage" in carried else "")
    )
    return as_html(Table(title, ("shuffled feature", "error [% of the images]", "rise"), tuple(rows)))


def _setting(line: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{line[key]:g}" if key in line else "–" for key in ("frozen", "learning rate", "epochs"))


def _interval(line: dict[str, Any]) -> str:
    if "mean" not in line:
        return "–"
    return f"{100 * line['mean']:.1f} ({100 * line['low']:.1f} to {100 * line['high']:.1f})"
