"""One self-contained HTML page of a run: no script, no request to anywhere, fit to be mailed, archived and printed."""

import importlib.resources
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jnas import spaces
from jnas.errors import Interrupted
from jnas.files import atomic_write, stop_on_signal
from jnas.report.agreement import agreement_words, runs_table
from jnas.report.at_work import at_work_section
from jnas.report.charts import accuracy_chart, search_charts, training_charts
from jnas.report.drawing import draw_cell
from jnas.report.groups import group_charts
from jnas.report.next_steps import KINDS, name_of_kind, next_section
from jnas.report.plots import as_picture, figures
from jnas.report.quantised import quantised_section
from jnas.report.reading import Run, random_results, read_run
from jnas.report.reference import reference_chart, reference_table
from jnas.report.selection import selection_section
from jnas.report.space_search import chain_chart, level_charts, read_levels, space_table, words
from jnas.report.summary import Found, found_cell, summary
from jnas.report.tables import Table, as_html, escaped, fact, trained_table, warning
from jnas.report.trajectories import mixtures, trajectory_chart
from jnas.report.trials import read_trials, trial_charts, trial_table
from jnas.spaces import CellSpace, grouped, networks


def write_report(folder: str | Path, *, space: networks.NetworkSpace | None = None) -> Path:
    """Write `report.html` into a run folder, from whatever the folder holds by now.

    Args:
      folder: the run folder; the run may still be under way, and the page can be written again at any time.
      space: of the run, if its name alone does not say what it is.

    Returns:
      The path of the page. A reader never sees half a page: it is written beside its place and then moved there.

    Raises:
      UserError: if the folder is no run folder, or cannot be written to.
      Interrupted: after a signal, when the page is written.
    """
    with stop_on_signal() as stop:
        run = read_run(folder)
        path = run.folder / "report.html"
        atomic_write(path, render(run, space=space))
    if stop.signal:
        raise Interrupted(f"stopped by {stop.signal}: {path} is written, and the same command shows it")
    return path


def sketch(folder: str | Path, *, space: networks.NetworkSpace | None = None) -> str:
    """What a notebook shows of a run: its cell or chain, and the curves of its search or of its training.

    Args:
      folder: the run folder.
      space: see `write_report`.

    Returns:
      A part of an HTML document.
    """
    run = read_run(folder)
    found = found_cell(run, space)
    draw = lambda: figures([chain_chart(found.genotype), *(search_charts(run.search) or training_charts(run))[:2]])
    return _drawn(lambda: _cells(found)) + _drawn(draw)


def render(run: Run, *, space: networks.NetworkSpace | None = None) -> str:
    """Return the page of a run as HTML text; the same run gives the same text.

    Args:
      run: from `read_run`.
      space: see `write_report`.

    Returns:
      A whole document.
    """
    found = found_cell(run, space)
    parts: list[tuple[str, str, Callable[[], str]]] = [
        ("summary", "Summary", lambda: summary(run, found)),
        ("next", "What next", lambda: next_section(run)),
        ("at_work", "At work", lambda: at_work_section(run.folder)),
        ("cells", _heading(run, found), lambda: _cells(found)),
        ("chain", "Network", lambda: figures([chain_chart(found.genotype)])),
        ("spaces", "Spaces", lambda: _spaces(run)),
        ("runs", "Runs", lambda: _runs(run)),
        ("trials", "Trials", lambda: _trials(run)),
        ("groups", "Groups of operators", lambda: figures(group_charts(run.groups))),
        ("quantised", "Quantised networks", lambda: quantised_section(run)),
        ("selection", "Selection", lambda: selection_section(run)),
        ("networks", "Trained networks", lambda: _networks(run)),
        ("search", "Search", lambda: figures(search_charts(run.search))),
        ("mixtures", "Mixtures", lambda: _mixtures(found.space, run.genotypes, found.fixed)),
        ("stage_one", "Stage 1: the group on every edge", lambda: _stage_one(run, found)),
        ("details", "Details", lambda: _details(run)),
    ]
    started = run.environment.get("started")
    written = f"Written by jnas {run.environment.get('jnas', '')}".strip()
    return document(
        parts,
        title=f"{KINDS[name_of_kind(run)].title} on {fact(run, 'data')}",
        subtitle=f"Space {fact(run, 'space')}, seed {fact(run, 'seed')}" + (f", started {started}" if started else ""),
        footer=f"{written} from run folder {run.folder.name}.",
    )


def document(parts: Sequence[tuple[str, str, Callable[[], str]]], **texts: str) -> str:
    """A whole page.

    Args:
      parts: name, heading and what draws each part; one that is empty is left out.
      **texts: title, subtitle and footer.

    Returns:
      The page.
    """
    sections = [(name, escaped(heading), body) for name, heading, draw in parts if (body := _drawn(draw))]
    template = importlib.resources.files("jnas.report").joinpath("page.html").read_text(encoding="utf-8")
    return string.Template(template).substitute(
        {name: escaped(text) for name, text in texts.items()},
        links="".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in sections),
        main="\n".join(
            f'<section id="{name}" aria-label="{heading}">\n<h2>{heading}</h2>\n{body}\n</section>'
            for name, heading, body in sections
        ),
    )


