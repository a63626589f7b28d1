"""`jnas train --task detection | recognition`, and the measurement of what they train."""

import argparse
from typing import Any

TASKS = ("classification", "recognition", "detection")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--task` and `--data` to `jnas train`."""
    parser.add_argument("--task", choices=TASKS, default=TASKS[0], help="what the network is put to (classification)")
    parser.add_argument(
        "--data", metavar="NAME | FOLDER", help="the same as data=...; for detection a folder with boxes, VOC or COCO"
    )


def add_space(parser: argparse.ArgumentParser) -> None:
    """Add `--space` to a command that reads a run."""
    parser.add_argument("--space", metavar="FILE.py:NAME", help="the file with the space of the run, if it has its own")


def summary(result: dict[str, Any]) -> list[str]:
    """The lines that a training for recognition or detection ends with."""
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
    return lines
