"""`jnas select`: a network of a zoo for a new task, fine-tuned."""

import argparse

from jnas.cli import zoo
from jnas.cli.words import add_quiet, closing


def add(commands) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "select", help="choose a network of a zoo for new data within limits, and fine-tune it"
    )
    option = parser.add_argument
    option("data", metavar="DATA", help="the new data, as for jnas search data=...")
    option("words", nargs="*", metavar="FILE.yaml | key=value", help="settings, the later over the earlier")
    option("--zoo", required=True, metavar="DIR | URL", help="the zoo; behind a URL no record is kept in it")
    option("--target-accuracy", type=float, metavar="A", help="of the validation images, at which it ends, such as 0.9")
    option("--budget", type=float, metavar="S", help="seconds of fine-tuning, as measured steps predict them")
    option("--out", metavar="DIR", help="folder of the run (runs/select-DATA-SEED); goes on if unfinished")
    zoo.add_limits(parser)
    add_quiet(parser)
    parser.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    from jnas.recipes.zoo.commands import select_network
    from jnas.report.selection import ending

    zoo.limits_of(arguments)  # says what is wrong with them
    limits = ("max_params", "max_flops", "max_latency", "max_memory", "min_throughput", "min_training", "device")
    names = (*limits, "target_accuracy", "budget")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    run = select_network(arguments.data, *arguments.words, zoo=arguments.zoo, out=arguments.out, **given)
    result = run.result
    selection, found = result["selection"], result["found"]
    for line in selection["ranking"]:
        interval = (
            f"{100 * line['low']:.1f} to {100 * line['high']:.1f} %" if "low" in line else "nothing predicted yet"
        )
        setting = f"frozen {line['frozen']:g}, learning rate {line['learning rate']:g}"
        print(f"candidate {line['model']}, {setting}: {interval}; {line['reasons']}")
    for trial in selection["trials"]:
        accuracy = f"{100 * trial['test_accuracy']:.2f} % of the validation images"
        print(f"trial     {trial['model']}, epochs {trial['epochs']}: {accuracy}; {trial['why']}")
    for sentence in ending(selection):
        print(f"end       {sentence}")
    print(f"chosen    {found['model']}, {100 * found['test_accuracy']:.2f} % on {result['data']['test']} test images")
    closing(run.folder)
    return 0
