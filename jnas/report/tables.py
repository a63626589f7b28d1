"""Tables of trained networks and of whole runs: mean, standard deviation, number of seeds, parameters, cost."""

import html
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from jnas.files import own
from jnas.report.reading import Run, found_results, random_results

MISSING = "–"
# What is shown of a network that was trained: column -> (name in its result, scale, digits).
_MEASURED = {
    "test accuracy [%]": ("test_accuracy", 100, 2),
    "test loss": ("test_loss", 1, 3),
    "train accuracy [%]": ("train_accuracy", 100, 2),
    "parameters": ("parameters", 1, 0),
    "epochs": ("epochs", 1, 0),
    "time [s]": ("seconds", 1, 0),
}


class Summary(NamedTuple):
    """Mean and spread of some numbers."""

    mean: float
    std: float  # of the sample (n - 1); NaN for fewer than two numbers
    count: int


class Table(NamedTuple):
    """Cells of text, ready to be written in any form."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def summarise(values: Iterable[float]) -> Summary:
    """Return mean, sample standard deviation and count; use it for every number that comes from several seeds.

    Args:
      values: numbers; those that are not finite count as missing.

    Returns:
      The summary; the mean of nothing is NaN.

    >>> summarise([1.0, 3.0])
    Summary(mean=2.0, std=1.4142135623730951, count=2)
    """
    numbers = np.array([v for v in values if v is not None and np.isfinite(v)], dtype=float)
    mean = float(numbers.mean()) if numbers.size else float("nan")
    return Summary(mean, float(numbers.std(ddof=1)) if numbers.size > 1 else float("nan"), int(numbers.size))


def accuracies(results: Iterable[dict[str, Any]]) -> list[float]:
    """Return the test accuracies of some results, as fractions; results without one are left out."""
    values = [result.get("test_accuracy") for result in results]
    return [float(v) for v in values if isinstance(v, int | float) and np.isfinite(v)]


def trained_table(run: Run) -> Table:
    """List the networks that a run trained from scratch, the found one first, and the mean of the random ones.

    Args:
      run: from `read_run`; networks whose training is not finished are left out.

    Returns:
      The table; accuracies in per cent, cost in seconds.
    """
    random = random_results(run)
    rows = [_network(result, "found") for result in found_results(run)]
    rows += [_network(result, f"random {i + 1}") for i, result in enumerate(random)]
    if len(random) > 1:
        means = (
            MISSING if key == "epochs" else spread([r.get(key) for r in random], scale, digits)
            for key, scale, digits in _MEASURED.values()
        )
        rows.append((f"random, mean ± std (n = {len(random)})", *means, MISSING))
    columns = ("network", *_MEASURED, "seed")
    kept = [at for at in range(len(columns)) if not rows or any(row[at] != MISSING for row in rows)]
    pick = lambda row: tuple(row[at] for at in kept)
    return Table("Trained networks", pick(columns), tuple(map(pick, rows)))


def fact(run: Run, key: str) -> str:
    """Return one fact of a run as text, from its result or else its configuration: `fact(run, "space")`.

    Args:
      run: from `read_run`.
      key: such as `"method"`, `"space"`, `"seed"`, `"data"`.

    Returns:
      The value; where it is a mapping, its `name`; a dash where the run does not say.
    """
    value = run.result.get(key)
    if value is None:
        value = run.config.get(key)
    if isinstance(value, dict):
        value = value.get("name")
    return MISSING if value is None or value == "" else own.shown(str(value))


def as_text(table: Table) -> str:
    """Write a table for a terminal, columns of numbers aligned to the right."""
    rows = [table.columns, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    pads = [str.rjust if right else str.ljust for right in _numeric(table)]
    lines = ["  ".join(pad(cell, w) for pad, cell, w in zip(pads, row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([table.title, "", lines[0], "  ".join("-" * w for w in widths), *lines[1:]]) + "\n"


def as_markdown(table: Table) -> str:
    """Write a table in Markdown, to be pasted into an issue or a paper's draft."""
    rows = [table.columns, ("---",) * len(table.columns), *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows) + "\n"


def as_html(table: Table) -> str:
    """Write a table as an HTML element: every cell is escaped, columns of numbers are aligned to the right."""
    classes = [' class="number"' if right else "" for right in _numeric(table)]
    head = "".join(
        f'<th scope="col"{look}>{html.escape(column).replace(" [", "&nbsp;[")}</th>'
        for column, look in zip(table.columns, classes, strict=True)
    )
    body = ""
    for first, *rest in table.rows:
        cells = "".join(f"<td{look}>{html.escape(cell)}</td>" for cell, look in zip(rest, classes[1:], strict=True))
        body += f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>\n'
    title = html.escape(table.title)
    return (
        f'<div class="scroll"><table><caption>{title}</caption><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _numeric(table: Table) -> list[bool]:
    """Which columns hold numbers and dashes only; the first one names the row."""
    return [i > 0 and all(_is_number(row[i]) for row in table.rows) for i in range(len(table.columns))]


def _is_number(text: str) -> bool:
    return text == MISSING or text.lstrip("+−-")[:1].isdigit()


def _network(result: dict[str, Any], fallback: str) -> tuple[str, ...]:
    measured = (number(result.get(key), scale, digits) for key, scale, digits in _MEASURED.values())
    return str(result.get("name", fallback)), *measured, str(result.get("seed", MISSING))


def number(value: Any, scale: float, digits: int) -> str:
    """A number times a scale with so many digits behind the point, or a dash for what is none."""
    return f"{scale * value:,.{digits}f}" if isinstance(value, int | float) and np.isfinite(value) else MISSING


def significant(value: Any, scale: float = 1.0) -> str:
    """A number times a scale with three significant digits, without an exponent, or a dash for what is none."""
    if not isinstance(value, int | float):
        return MISSING
    digits = 2 - math.floor(math.log10(abs(scale * value))) if value else 0
    return f"{scale * value:,.{min(max(digits, 0), 9)}f}"


def spread(values: Iterable[Any], scale: float, digits: int) -> str:
    """Mean and standard deviation of some numbers as text; what is no number is left out."""
    summary = summarise(v for v in values if isinstance(v, int | float))
    mean = number(summary.mean, scale, digits)
    return mean if summary.count < 2 else f"{mean} ± {number(summary.std, scale, digits)}"


def halves(table: Table, named: int, cut: str, titles: tuple[str, str]) -> str:
    """A wide table as two in HTML, the second from a column on; the columns that name a row begin both."""
    at = table.columns.index(cut)
    parts = ((titles[0], slice(named, at)), (titles[1], slice(at, None)))
    pick = lambda row, kept: (*row[:named], *row[kept])
    return "".join(
        as_html(Table(title, pick(table.columns, kept), tuple(pick(row, kept) for row in table.rows)))
        for title, kept in parts
    )


def escaped(value: Any) -> str:
    """Return any value as text that cannot become markup."""
    return html.escape(str(value))


def cards(shown: Iterable[tuple[str, str]]) -> str:
    """Numbers in large type, each over what it is, as HTML; empty where there are none."""
    every = "".join(
        f'<div class="card"><b>{escaped(big)}</b><span>{escaped(small)}</span></div>' for big, small in shown
    )
    return f'<div class="cards">{every}</div>' if every else ""


def warning(text: Any) -> str:
    """A sentence that the reader should not miss, as HTML."""
    return f'<p class="note warn">{escaped(text)}</p>'
