"""Whether a search helped, with an interval: of one run, and of several side by side."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jnas.report.reading import Run, found_results, random_results, read_run
from jnas.report.tables import MISSING, Table, accuracies, fact, spread, summarise


class Difference(NamedTuple):
    """Of two means, as fractions, with its 95 % interval."""

    gain: float
    low: float
    high: float

    @property
    def judged(self) -> str:
        """Which of the two is larger, as far as the interval tells."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "not told apart"


def difference(found: Sequence[float], random: Sequence[float]) -> Difference | None:
    r"""How much better the found cells are than random ones on average, with Welch's interval.

        m_f - m_r +- t_{0.975, \nu} \sqrt{v_f + v_r} ,   v = s^2 / n ,   \nu = (v_f + v_r)^2 / \sum v^2 / (n - 1)

    A single found cell has no spread of its own: that of the random cells is taken, and \nu = n_r - 1.

    Args:
      found: test accuracies.
      random: test accuracies.

    Returns:
      The difference; None without a found cell or with fewer than two random ones.

    >>> [round(value, 3) for value in difference([0.790, 0.777, 0.802], [0.781, 0.790, 0.773])]
    [0.008, -0.017, 0.034]

    Reference: B. L. Welch, "The generalization of Student's problem when several different population variances are
    involved", Biometrika 34, 1947.
    """
    from scipy.special import stdtrit

    ours, theirs = summarise(found), summarise(random)
    if not ours.count or theirs.count < 2:
        return None
    one, other = (ours if ours.count > 1 else theirs).std ** 2 / ours.count, theirs.std**2 / theirs.count
    freedom = theirs.count - 1.0
    if ours.count > 1 and one + other:
        freedom = (one + other) ** 2 / (one**2 / (ours.count - 1) + other**2 / (theirs.count - 1))
    half, gain = float(stdtrit(freedom, 0.975)) * math.sqrt(one + other), ours.mean - theirs.mean
    return Difference(gain, gain - half, gain + half)


def verdict(found: Sequence[dict[str, Any]], random: Sequence[dict[str, Any]]) -> str:
    """Say whether the search helped, and admit it where it did not, or where the run cannot tell.

    Args:
      found: results of all found cells, with `test_accuracy`, a fraction, and perhaps `parameters`.
      random: results of random cells trained in the same way.

    Returns:
      Some sentences.

    >>> verdict([{"test_accuracy": 0.70}], [{"test_accuracy": 0.71}, {"test_accuracy": 0.73}])
    'The found cell reaches 70.00 % against a mean of 72.00 % (std 1.41, n = 2) of random cells: −2.00 points,
    95 % interval −24.01 to +20.01. On this evidence the search cannot be told from drawing a cell at random.
    It is better than 0 of 2.'
    """
    ours, theirs = accuracies(found), accuracies(random)
    if not ours:
        return "No network of the found cell has been trained to the end, so its accuracy is not known."
    whose = f"The {len(ours)} found cells reach a mean of" if len(ours) > 1 else "The found cell reaches"
    head = f"{whose} {_mean(ours)}"
    if not theirs:
        return f"{head}. No random cell was trained beside it, so the run cannot say whether the search helped."
    told = difference(ours, theirs)
    if told is None:
        return (
            f"{head}, the one random cell {_mean(theirs)}. One random cell is too few to say whether the search helped."
        )
    words = {
        "better": "The search does better than drawing a cell at random."
        + (" It comes from one training; other seeds may differ." if len(ours) == 1 else ""),
        "worse": "The search does worse than drawing a cell at random.",
        "not told apart": "On this evidence the search cannot be told from drawing a cell at random.",
    }[told.judged]
    sizes = [spread([one.get("parameters") for one in of], 1, 0) for of in (found, random)]
    sizes = f" Parameters: found {sizes[0]}, random {sizes[1]}." if "–" not in sizes else ""
    beaten = f" It is better than {sum(x < ours[0] for x in theirs)} of {len(theirs)}." if len(ours) == 1 else ""
    return f"{head} against a mean of {_mean(theirs)} of random cells: {interval(told)}. {words}{beaten}{sizes}"


def interval(told: Difference) -> str:
    """A difference in points with its interval, such as `+0.83 points, 95 % interval −1.70 to +3.37`."""
    gain, low, high = (f"{100 * value:+.2f}".replace("-", "−") for value in told)
    return f"{gain} points, 95 % interval {low} to {high}"


def compare(run_folders: Sequence[str | Path]) -> Table:
    """Compare runs: one row for each combination of method, space, data set and rule of derivation, over its seeds.

    The random cells of a row's runs are pooled. A run without a result is counted as unfinished and enters no mean.
    Each seed counts once, also where several found the same cell, which is trained once for all of them. Every row on
    the same space and data as the first one is compared with that one, by `difference`.

    Args:
      run_folders: the folders of the runs.

    Returns:
      The table; accuracies in per cent, search cost in seconds.

    Raises:
      UserError: if one of them is no run folder.
    """
    groups: dict[tuple[str, ...], list[Run]] = {}
    for folder in dict.fromkeys(Path(folder).resolve() for folder in run_folders):  # each once
        run = read_run(folder)
        groups.setdefault(tuple(fact(run, key) for key in ("method", "space", "data", "derivation")), []).append(run)
    rows = [_compared(key, runs) for key, runs in groups.items()]
    pairs = list(groups.items())
    for row, (key, runs) in zip(rows, pairs, strict=True) if len(rows) > 1 else ():
        beside = runs is not pairs[0][1] and key[1:3] == pairs[0][0][1:3]
        told = difference(_each_seed(runs), _each_seed(pairs[0][1])) if beside else None
        row["found − found of the first row"] = f"{interval(told)}: {told.judged}" if told else MISSING
    columns = tuple(rows[0]) if rows else ()
    return Table("Comparison of runs (mean ± std over seeds)", columns, tuple(tuple(row.values()) for row in rows))


def _compared(key: tuple[str, ...], runs: Sequence[Run]) -> dict[str, str]:
    method, space, data, derivation = key
    done = [run for run in runs if run.result]
    found, seeds = [result for run in done for result in found_results(run)], _each_seed(done)
    random = accuracies(result for run in done for result in random_results(run))
    told = difference(seeds, random)
    gain = f"{interval(told)}: {told.judged}" if told else MISSING
    return {
        "method": method,
        "space": space,
        "data": data,
        "seeds": str(sum(len(run.result.get("runs") or "1") for run in done)),
        "found cells, test accuracy [%]": _counted(seeds),
        "random cells, test accuracy [%]": _counted(random),
        "found − random": gain,
        "parameters": spread([r.get("parameters") for r in found], 1, 0),
        "cost [s]": spread([run.result.get("seconds") for run in done], 1, 0),
        "derivation": derivation,
        "unfinished": str(len(runs) - len(done)),
    }


def _each_seed(runs: Sequence[Run]) -> list[float]:
    """The test accuracy of each seed's cell."""
    return accuracies(row for run in runs for row in run.result.get("runs") or found_results(run))


def _counted(values: Sequence[float]) -> str:
    return spread(values, 100, 2) + (f" (n = {len(values)})" if len(values) > 1 else "")


def _mean(values: Sequence[float]) -> str:
    mean, std, count = summarise(values)
    return f"{100 * mean:.2f} %" + (f" (std {100 * std:.2f}, n = {count})" if count > 1 else "")
