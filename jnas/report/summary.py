"""The head of a run's page: numbers on cards, the verdict, the facts, and the genotype to copy."""

import re
from typing import Any, NamedTuple

from jnas import spaces
from jnas.errors import UserError
from jnas.files import own
from jnas.report import quantised, selection
from jnas.report.findings import findings, guessing
from jnas.report.next_steps import KINDS, name_of_kind
from jnas.report.reading import Run, found_results, random_results, series
from jnas.report.reference import RANDOM, reference_cells, reference_words
from jnas.report.tables import accuracies, cards, escaped, fact, spread, warning
from jnas.report.verdict import difference, verdict
from jnas.spaces import CellSpace, networks
from jnas.spaces.chain import ChainSpace


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


class Found(NamedTuple):
    """The found cell, as far as the run folder lets it be known."""

    genotype: str  # empty: none yet
    space: CellSpace | None
    fixed: CellSpace | None
    notes: tuple[str, ...]
    whole: CellSpace | None = None  # the space, where the last of several stages searched a part of it


def found_cell(run: Run, space: networks.NetworkSpace | None = None) -> Found:
    """Return the found cell of a run: from its result, or while it is under way, of the last epoch logged.

    Args:
      run: from `read_run`.
      space: of the run; None: it is found by its name.

    Returns:
      The cell; what keeps it from being drawn, or makes it useless, is said in its notes.
    """
    genotype = run.result.get("genotype") or (run.genotypes[-1].get("genotype") if run.genotypes else "") or ""
    notes: list[str] = []
    try:
        space = networks.network_space(fact(run, "space")) if space is None else space
    except UserError:
        note = (
            f"Space {fact(run, 'space')} is not one that jnas knows by name, so neither cells nor mixtures are drawn; "
            "jnas report with --space FILE.py:NAME draws them."
        )
        known = run.result or run.genotypes  # before, it may still be choosing a space
        return Found(str(genotype), None, None, (note,) if known else ())
    if isinstance(space, ChainSpace):  # drawn by itself
        return Found(str(genotype), None, None, ())
    if not genotype:
        return Found("", space, None, ())
    narrowed = run.result.get("edge_ops")  # of a second stage: its mixtures have these candidates only
    searched = space
    try:
        searched = spaces.narrow(space, narrowed) if isinstance(narrowed, dict) else space
        arch = networks.from_string(space, str(genotype))
    except ValueError as error:
        return Found(str(genotype), searched, None, (f"The cell is not drawn: {error}",), space)
    if not networks.is_connected(space, arch):
        notes.append("No path of operators leads from an input of the cell to its output: this network guesses.")
    return Found(str(genotype), searched, networks.fix(space, arch), tuple(notes), space)


def summary(run: Run, found: Found) -> str:
    """Return the summary of a run as HTML.

    Args:
      run: from `read_run`.
      found: from `found_cell`.

    Returns:
      Elements to stand in a section.
    """
    ours, theirs = found_results(run), [*random_results(run), *reference_cells(run.result, RANDOM)]
    parts, said = [_cards(run, ours, accuracies(theirs))], []
    if (run.result or accuracies(ours)) and KINDS[name_of_kind(run)].compares:
        told = difference(accuracies(ours), accuracies(theirs))
        won = told is not None and told.judged == "better"
        parts.append(f'<p class="note{"" if won else " warn"}">{escaped(verdict(ours, theirs))}</p>')
        if words := reference_words(run.result):
            said.append(f"Among cells trained in advance: {words}.")
    said += [*quantised.words(run.result.get("quantised", {})), *selection.words(run.result.get("selection", {}))]
    parts += [f'<p class="note">{escaped(text)}</p>' for text in said]
    if not run.result:
        parts.append(warning("This run is not finished: the page shows what is there so far."))
    doubts = findings(run, found.space, found.fixed)
    parts += map(warning, (*doubts, *found.notes, *_expansions(run), *run.notes))
    data = run.result.get("data")
    device = dict.fromkeys(str(run.environment[k]) for k in ("platform", "device") if run.environment.get(k))
    rows = {
        "method": fact(run, "method"),
        "space": _space_words(run, found),
        "data": _data_words(data) if isinstance(data, dict) else fact(run, "data"),
        "seed": fact(run, "seed"),
        "derivation": fact(run, "derivation"),
        "stages": _stages(run.result.get("stages")),
        "device": ", ".join(device) or "–",
    }
    facts = "".join(f"<dt>{escaped(k)}</dt><dd>{escaped(v)}</dd>" for k, v in rows.items() if v != "–")
    parts.append(f"<dl>{facts}</dl>")
    if found.genotype:
        when = "Genotype" if run.result else "Genotype so far"
        parts.append(f'<h3>{when} <span class="quiet">(one click selects it all)</span></h3>')
        parts.append(f'<pre class="copy" tabindex="0" aria-label="{when}">{escaped(_wrapped(found.genotype))}</pre>')
    return "\n".join(parts)


