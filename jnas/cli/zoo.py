"""`jnas zoo`: a folder of trained networks with what they cost, to choose from."""

import argparse
import json
import pathlib
import sys
from typing import Any

from jnas.cli import words
from jnas.errors import UserError
from jnas.files import schemas
from jnas.files.urls import printable

MOST_BATCH = 2**16  # images of a training step
# The columns of a table of records, for the help, before anything is imported; `recipes.zoo.records` reads them.
COLUMNS = {
    "task": "name of the data set, required",
    "model": "name of the network, required",
    "accuracy": "after the fine-tuning, 0 to 1, required",
    "seconds": "of the fine-tuning",
    "parameters": "of the network",
    "operations": "of the network for one image, two a multiply-add",
    "source_accuracy": "of the network on what it was trained on, 0 to 1",
    "nearest_centroid": "share of the task's images told apart by its frozen features, 0 to 1",
    "logme": "LogME of its frozen features on the task",
    "frozen": "share of its parts whose weights stood still, 0 to 1",
    "learning_rate": "at the beginning",
    "steps": "of the fine-tuning",
    "examples": "training images of the task",
    "classes": "of the task",
    "pixels": "of an image of the task, height times width",
    "channels": "of an image of the task",
}


def add(commands) -> None:
    """Add the command to the program."""
    parser = commands.add_parser("zoo", help="keep trained networks with what they cost, to choose from")
    actions = parser.add_subparsers(required=True, metavar="ACTION", parser_class=type(parser))

    adding = actions.add_parser("add", help="add a trained network, or tables of others' models")
    adding.add_argument("zoo", metavar="ZOO", help="the folder; made if absent, a URL can be read only")
    adding.add_argument("what", metavar="RUN | RESULTS.csv", help="folder of a run or of one network in it, or a table")
    adding.add_argument("--name", help="of the entry (made up)")
    adding.add_argument("--data", help="what the network was trained on (as its run says)")
    adding.add_argument("--licence", default="not stated", help="of the weights or of the table")
    adding.add_argument(
        "--benchmark", action="append", default=[], metavar="DEVICE=FILE.csv", help="times of the table's models"
    )
    adding.set_defaults(command=_add)

    listing = actions.add_parser("list", help="list what keeps the limits, the most accurate first")
    listing.add_argument("zoo", metavar="ZOO", help="the folder, or a URL that fsspec reads, such as s3://bucket/zoo")
    listing.add_argument("--top", type=int, default=20, metavar="N", help="rows to print (20)")
    listing.add_argument("--json", action="store_true", help="one JSON line a model")
    add_limits(listing)
    listing.set_defaults(command=_list)

    measuring = actions.add_parser("measure", help="measure networks on this device")
    measuring.add_argument("zoo", metavar="ZOO")
    measuring.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    measuring.add_argument("--batch", type=int, default=64, metavar="N", help="images of a training step (64)")
    words.add_quiet(measuring)
    measuring.set_defaults(command=_measure)

    records = actions.add_parser("records", help="what fine-tunings came to, from which jnas select predicts")
    importing = records.add_subparsers(required=True, metavar="ACTION", parser_class=type(parser)).add_parser(
        "import", help="add records of others", description="Adds records of fine-tunings from a table with the "
        "columns below; further ones are left out, and cells may be empty where nothing is required.",
        epilog="\n".join(f"  {column:17} {text}" for column, text in COLUMNS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    importing.add_argument("zoo", metavar="ZOO", help="the folder; made if absent")
    importing.add_argument("table", metavar="FILE.csv", help="whose first line names the columns; also .csv.gz")
    importing.set_defaults(command=_import)

    for action, text in (("show", "print one entry, after comparing its checksums"), ("remove", "take one entry out")):
        one = actions.add_parser(action, help=text)
        one.add_argument("zoo", metavar="ZOO")
        one.add_argument("name", metavar="NAME")
        one.set_defaults(command={"show": _show, "remove": _remove}[action])


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add the options that `limits_of` reads."""
    group = parser.add_argument_group("limits, on what was measured")
    group.add_argument("--max-params", type=float, metavar="M", help="parameters, millions")
    group.add_argument("--max-flops", type=float, metavar="G", help="operations an image, 10^9; two a multiply-add")
    group.add_argument("--max-latency", type=float, metavar="MS", help="one image alone, milliseconds")
    group.add_argument("--max-memory", type=float, metavar="MB", help="at work of one image alone, megabytes")
    group.add_argument("--min-throughput", type=float, metavar="N", help="images a second in inference")
    group.add_argument("--min-training", type=float, metavar="N", help="images a second in training")
    group.add_argument("--device", help="on which the times were measured (this one)")


def limits_of(arguments: argparse.Namespace) -> Any:
    """The limits that a user gave."""
    from jnas.recipes.zoo import candidates

    timed = (arguments.max_latency, arguments.min_throughput, arguments.min_training) != (None, None, None)
    return candidates.limits_of(arguments, arguments.device or (_this_device() if timed else None))


def _this_device() -> str:
    from jnas.distributed.environment import environment

    return str(environment()["device"])


def _add(arguments: argparse.Namespace) -> int:
    from jnas.recipes.zoo import candidates, entries, networks

    if arguments.what.lower().endswith(".csv"):
        pairs = [word.partition("=") for word in arguments.benchmark]
        if any(not (device and path) for device, _, path in pairs):
            raise UserError("--benchmark takes DEVICE=FILE.csv: name the device that was measured")
        rows = candidates.read_tables(arguments.what, [(device, path) for device, _, path in pairs])
        name = arguments.name or entries.slug(pathlib.PurePath(arguments.what).stem)
        new = networks.add_table(
            arguments.zoo, rows, name=name, source=arguments.what.rsplit("/", 1)[-1], licence=arguments.licence
        )
        timed = sum(bool(row["costs"]) for row in rows)
        print(f"{'added' if new else 'has'} {name}: {len(rows)} models, {timed} of them with measured times")
        return 0
    if arguments.benchmark:
        raise UserError("--benchmark belongs to a table of models: give RESULTS.csv, or jnas zoo measure for a network")
    facts = networks.add_network(
        arguments.zoo, arguments.what, name=arguments.name, data=arguments.data, licence=arguments.licence
    )
    print(
        f"{'added' if facts.pop('new') else 'has'} {facts['name']}: {100 * facts['accuracy']:.2f} % on "
        + printable(facts["data"])
    )
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from jnas.recipes import models
    from jnas.recipes.zoo import candidates

    if arguments.top < 1:
        raise UserError(f"--top is {arguments.top}: give at least 1")
    limits = limits_of(arguments)
    found, complaints = candidates.of_zoo(arguments.zoo)
    for sentence in complaints:
        print(f"jnas: {printable(sentence)}", file=sys.stderr)
    kept = sorted(candidates.within(found, limits), key=lambda c: -(c.accuracy or 0.0))
    device = limits.device or _this_device()
    if not arguments.json:
        print(f"{len(kept)} of {len(found)} models keep the limits; times on {device}")
        heads = f"{'params [M]':>10} {'size [kB]':>10} {'GFLOP':>8} {'ms an image':>11} {'images/s':>10}"
        print(f"{'model':48} {'accuracy':>8} {heads}")
    for one in kept if arguments.json else kept[: arguments.top]:
        alone, most = candidates.latency(one, device), candidates.throughput(one, device)
        if arguments.json:
            print(models.as_json(one._asdict() | {"costs": [cost._asdict() for cost in one.costs]}))
            continue
        numbers = ((one.accuracy, 100, 8, 2), (one.parameters, 1e-6, 10, 3), (one.size, 1e-3, 10, 2),
                   (one.flops, 1e-9, 8, 3), (alone, 1e3, 11, 3), (most, 1, 10, 1))  # fmt: skip
        cells = " ".join("–".rjust(w) if v is None else f"{scale * v:{w}.{d}f}" for v, scale, w, d in numbers)
        print(f"{printable((f'{one.table}/' if one.table else '') + one.name):48} {cells}")
    return 0


def _measure(arguments: argparse.Namespace) -> int:
    from jnas.distributed.cache import enable_compilation_cache
    from jnas.recipes.zoo import entries, networks, place

    if not 1 <= arguments.batch <= MOST_BATCH:
        raise UserError(f"--batch is {arguments.batch}: give a number from 1 to {MOST_BATCH:,}")
    folder = place.to_write(arguments.zoo)
    names = arguments.names or entries.names(folder, entries.NETWORKS)
    if not names:
        raise UserError(f"{folder} holds no network: add one with jnas zoo add {folder} RUN")
    enable_compilation_cache()
    for name in names:
        alone, step = networks.measure(arguments.zoo, name, batch_size=arguments.batch)
        times = f"{1e3 * alone.seconds:.3f} ms an image alone, {1e3 * step.seconds:.1f} ms a step of {step.batch_size}"
        print(f"{name}: {times} on {alone.device}", flush=True)
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from jnas.recipes.zoo import entries, place, records

    folder = place.to_write(arguments.zoo)
    found = records.from_table(arguments.table)
    for record in found:  # all of them are sound; the same one twice is one file
        entries.note(folder, entries.RECORDS, "", facts=record)
    tasks = len({record["task"] for record in found})
    print(printable(f"added {len(found)} records of {tasks} tasks to {folder}"))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from jnas.recipes.zoo import entries

    kind = entries.TABLES if arguments.name in entries.names(arguments.zoo, entries.TABLES) else entries.NETWORKS
    facts, _ = entries.read(arguments.zoo, kind, arguments.name)
    costs, complaints = entries.notes(arguments.zoo, entries.COSTS, arguments.name, schema=schemas.Cost)
    if complaints:
        raise UserError(complaints[0])
    text = json.dumps({**facts, "costs": costs}, indent=1, ensure_ascii=False)
    print(*map(printable, text.split("\n")), sep="\n")
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    from jnas.recipes.zoo import entries

    entries.remove(arguments.zoo, arguments.name)
    print(f"removed {arguments.name}")
    return 0
