"""The trials of a search: how the best score rose, the front of several objectives, and the trials in a table."""

from pathlib import Path
from typing import Any

import numpy as np

from jnas.files.reading import lines_of
from jnas.files.schemas import Evaluated
from jnas.report.plots import FIRST, INK, QUIET, SECOND, Chart, axes_of, to_svg
from jnas.report.tables import Table

TRIALS = Path("search") / "trials.jsonl"  # in the run folder
MOST_ROWS = 20


def read_trials(folder: Path) -> list[dict[str, Any]]:
    """The lines of `search/trials.jsonl`; none where the run has no such file, and without those that are damaged."""
    return lines_of(folder / TRIALS, Evaluated)[0]


def trial_charts(trials: list[dict[str, Any]], names: list[str], *, halved: bool = False) -> list[Chart]:
    """The charts of the trials.

    Args:
      trials: from `read_trials`.
      names: of the scores; the first is maximised and the others are minimised.
      halved: whether they have budgets, of which scores are compared with one another only.

    Returns:
      The best score so far; with several scores a chart of the first against each other one.
    """
    done = [row for row in trials if row["scores"]]
    if not done:
        return []
    scores = np.array([row["scores"] for row in done])
    best = best_chart(scores[:, 0], np.array([_epochs(row, halved) for row in done]))
    return [best, *(front_chart(scores[:, [0, n]], names[n]) for n in range(1, scores.shape[1]))]


def best_chart(scores: np.ndarray, epochs: np.ndarray) -> Chart:
    """Draw the score of every trial, and the best so far of those trained for longest.

    Args:
      scores: [n] in the order of the trials, larger is better.
      epochs: [n] of their training; 0: they have no budgets.
    """
    title, last = "Score of the trials", epochs == epochs.max()
    of, first = f" after {epochs.max():.0f} epochs" if epochs.max() else "", int(last.argmax())
    with axes_of() as axes:
        at, longest = np.arange(1, len(scores) + 1), np.where(last, scores, -np.inf)
        axes.plot(at, scores, "o", color=QUIET, markersize=3.5, label="a trial")
        if of:
            axes.plot(at[last], scores[last], "o", color=FIRST, markersize=3.5, label=f"a trial{of}")
        best = np.maximum.accumulate(longest)[first:]
        axes.step(at[first:], best, where="post", color=FIRST, linewidth=1.8, label=f"best so far{of}")
        axes.set(title=title, xlabel="complete trials", ylabel="score")
        axes.locator_params(axis="x", integer=True)
        axes.legend(loc="best")
        number = int(longest.argmax()) + 1
        alt = f"Score of {len(scores)} trials; the best{of}, {longest.max():.4g}, is number {number}."
        return Chart(title, alt, to_svg(axes.figure))


def front_chart(points: np.ndarray, name: str) -> Chart:
    """Draw the score against a cost, and which trials no other one beats in both.

    Args:
      points: [n, 2], the score, larger is better, and the cost, smaller is better.
      name: of the cost.
    """
    better = points * [[1, -1]]
    beaten = np.array([((better >= point).all(-1) & (better > point).any(-1)).any() for point in better])
    front = points[~beaten][np.argsort(points[~beaten][:, 1], kind="stable")]
    title = f"Score against {name}"
    with axes_of() as axes:
        axes.plot(points[beaten, 1], points[beaten, 0], "o", color=QUIET, markersize=3.5, label="a trial")
        axes.plot(front[:, 1], front[:, 0], "D-", color=SECOND, markersize=4.5, linewidth=1.2, label="front")
        axes.set(title=title, xlabel=name, ylabel="score")
        axes.legend(loc="best", labelcolor=INK)
        alt = f"Score of {len(points)} trials against {name}; {len(front)} of them are beaten in both by none."
        return Chart(title, alt, to_svg(axes.figure))


def trial_table(trials: list[dict[str, Any]], names: list[str], *, halved: bool = False) -> Table | None:
    """The best trials, those trained for longest first, and what the failed ones said.

    Args:
      trials: from `read_trials`.
      names: of the scores.
      halved: whether they have budgets.

    Returns:
      The table; None without trials.
    """
    done = [row for row in trials if row["scores"]]
    done.sort(key=lambda row: (-_epochs(row, halved), -row["scores"][0]))
    failed = [row for row in trials if not row["scores"]]
    if not done and not failed:
        return None
    budget = lambda row: (f"{_epochs(row, halved):.0f}",) * halved
    rows = [
        (str(row["trial"]), *budget(row), *(f"{score:.4g}" for score in row["scores"]), _seconds(row),
         row.get("architecture", "–"))
        for row in done[:MOST_ROWS]
    ]  # fmt: skip
    empty = ("–",) * (len(names) + halved)
    rows += [
        (str(row["trial"]), *empty, _seconds(row), f"failed: {row.get('error', '')}") for row in failed[:MOST_ROWS]
    ]
    shown = f"; the best {MOST_ROWS} are shown" if len(done) > MOST_ROWS else ""
    title = f"{len(done)} complete trials, {len(failed)} failed{shown}"
    return Table(title, ("trial", *("epochs",) * halved, *names, "seconds", "architecture"), tuple(rows))


def _epochs(row: dict[str, Any], halved: bool) -> float:
    """The epochs of a trial's budget; 0 where there are no budgets, or a file of somebody else's says none."""
    epochs = row.get("metrics", {}).get("epochs") if halved else None
    return float(epochs) if isinstance(epochs, int) else 0.0


def _seconds(row: dict[str, Any]) -> str:
    return f"{row.get('seconds', float('nan')):.1f}"
