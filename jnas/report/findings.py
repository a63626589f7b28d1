"""What makes the result of a run doubtful: findings at the head of its page, with the numbers that they rest on."""

from typing import Any

import numpy as np

from jnas.report.reading import Run, found_results, random_results, series
from jnas.report.tables import accuracies
from jnas.report.trajectories import mixtures
from jnas.spaces.cell import NONE, CellSpace

CHANCE, UNDERTRAINED = 0.05, 0.5  # of the way from guessing to no error; below it is the finding of that name
LEAD = 1.1  # times the next operator's weight that the kept one has at least: below it an edge is undecided


def findings(run: Run, space: CellSpace | None, fixed: CellSpace | None) -> list[str]:
    """Find a supernet or networks at chance level, undertrained networks and undecided edges.

    Args:
      run: from `read_run`.
      space: that was searched, as far as it is known.
      fixed: the found cell.

    Returns:
      Sentences.
    """
    return [*_supernet(run), *_networks(run), *_undecided(run, space, fixed)]


def is_undertrained(run: Run) -> bool:
    """Whether the networks of a run fit their own training images so little that differences between them say little.

    Args:
      run: from `read_run`.

    Returns:
      True where their mean training accuracy is less than half way from guessing to no error.
    """
    trained, (chance, _) = _fitted(run), guessing(run.result.get("data"))
    return chance < 1 and bool(trained) and _skill(float(np.mean(trained)), chance) < UNDERTRAINED


def guessing(data: Any) -> tuple[float, str]:
    """What a classifier reaches that never looks at an image.

    Args:
      data: what the result of a run says about it.

    Returns:
      The share of the largest class of the test images, or of a run that does not say it one in so many classes (1:
      nothing can be learned, or it is not known), and the words for it.
    """
    facts = data if isinstance(data, dict) else {}
    classes, largest = facts.get("num_classes"), facts.get("largest_class")
    chance = 1 / classes if isinstance(classes, int) and classes > 1 else 1.0
    if isinstance(largest, int | float) and chance <= largest <= 1:
        return largest, f"always saying the largest class has {100 * largest:.1f} %"
    return chance, f"guessing has {100 * chance:.1f} %"


def _skill(accuracy: float, chance: float) -> float:
    return (accuracy - chance) / (1 - chance)


def _fitted(run: Run) -> list[float]:
    every = (one.get("train_accuracy") for one in (*found_results(run), *random_results(run)))
    return [float(value) for value in every if isinstance(value, int | float)]


def _supernet(run: Run) -> list[str]:
    seen = [series(run.search, name)[1] for name in ("outer_accuracy", "accuracy")]
    values = next((values for values in seen if len(values)), np.empty(0))
    reached = float(np.mean(values[-max(1, len(values) // 10) :])) if len(values) else 1.0
    chance, guess = guessing(run.result.get("data"))
    if chance == 1 or _skill(reached, chance) >= CHANCE:
        return []
    return [
        f"The supernet is at chance level: {100 * reached:.1f} % over the last tenth of its steps, where {guess}. Its "
        "mixtures say little about the operators."
    ]


def _networks(run: Run) -> list[str]:
    every, (chance, guess) = [*found_results(run), *random_results(run)], guessing(run.result.get("data"))
    tested = accuracies(every)
    if chance < 1 and tested and _skill(max(tested), chance) < CHANCE:
        return [f"The trained networks are at chance level: at most {100 * max(tested):.1f} %, where {guess}."]
    if not is_undertrained(run):
        return []
    return [
        f"The trained networks are undertrained: {100 * float(np.mean(_fitted(run))):.1f} % of their own training "
        f"images on average, after {every[0].get('epochs', '–')} epochs. Differences between them say little."
    ]


def _undecided(run: Run, space: CellSpace | None, fixed: CellSpace | None) -> list[str]:
    """Of the mixtures from which the cell was derived."""
    rows = [row for row in run.genotypes if not run.result or row.get("genotype") == run.result.get("genotype")][-1:]
    if space is None or fixed is None or run.config.get("selection") == "perturbation" or not rows:
        return []
    never = () if run.config.get("without_none") is False else (NONE,)
    close, count, (_, weights) = [], 0, mixtures(space, rows)
    for cell in space.cells:
        for row, (edge, kept) in enumerate(zip(space.edges(cell), fixed.edges(cell), strict=True)):
            weight = {op: float(weights[cell][-1, row, space.ops.index(op)]) for op in edge.ops if len(weights[cell])}
            rivals = [op for op in weight if op not in (*never, *kept.ops)]
            if kept.ops and rivals:
                count, own, rival = count + 1, kept.ops[0], max(rivals, key=weight.__getitem__)
                if weight[own] < LEAD * weight[rival]:
                    words = f"{own} {weight[own]:.3f} against {rival} {weight[rival]:.3f}"
                    close.append((weight[own] / weight[rival], f"edge {edge.source} to {edge.target}, {words}"))
    if not close:
        return []
    edges = f"{len(close)} of {count} edges are undecided" if len(close) > 1 else f"1 of {count} edges is undecided"
    return [f"{edges}: the kept operator leads the next by less than a tenth. The closest: {min(close)[1]}."]
