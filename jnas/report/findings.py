"""What a run found, in words: the verdict against random cells, and times and counts as a person reads them."""

from collections.abc import Sequence

import numpy as np

from jnas.report.tables import summarise


def verdict(found: Sequence[float], random: Sequence[float]) -> str:
    """Say whether the search helped, and admit it where it did not, or where the run cannot tell.

    Args:
      found: test accuracies of the found cell, as fractions.
      random: test accuracies of random cells trained in the same way, as fractions.

    Returns:
      One or two sentences.

    >>> verdict([0.70], [0.71, 0.73])
    'The found cell does not beat the random cells: 70.00 % against a mean of 72.00 % (std 1.41, n = 2).
    On this evidence the search gained nothing over drawing a cell at random.'
    """
    if not found:
        return "No network of the found cell has been trained to the end, so its accuracy is not known."
    ours, theirs = summarise(found), summarise(random)
    score = f"{100 * ours.mean:.2f} %" + (f" (mean of {ours.count})" if ours.count > 1 else "")
    if not random:
        return (
            f"The found cell reaches {score}. "
            "No random cell was trained beside it, so the run cannot say whether the search helped."
        )
    if theirs.count == 1:
        return (
            f"The found cell reaches {score}, the one random cell {100 * theirs.mean:.2f} %. "
            "One random cell is too few to say whether the search helped."
        )
    against = f"a mean of {100 * theirs.mean:.2f} % (std {100 * theirs.std:.2f}, n = {theirs.count})"
    gain = ours.mean - theirs.mean
    if gain <= 0:
        return (
            f"The found cell does not beat the random cells: {score} against {against}. "
            "On this evidence the search gained nothing over drawing a cell at random."
        )
    beaten = int(np.sum(np.asarray(random) < ours.mean))
    text = (
        f"The found cell reaches {score} against {against} of the random cells: {100 * gain:.2f} points more, "
        f"better than {beaten} of {theirs.count}."
    )
    if gain <= theirs.std:
        return text + " The difference is within one standard deviation of the random cells and may be chance."
    return text + (" It comes from one training; other seeds may differ." if ours.count == 1 else "")


def duration(seconds: float) -> str:
    """Write a time as a person reads it.

    Args:
      seconds: not negative.

    Returns:
      Two units at most.

    >>> [duration(s) for s in (4.21, 95, 7300, 200_000)]
    ['4.2 s', '1 min 35 s', '2 h 1 min', '2 d 7 h']
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {small_unit}"
    return f"{whole} s"


def count(number: float) -> str:
    """Write a number of parameters in three digits.

    >>> [count(n) for n in (987, 45_300, 3_349_342)]
    ['987', '45.3 k', '3.35 M']
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"
