"""What to do next: three commands that fit the result of a run."""

import shlex
from typing import NamedTuple

from jnas.report.findings import is_undertrained
from jnas.report.reading import Run, found_results
from jnas.report.tables import escaped


class Kind(NamedTuple):
    """How a page speaks of a kind of run."""

    title: str  # of the page, before "on DATA"
    network: str  # what it found, or was given
    compares: bool = False  # with random cells


KINDS = {
    "search": Kind("Architecture search", "found cell", True),
    "grouped": Kind("Architecture search in stages", "found cell", True),
    "trials": Kind("Architecture search by trials", "found cell", True),
    "space_search": Kind("Search for a space and a network in it", "found network", True),
    "quantised": Kind("Joint search for an architecture and its bit widths", "found network"),
    "train": Kind("Training", "cell"),
    "select": Kind("Network selected from a zoo", "chosen network"),
    "recognition": Kind("Recognition", "network"),
    "detection": Kind("Detection", "network"),
}


def name_of_kind(run: Run) -> str:
    """The kind of a run, a key of `KINDS`: its task, or the recipe that made it."""
    task, kind = run.result.get("task"), run.config.get("kind")
    return next((str(name) for name in (task, kind) if str(name) in KINDS), "search")


def next_steps(run: Run) -> list[tuple[str, str]]:
    """Commands that fit a run, each with what it is for; the first is the one to begin with.

    Args:
      run: from `read_run`.

    Returns:
      Three, or the command that goes on with a run that is not finished.
    """
    folder, kind = shlex.quote(str(run.folder)), name_of_kind(run)
    if not run.result:
        words = run.environment.get("argv")
        words = [str(word) for word in words[1:]] if isinstance(words, list) else []
        return [(shlex.join(["jnas", *words]), "goes on where it stopped")] if words else []
    image = "PHOTO" if kind == "detection" else "IMAGE"
    use = [
        (f"jnas predict {folder} {image}", "what the network says about images of yours"),
        (f"jnas export {folder} --out network.jnas", "one file that runs without the rest of jnas"),
    ]
    if KINDS[kind].compares:
        seed, epochs, other = run.config.get("seed"), found_results(run)[0].get("epochs"), f"{run.folder}-again"
        change = f"seed={seed + 1 if isinstance(seed, int) else 1}"
        why = f"another seed; “jnas report {folder} {shlex.quote(other)}” then judges the cells of both"
        if is_undertrained(run) and isinstance(epochs, int):
            change, why = f"train.epochs={4 * epochs}", "trains all its networks longer"
        again = f"jnas search {shlex.quote(str(run.folder / 'config.yaml'))} {change} --out {shlex.quote(other)}"
        return [(again, why), *use]
    if kind in ("quantised", "train"):
        return [(f"jnas train {folder} train.epochs=50", "trains its network longer, or on data=... of yours"), *use]
    own = "zoo" if kind == "select" else "--data"
    evaluate = f"jnas evaluate {folder} --data {'FOLDER' if own == '--data' else 'DATA'}"
    return [(evaluate, "measures it on other images"), *use]


def next_section(run: Run) -> str:
    """The box of the page; empty where there is nothing to say."""
    rows = "".join(
        f"<dt><code>{escaped(command)}</code></dt><dd>{escaped(why)}</dd>" for command, why in next_steps(run)
    )
    return f'<dl class="next">{rows}</dl>' if rows else ""
