"""What a command says around its work: that it begins, what came of it, and what to do next."""

import argparse
import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from jnas.cli import tasks
from jnas.files.urls import printable


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add `--quiet` to a command that takes long."""
    parser.add_argument("--quiet", action="store_true", help="print the result and errors, nothing on the way")


@contextlib.contextmanager
def on_the_way(arguments: argparse.Namespace) -> Iterator[None]:
    """Says on a terminal that the command begins, before anything is imported; with `--quiet` hides what else is said.

    Args:
      arguments: as parsed, of any command.
    """
    if getattr(arguments, "quiet", False):
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
            yield
        return
    takes_long = hasattr(arguments, "quiet") and not getattr(arguments, "show", False)
    if takes_long and sys.stderr is not None and sys.stderr.isatty():
        print("jnas: starting", file=sys.stderr, flush=True)
    yield


def summary(result: dict[str, Any], folder: pathlib.Path) -> None:
    """Print what a search or a training came to."""
    from jnas import distributed, report

    if not distributed.is_first():
        return
    if "note" in result:  # of a process that left the rest to another one
        print(result["note"])
        return
    if "task" in result:
        print(*map(printable, tasks.summary(result)), sep="\n")
        closing(folder)
        return
    found = result["found"]
    if "runs" in result:
        words = report.agreement_words(result)
        print(f"runs      {words}" if words else "runs      1 sound run")
    print(printable(f"genotype  {result['genotype']}"))
    print(f"accuracy  {100 * found['test_accuracy']:.2f} % on {result['data']['test']} test images")
    accuracies = [100 * other["test_accuracy"] for other in result["random"]]
    if accuracies:
        mean = sum(accuracies) / len(accuracies)
        each = ", ".join(f"{accuracy:.2f}" for accuracy in accuracies)
        print(f"random    {mean:.2f} % mean of {len(accuracies)} random cells ({each})")
    if known := report.reference_words(result):
        print(f"reference {known}")
    closing(folder)


def closing(folder: pathlib.Path) -> None:
    """Print where the page of a run is, or the run where it has none, and one command that fits what came of it."""
    from jnas import report

    page = folder / "report.html"
    print(printable(f"{'report' if page.is_file() else 'run':9} {page if page.is_file() else folder}"))
    for command, why in report.next_steps(report.read_run(folder))[:1]:
        print(printable(f"next      {command}  # {why}"))