def _drawn(draw: Callable[[], str]) -> str:
    """A part of the page; of files that were edited until they contradict themselves, the reason that it is missing."""
    try:
        return draw()
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        why = f"{type(error).__name__}: {str(error)[:200]}"
        return warning(f"Files of this part could not be read, and it is left out ({why}).")


def _heading(run: Run, found: Found) -> str:
    plural = "s" * (found.fixed is not None and len(found.fixed.cells) > 1)
    return f"{'Found cell' if KINDS[name_of_kind(run)].network.startswith('found') else 'Cell'}{plural}"


def _cells(found: Found) -> str:
    if found.fixed is None:
        return ""
    inputs = "Input 0" if found.fixed.num_inputs == 1 else "Inputs 0 and 1"
    caption = f"{inputs} of the genotype at the left, the output at the right; every arrow carries its operator."
    parts = []
    for cell in found.fixed.cells:
        if len(found.fixed.cells) > 1:
            parts.append(f"<h3>{escaped(cell.capitalize())}</h3>")
        drawing = draw_cell(found.fixed, cell)
        parts.append(f'<figure class="cell">{drawing}<figcaption>{caption}</figcaption></figure>')
    return "\n".join(parts)


def _runs(run: Run) -> str:
    table = runs_table(run)
    if table is None:
        return ""
    words = agreement_words(run.result)
    note = "Curves and mixtures on this page are those of the run whose cell was kept."
    return "".join(f"<p>{escaped(text)}</p>" for text in (words, note) if text) + as_html(table)


def _spaces(run: Run) -> str:
    levels = read_levels(run.folder)
    table = space_table(levels)
    said = "".join(f"<p>{escaped(text)}</p>" for text in words(levels))
    return said + figures(level_charts(levels)) + (as_html(table) if table is not None else "")


def _trials(run: Run) -> str:
    trials = read_trials(run.folder)
    beside = run.config.get("beside")
    names = ["score", *map(str, beside if isinstance(beside, list) else [])]
    halved = run.config.get("rungs", 1) != 1 and not run.config.get("beside")
    table = trial_table(trials, names, halved=halved)
    return figures(trial_charts(trials, names, halved=halved)) + as_html(table) if table is not None else ""


def _networks(run: Run) -> str:
    table, known = trained_table(run), reference_table(run)
    charts = (accuracy_chart(run), reference_chart(run), *training_charts(run))
    tables = [as_html(table)] if table.rows else []
    return "\n".join(part for part in (figures(charts), *tables, as_html(known) if known else "") if part)


def _mixtures(space: CellSpace | None, genotypes: list[dict[str, Any]], fixed: CellSpace | None) -> str:
    if space is None:
        return ""
    epochs, weights = mixtures(space, genotypes)
    if not len(epochs):
        return ""
    charts = [trajectory_chart(space, cell, epochs, weights[cell], fixed) for cell in space.cells]
    intro = (
        "Rows are target nodes, columns are sources; the operator that an edge keeps in the found cell is drawn bold."
    )
    return f"<p>{intro}</p>" + "".join(f'<div class="wide">{as_picture(chart)}</div>' for chart in charts)


def _stage_one(run: Run, found: Found) -> str:
    """What the first of two stages over groups did, each group by its first operator."""
    (metrics, rows), members = run.stage_one, run.result.get("groups")
    if not rows or found.whole is None or not members:
        return ""
    groups = grouped.groups_of(members)
    space = grouped.representatives(found.whole, groups)
    fixed = spaces.fix(space, spaces.from_string(space, rows[-1]["genotype"]))
    named = "; ".join(
        f"{first}: {', '.join(group)}" for first, group in zip(groups.representatives, members, strict=True)
    )
    said = f"Groups by the operator that stands for each: {named}. Charts of “Search” are those of stage 2."
    return f"<p>{escaped(said)}</p>" + _mixtures(space, rows, fixed) + figures(search_charts(metrics))


def _details(run: Run) -> str:
    parts = []
    changes = [row for row, before in zip(run.genotypes, [{}, *run.genotypes], strict=False) if _differs(row, before)]
    if changes:
        rows = tuple((str(row.get("epoch", "–")), str(row["step"]), str(row.get("genotype", "–"))) for row in changes)
        title = f"One row for each change; epochs logged: {len(run.genotypes)}"
        parts.append(
            ("Genotype by epoch, where it changes", as_html(Table(title, ("epoch", "step", "genotype"), rows)))
        )
    named = tuple((str(r.get("name", "–")), str(r.get("genotype", "–"))) for r in random_results(run))
    if named:
        table = as_html(Table("Cells drawn at random from the space", ("network", "genotype"), named))
        parts.append(("Genotypes of the random cells", table))
    for heading, values in (("Configuration", run.config), ("Environment", run.environment)):
        if values:
            parts.append((heading, f"<pre>{escaped(_yaml(values))}</pre>"))
    return "\n".join(f"<details><summary>{heading}</summary>{body}</details>" for heading, body in parts)


def _differs(row: dict[str, Any], before: dict[str, Any]) -> bool:
    return row.get("genotype") != before.get("genotype")


def _yaml(values: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
