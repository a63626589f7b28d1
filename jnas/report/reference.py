"""Where a found cell stands among cells that were trained in advance with exactly its settings and data."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jnas.report.plots import FIRST, QUIET, SECOND, Chart, axes_of, to_svg
from jnas.report.reading import Run, found_results, random_results
from jnas.report.tables import Table, accuracies, spread, summarise

CONVOLUTION = "nor_conv_3x3"
RANDOM = "random"  # the kind of a row that was drawn uniformly; the others are named by what they hold


def reference_cells(result: Mapping[str, Any], kind: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of the cells that were trained in advance, of one kind or all; none where there is no table."""
    known = result.get("reference")
    rows = known.get("cells", ()) if isinstance(known, dict) else ()
    return [row for row in rows if kind is None or row["kind"] == kind]


def reference_words(result: Mapping[str, Any]) -> str:
    """Say where the found cell stands among those cells: all that are random, those of its size, and the largest.

    Args:
      result: of a run, with `found` and perhaps `reference`.

    Returns:
      A sentence; empty where there is no table.
    """
    rows, found = reference_cells(result, RANDOM), result.get("found") or {}
    score = found.get("test_accuracy")
    if not rows or not isinstance(score, int | float):
        return ""
    reached = np.asarray(accuracies(rows))
    text = f"better than {int((reached < score).sum())} of {len(rows)} random cells (mean {_percent(reached.mean())})"
    size = str(found.get("genotype")).count(CONVOLUTION)
    alike = summarise(accuracies(row for row in reference_cells(result) if row["genotype"].count(CONVOLUTION) == size))
    if alike.count:
        text += f"; the {alike.count} with as many 3x3 convolutions, {size}, reach {_percent(alike.mean)} on average"
    most = max(row["parameters"] for row in reference_cells(result))
    largest = summarise(accuracies(row for row in reference_cells(result) if row["parameters"] == most))
    stricter = "; they were drawn without the operator none, which this search may derive: a stricter comparison"
    return (
        f"{text}; the largest cell reaches {_percent(largest.mean)} with {most:,} parameters, "
        f"the found one has {found.get('parameters', 0):,}"
        f"{stricter if 'none included' in str(result.get('derivation')) else ''}"
    )


def reference_chart(run: Run) -> Chart | None:
    """Draw accuracy against parameters: cells trained in advance as dots, the found cell and its random ones above.

    Args:
      run: from `read_run`.

    Returns:
      The chart; None where there is no table.
    """
    rows = reference_cells(run.result)
    if not rows:
        return None
    title = "Accuracy and size among cells trained alike"
    groups = (
        ("random", reference_cells(run.result, RANDOM), QUIET, "o", 26),
        ("drawn by size", [row for row in rows if row["kind"] != RANDOM], SECOND, "o", 26),
        ("random, this run", random_results(run), "black", "x", 44),
        ("found", found_results(run), FIRST, "D", 80),
    )
    with axes_of() as axes:
        for order, (label, of, colour, mark, size) in enumerate(groups):
            x, y = [row["parameters"] / 1000 for row in of], [100 * row["test_accuracy"] for row in of]
            axes.scatter(x, y, s=size, marker=mark, color=colour, label=label, zorder=2 + order)
        axes.set(title=title, xlabel="parameters [thousands]", ylabel="test accuracy [%]")
        axes.legend(loc="lower right")
        return Chart(title, f"{title}. {reference_words(run.result).capitalize()}.", to_svg(axes.figure))


def reference_table(run: Run) -> Table | None:
    """List the cells trained in advance by kind.

    Args:
      run: from `read_run`.

    Returns:
      The table; None where there is no table.
    """
    rows = reference_cells(run.result)
    if not rows:
        return None
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of = reference_cells(run.result, kind)
        reached, size = accuracies(of), np.mean([row["parameters"] for row in of])
        lines.append((kind, str(len(reached)), spread(reached, 100, 2), f"{size:,.0f}"))
    versions = ", ".join(f"{name} {number}" for name, number in run.result["reference"]["versions"].items())
    title = f"Cells trained in advance with these settings and data ({versions})"
    return Table(title, ("cells", "n", "test accuracy [%]", "parameters, mean"), tuple(lines))


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
