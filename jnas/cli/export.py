"""`jnas export`: a trained network as one file that needs no code of the search."""

import argparse
import os
import shlex
import sys

from jnas.cli import tasks
from jnas.cli.words import add_quiet
from jnas.files.urls import printable


def add(commands) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "export", help="write a trained network to a file for CPU, GPU and TPU that jnas.exported reads"
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run, or of one network in it (RUN/train/NAME)")
    parser.add_argument("--out", metavar="FILE", required=True, help="the file")
    tasks.add_space(parser)
    add_quiet(parser)
    parser.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    from jnas.recipes import commands, models

    header = commands.load(arguments.run, space=arguments.space).export(arguments.out)
    shown = ("task", "input", "outputs", "platforms", "class_names", "space", "genotype", "jax", "weights_bytes")
    said = {"file": arguments.out, **{name: header[name] for name in shown}}
    print(models.as_json({**said, "file_bytes": os.path.getsize(arguments.out)}))
    asks = shlex.join(["jnas", "predict", arguments.out])
    print(printable(f"next      {asks} IMAGE...  # or without jnas, see jnas.exported"), file=sys.stderr)
    return 0
