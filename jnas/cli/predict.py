"""`jnas predict`: what a trained or exported network says about images."""

import argparse
import pathlib

from jnas.cli import tasks
from jnas.cli.words import add_quiet
from jnas.errors import UserError


def add(commands) -> None:
    """Add the command to the program."""
    parser = commands.add_parser("predict", help="ask a trained or exported network about images")
    parser.add_argument("model", metavar="RUN | FILE", help="folder of a run or a network, or what jnas export wrote")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders of them")
    parser.add_argument("--out", metavar="DIR", help="write pictures and predictions.jsonl here")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes or neighbours of an answer (5)")
    parser.add_argument("--threshold", type=float, default=0.3, metavar="SCORE", help="least score of a box (0.3)")
    tasks.add_space(parser)
    add_quiet(parser)
    parser.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    from jnas.distributed.cache import enable_compilation_cache
    from jnas.recipes import commands, models
    from jnas.recipes.tasks import predict

    if arguments.top < 1:
        raise UserError(f"--top is {arguments.top}: give at least 1")
    if not 0 <= arguments.threshold <= 1:
        raise UserError(f"--threshold is {arguments.threshold}: give a score in [0, 1]")
    files = predict.photos_of(arguments.images)
    if arguments.out and pathlib.Path(arguments.out).resolve() in {file.parent.resolve() for file in files}:
        raise UserError(f"--out {arguments.out} holds images to ask about, which pictures would replace: name another")
    enable_compilation_cache()
    network = predict.open_network(arguments.model, space=commands.space_of(arguments.space))
    answers = []
    for said in predict.predict(network, files, top=arguments.top, threshold=arguments.threshold):
        print(models.as_json(said), flush=True)
        answers.append(said)
    if arguments.out:
        predict.write_pictures(network, answers, arguments.out)
    return 0