def _stages(stages: object) -> str:
    """How each stage of a search in stages ended."""
    known = [one for one in stages if isinstance(one, dict) and "ended" in one] if isinstance(stages, list) else []
    ends = {"converged": "converged after {} of at most {} epochs", "cap": "all of its {1} epochs"}
    return "; ".join(f"{one['name']}: {ends[one['ended']].format(*one['epochs'])}" for one in known) or "–"


def _expansions(run: Run) -> list[str]:
    steps, diverged = series(run.search, "neumann_diverged")
    times = int((diverged > 0).sum())
    if not times:
        return []
    where = f"{times:,} of {len(steps):,} steps"
    return [f"The Neumann series expanded at {where}: there the hypergradient is not to be trusted."]


# What is measured of a network: name in its result, scale, digits, unit, and what it is, of which network
_CARDS = (
    ("test_accuracy", 100, 2, " %", "test accuracy of the {}"),
    ("voc_ap50", 100, 1, " %", "average precision at overlap .5 (VOC) of the {}"),
    ("coco_ap", 100, 1, " %", "average precision at .5 to .95 (COCO)"),
    ("recall_at_1", 100, 1, " %", "recall at 1: nearest neighbours that are of the class"),
    ("map_at_r", 100, 1, " %", "mean average precision at R"),
    ("size", 1e-3, 2, " kB", "its weights, packed at their bit widths"),
)


def _cards(run: Run, ours: list[dict[str, Any]], theirs: list[float]) -> str:
    shown, kind = [], name_of_kind(run)
    ours = [run.result.get("quantised", {}).get("joint", {}) | one for one in ours[:1]] + ours[1:]
    for name, scale, digits, unit, what in _CARDS:
        if values := [one[name] for one in ours if isinstance(one.get(name), int | float)]:
            several = f"{len(values)} {KINDS[kind].network}s" if len(values) > 1 else f"the {KINDS[kind].network}"
            shown.append((f"{spread(values, scale, digits)}{unit}", what.replace("the {}", several)))
    if theirs:
        n = len(theirs)
        shown.append((f"{spread(theirs, 100, 2)} %", f"test accuracy of {n} random cell{'s' * (n > 1)}"))
    for result in ours[:1]:
        if isinstance(result.get("parameters"), int | float):
            shown.append((count(result["parameters"]), "parameters of its network"))
        if run.result and "seconds" not in run.result and isinstance(result.get("seconds"), int | float):
            shown.append((duration(result["seconds"]), "training time"))
    seconds, steps = run.result.get("seconds"), run.result.get("steps", run.result.get("evaluations"))
    if seconds is None and len(run.search.get("time", ())):
        seconds = run.search["time"][-1] - run.search["time"][0]
    if steps is None and len(run.search.get("step", ())):
        steps = int(run.search["step"][-1])
    if isinstance(seconds, int | float):
        what = "time of the selection" if kind == "select" else "search time"
        what += f", {steps:,} {KINDS[kind].unit}" if isinstance(steps, int) else ""
        shown.append((duration(seconds), what))
    return cards(shown)


def _space_words(run: Run, found: Found) -> str:
    if found.space is None:
        return fact(run, "space")
    space = found.whole or found.space
    searched, by, named = found.space, "the last stage searched", str(run.config.get("operators") or "").split()
    if named and name_of_kind(run) == "quantised":
        searched, by = networks.narrow(space, dict.fromkeys(networks.candidates(space), named)), "`operators` leaves"
    size, left = (_large(spaces.size(one)) for one in (space, searched))
    part = f", of which {by} {left}" if left != size else ""
    name = own.shown(space.name)
    return f"{name}: {len(space.ops)} operators, {space.num_edges} edges a cell, {size} architectures{part}"


def _large(number: int) -> str:
    if number < 10**7:
        return f"{number:,}"
    mantissa, exponent = f"{float(number):.1e}".split("e")
    return f"about {mantissa} × 10{str(int(exponent)).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def _data_words(data: dict[str, Any]) -> str:
    sizes = [f"{data[k]:,} {k}" for k in ("train", "validation", "test") if isinstance(data.get(k), int)]
    shape, classes = data.get("shape"), data.get("num_classes")
    words = [str(data.get("name", "–")), *sizes]
    if isinstance(shape, list | tuple):
        words.append("images " + " × ".join(map(str, shape)))
    if isinstance(searched := data.get("searched_shape"), list | tuple):
        words.append("in the search " + " × ".join(map(str, searched)))
    if isinstance(classes, int) and classes > 0:
        words.append(f"{classes} classes ({guessing(data)[1]})")
    return ", ".join(words)


def _wrapped(genotype: str) -> str:
    """Break a genotype between its fields; it still pastes back."""
    return re.sub(r"(?<=[(,]) ?(?=(normal|reduce)(_concat)?=)", "\n    ", genotype)
