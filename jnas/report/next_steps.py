"""What to do next: three commands, or calls in Python, that fit the result of a run."""

import pathlib
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
    unit: str = "evaluations"  # of the search


KINDS = {
    "search": Kind("Architecture search", "found cell", True, "steps"),
    "grouped": Kind("Architecture search in stages", "found cell", True, "steps"),
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

    Of a run that was begun from Python they are calls. Parts of the user's own are among them: those of a file by its
    name, without its folder, and a value as `space=SPACE`, in whose place it is given again.

    Args:
      run: from `read_run`.

    Returns:
      Three, or what goes on with a run that is not finished.
    """
    folder, kind, settings = str(run.folder), name_of_kind(run), str(run.folder / "config.yaml")
    searches = str(run.config.get("kind", kind)) == kind and (KINDS[kind].compares or kind == "quantised")
    begun = run.environment.get("argv")
    argv = [str(word) for word in begun] if isinstance(begun, list) else []
    program = pathlib.PurePath(argv[0] if argv else "jnas")
    write = _command if program.name == "jnas" or program.parts[-2:] == ("jnas", "__main__.py") else _call
    own = {name: str(run.config.get(name)).partition("@sha256:") for name in ("space", "data", "objective")}
    parts = {name: part if ".py:" in part else name.upper() for name, (part, mark, _) in own.items() if mark}
    if not run.result:
        again = [_call("search", settings, **parts, out=folder)] if searches else []
        if write is _command:
            again = [shlex.join(["jnas", *argv[1:]])] if argv[1:] else []
        return [(command, "goes on where it stopped") for command in again]
    space = {name: part for name, part in parts.items() if name == "space"}
    image = "PHOTO" if kind == "detection" else "IMAGE"
    use = [
        (write("predict", folder, image, **space), "what the network says about images of yours"),
        (write("export", folder, out="network.jnas", **space), "one file that runs without the rest of jnas"),
    ]
    epochs = found_results(run)[0].get("epochs")
    if KINDS[kind].compares:
        if not searches:  # of a recipe of the user's own
            return use
        seed, seeds, other = run.config.get("seed"), run.config.get("num_runs"), f"{folder}-again"
        change = f"seed={seed + (seeds if isinstance(seeds, int) else 1) if isinstance(seed, int) else 1}"
        why = f"another seed; “{shlex.join(['jnas', 'report', folder, other])}” then judges the cells of both"
        if is_undertrained(run) and isinstance(epochs, int):
            change, why = f"train.epochs={4 * epochs}", "trains all its networks longer"
        return [(write("search", settings, change, **parts, out=other), why), *use]
    if kind in ("quantised", "train"):
        longer = f"train.epochs={max(50, 2 * epochs) if isinstance(epochs, int) else 50}"
        return [(write("train", folder, longer, **parts), "trains its network longer, or on data=... of yours"), *use]
    data = "DATA" if kind == "select" else "FOLDER"
    return [(write("evaluate", folder, data=data, **space), "measures it on other images"), *use]


def _command(name: str, *words: str, **options: str) -> str:
    """As it is typed; a search and a training are set by words."""
    set_by = lambda key: name in ("search", "train") and key != "out"
    said = ([f"{key}={text}"] if set_by(key) else [f"--{key}", text] for key, text in options.items())
    return shlex.join(["jnas", name, *words, *(word for part in said for word in part)])


def _call(name: str, folder: str, *words: str, **options: str) -> str:
    """The same in Python."""
    of_run = {"predict": ".predict(images)", "export": f".export({options.get('out')!r})"}.get(name, "")
    if of_run:
        name, words, options = "load", (), {key: text for key, text in options.items() if key != "out"}
    named = (f"{key}={text if text == key.upper() else repr(text)}" for key, text in options.items())
    function = f"{name}_architecture" if name in ("search", "train") else name
    return f"jnas.{function}({', '.join([*map(repr, (folder, *words)), *named])}){of_run}"


def next_section(run: Run) -> str:
    """The box of the page; empty where there is nothing to say."""
    rows = "".join(
        f"<dt><code>{escaped(command)}</code></dt><dd>{escaped(why)}</dd>" for command, why in next_steps(run)
    )
    return f'<dl class="next">{rows}</dl>' if rows else ""
