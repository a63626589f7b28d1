"""The head of a run's page: numbers on cards, the verdict, the facts, and the genotype to copy."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jnas import spaces
from jnas.errors import UserError
from jnas.files import own
from jnas.report.reading import Run, found_results, random_results, series
from jnas.report.reference import RANDOM, reference_cells, reference_words
from jnas.report.tables import accuracies, escaped, fact, spread, summarise, warning
from jnas.spaces import CellSpace, networks
from jnas.spaces.chain import ChainSpace


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


class Found(NamedTuple):
    """The found cell, as far as the run folder lets it be known."""

    genotype: str  # empty: none yet
    space: CellSpace | None
    fixed: CellSpace | None
    notes: tuple[str, ...]


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
        return Found(str(genotype), None, None, (note,))
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
        return Found(str(genotype), searched, None, (f"The cell is not drawn: {error}",))
    if not networks.is_connected(space, arch):
        notes.append("No path of operators leads from an input of the cell to its output: this network guesses.")
    return Found(str(genotype), searched, networks.fix(space, arch), tuple(notes))


def only_trains(run: Run) -> bool:
    """Whether the run trains a cell that somebody named, and searches for none."""
    return run.config.get("kind") == "train"


def summary(run: Run, found: Found) -> str:
    """Return the summary of a run as HTML.

    Args:
      run: from `read_run`.
      found: from `found_cell`.

    Returns:
      Elements to stand in a section.
    """
    ours = accuracies(found_results(run))
    theirs = accuracies([*random_results(run), *reference_cells(run.result, RANDOM)])
    parts = [_cards(run, ours, theirs)]
    if (run.result or ours) and not only_trains(run):
        won = bool(ours and theirs) and summarise(ours).mean > summarise(theirs).mean
        parts.append(f'<p class="note{"" if won else " warn"}">{escaped(verdict(ours, theirs))}</p>')
        if words := reference_words(run.result):
            parts.append(f'<p class="note">Among cells trained in advance: {escaped(words)}.</p>')
    if not run.result:
        parts.append(warning("This run is not finished: the page shows what is there so far."))
    parts += map(warning, (*found.notes, *_expansions(run), *run.notes))
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


def _cards(run: Run, ours: list[float], theirs: list[float]) -> str:
    cards = []
    if ours:
        cell = "cell" if only_trains(run) else "found cell"
        cards.append((f"{100 * summarise(ours).mean:.2f} %", f"test accuracy of the {cell}"))
    if theirs:
        n = len(theirs)
        cards.append((f"{spread(theirs, 100, 2)} %", f"test accuracy of {n} random cell{'s' * (n > 1)}"))
    for result in found_results(run)[:1]:
        if isinstance(result.get("parameters"), int | float):
            cards.append((count(result["parameters"]), "parameters of its network"))
        if only_trains(run) and isinstance(result.get("seconds"), int | float):
            cards.append((duration(result["seconds"]), "training time"))
    seconds, steps = run.result.get("seconds"), run.result.get("steps")
    if seconds is None and len(run.search.get("time", ())):
        seconds = run.search["time"][-1] - run.search["time"][0]
    if steps is None and len(run.search.get("step", ())):
        steps = int(run.search["step"][-1])
    if isinstance(seconds, int | float):
        what = f"search time, {steps:,} steps" if isinstance(steps, int) else "search time"
        cards.append((duration(seconds), what))
    shown = "".join(
        f'<div class="card"><b>{escaped(big)}</b><span>{escaped(small)}</span></div>' for big, small in cards
    )
    return f'<div class="cards">{shown}</div>' if shown else ""


def _space_words(run: Run, found: Found) -> str:
    if found.space is None:
        return fact(run, "space")
    space = found.space
    size = _large(spaces.size(space))
    return f"{own.shown(space.name)}: {len(space.ops)} operators, {space.num_edges} edges a cell, {size} architectures"


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
        words.append(f"{classes} classes (guessing: {100 / classes:.1f} %)")
    return ", ".join(words)


def _wrapped(genotype: str) -> str:
    """Break a genotype between its fields; it still pastes back."""
    return re.sub(r"(?<=[(,]) ?(?=(normal|reduce)(_concat)?=)", "\n    ", genotype)
