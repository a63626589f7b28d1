"""`jnas train --task detection | recognition`, and the measurement of what they train."""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jnas.cli import hosts
from jnas.cli.folders import folder_of
from jnas.errors import UserError
from jnas.files.urls import printable

TASKS = ("classification", "recognition", "detection")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--task` and `--data` to `jnas train`."""
    parser.add_argument("--task", choices=TASKS, default=TASKS[0], help="what the network is put to (classification)")
    parser.add_argument(
        "--data", metavar="NAME | FOLDER", help="the same as data=...; for detection a folder with boxes, VOC or COCO"
    )


def add_space(parser: argparse.ArgumentParser) -> None:
    """Add `--space` to a command that reads a run, for `space_of`."""
    parser.add_argument("--space", metavar="FILE.py:NAME", help="the file with the space of the run, if it has its own")


def space_of(arguments: argparse.Namespace) -> Any:
    """The space that a user gave, or None."""
    from jnas.recipes import own_parts
    from jnas.spaces import networks

    return arguments.space and networks.network_space(own_parts.typed({"space": arguments.space})["space"])


def train(arguments: argparse.Namespace, what: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> int:
    """Train for recognition or detection.

    Args:
      arguments: of `jnas train`.
      what: `genotype`, and perhaps `space`, `seed`, `data` and `image_size`, of what the user named.
      layers: settings.

    Returns:
      The exit status.

    Raises:
      UserError: for bad settings.
    """
    from jnas import distributed
    from jnas.distributed.cache import enable_compilation_cache
    from jnas.recipes import config, describe, driver, own_parts
    from jnas.recipes.tasks import detect, recognise, training
    from jnas.recipes.tasks.settings import TrainDetector, TrainEmbedding

    task: training.Task = detect if arguments.task == detect.TASK else recognise
    kind = TrainDetector if task is detect else TrainEmbedding
    # The photos of a detector are others than the images of a search; those of an embedding may be the same.
    kept = ("genotype", "space", "seed", *(() if task is detect else ("data", "image_size")))
    known = {name: what[name] for name in kept if name in what}
    settings = config.build(kind, known, *layers)
    own_parts.check_recorded(known, settings, arguments.what)
    if arguments.show:
        print(describe.as_yaml(settings), end="")
        return 0
    if not settings.data:
        raise UserError("detection needs photos with boxes: give --data FOLDER in the layout of VOC or COCO")
    if getattr(arguments, "profile", None):
        raise UserError("--profile traces classification and search: leave it out here")
    enable_compilation_cache()
    with hosts.joined_mesh(arguments) as mesh:
        folder = folder_of(arguments.out, settings, "train", arguments.task)
        result = driver.run(training.of(task), settings, folder, mesh=mesh)
    if distributed.is_first():
        print(*map(printable, _summary(result, folder)), sep="\n")
    return 0


def evaluate(network: pathlib.Path, arguments: argparse.Namespace, data: str | None) -> int | None:
    """Measure a network for recognition or detection.

    Args:
      network: its folder.
      arguments: of `jnas evaluate`.
      data: to measure on, see `own_parts.typed`; None: those of the run.

    Returns:
      The exit status; None: the network is a classifier.

    Raises:
      UserError: if the network cannot be read or the data do not fit it.
    """
    from jnas.distributed.cache import enable_compilation_cache
    from jnas.recipes import models
    from jnas.recipes.tasks import measure

    if models.read_facts(network).get("task", TASKS[0]) == TASKS[0]:
        return None
    enable_compilation_cache()
    print(models.as_json(measure.of_folder(network, data, arguments.split, space=space_of(arguments))))
    return 0


def _summary(result: dict[str, Any], folder: pathlib.Path) -> list[str]:
    found, lines = result["found"], [f"genotype  {result['genotype']}"]
    if result["task"] == "detection":
        each = ", ".join(
            f"{name} {100 * row['voc_ap50']:.1f}" for name, row in found["classes"].items() if row["boxes"]
        )
        lines.append(
            f"precision {100 * found['voc_ap50']:.1f} % average precision at 0.5 on {found['photos']} "
            f"{found['measured_on']} photos ({each})"
        )
        lines.append(f"COCO      {100 * found['coco_ap']:.1f} % at .5 to .95, {100 * found['coco_ap50']:.1f} % at .5")
        if result["data"].get("dropped_boxes"):
            lines.append(f"boxes     {result['data']['dropped_boxes']} without width or height left out")
        if missed := result["data"].get("unreached_boxes"):
            lines.append(f"boxes     {missed['train']} to train on and {missed['test']} to measure on are too small")
    else:
        lines.append(f"recall    {100 * found['recall_at_1']:.2f} % of nearest neighbours are of the class")
        lines.append(f"MAP at R  {100 * found['map_at_r']:.2f} %")
    return [*lines, f"report    {folder / 'report.html'}"]
