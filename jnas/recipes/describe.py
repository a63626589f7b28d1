"""Settings in words: what each of them means, from the comments beside them, its unit, default and bounds."""

import ast
import dataclasses
import difflib
import inspect
import io
import re
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from jnas import report
from jnas.errors import UserError
from jnas.files.own import Own
from jnas.recipes.settings import BELOW_ONE, LARGE, POSITIVE, bounds_of

# What these names mean wherever the settings that have them say nothing else.
COMMON = {
    "data": "fashion-mnist-5k, fashion-mnist-slice, FILE.npz, a folder of class folders, tfds:NAME[:DIR], FILE.py:NAME",
    "image_size": "side in pixels to which the images of a folder are resized; null: they are all of one size",
    "space": "nasbench201, darts, s1 to s4, cell-3:OPERATORS, chain-4:OPERATORS or FILE.py:NAME, see jnas spaces",
    "genotype": "the architecture as text, or the name of a published one",
    "seed": "of every random draw, 0 to 2^32 - 1",
    "channels": "of the first cell or layer",
    "depth": "cells, or cells a stage for NAS-Bench-201",
    "epochs": "passes over the training images",
    "batch_size": "examples a step",
    "optimiser": "of this level",
    "learning_rate": "at the beginning of its schedule",
    "final_learning_rate": "at the end of its schedule",
    "heavy_ball": "momentum of SGD, in [0, 1)",
    "nesterov": "whether that momentum is Nesterov's",
    "weight_decay": "times the weights, added to their gradient",
    "clip": "largest norm of a gradient; null: any",
    "smoothing": "share of a label that is spread over all classes, in [0, 1)",
    "stem": "small_image: one 3x3 convolution; imagenet: that of DARTS, which reads large images",
    "flip": "whether images are mirrored at random",
    "augmentation": "what happens to a training image",
    "weights": "optimiser of the weights",
    "alpha": "optimiser of the architecture parameters",
    "train": "how what was found is trained",
    "dtype": "of the computation; parameters stay float32",
    "steps_per_call": "steps in one call of the compiled program; null: as many as take a few seconds",
    "checkpoint_every": "steps between two checkpoints; null: an epoch",
}

# What these names count or measure, wherever they are numbers.
UNITS = {
    **dict.fromkeys(("image_size", "crop", "cutout", "height", "width", "kernels", "dilations", "strides"), "pixels"),
    **dict.fromkeys(("steps", "inner_steps", "steps_per_call", "checkpoint_every", "record_every", "offset"), "steps"),
    **dict.fromkeys(("batch_size", "train_images", "num_samples"), "images"), "tuning_steps": "steps",
    **dict.fromkeys(("epochs", "eigenvalue_every"), "epochs"), "num_evaluations": "evaluations", "num_runs": "runs",
    **dict.fromkeys(("channels", "head_channels"), "channels"), "random_cells": "networks", "lease_seconds": "s",
    **dict.fromkeys(("max_latency", "target_latency"), "ms"), "target_size": "bytes",
    "target_compute": "bit operations", "max_params": "10^6 parameters", "max_flops": "10^9 operations",
    **dict.fromkeys(("min_throughput", "min_training"), "images/s"), "max_memory": "MB", "budget": "s",
}  # fmt: skip
_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", types.NoneType: "null"}
_WORDS |= {list: "list", tuple: "list", dict: "table"}


class Setting(NamedTuple):
    """A setting, or a group of them, and everything that there is to say of it."""

    name: str  # as the command takes it, such as train.epochs
    value: str  # the default, as YAML; of a group empty
    choices: str  # if it is one of several words
    kind: str  # of value, in words; of a group empty
    bounds: str  # in words, with the unit; empty: any
    meaning: str


def explained(settings: Any, prefix: str = "") -> Iterator[Setting]:
    """Every setting in the order of the dataclass, a group before its parts.

    Args:
      settings: a dataclass, whose fields may be dataclasses; the defaults are its values.
      prefix: of the names.

    Yields:
      The settings.
    """
    kind = type(settings)
    known, hints = descriptions(kind), typing.get_type_hints(kind)
    for field in dataclasses.fields(settings):
        value, hint, name = getattr(settings, field.name), hints[field.name], f"{prefix}{field.name}"
        meaning = known.get(field.name, "")
        if dataclasses.is_dataclass(value):
            yield Setting(name, "", "", "", "", meaning)
            yield from explained(value, f"{name}.")
            continue
        value = str(value) if isinstance(value, Own) else value
        plain = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9)
        plain = plain.removesuffix("...\n").rstrip("\n")
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        choices = " | ".join(typing.get_args(hint)) if typing.get_origin(hint) is typing.Literal else ""
        words = "text" if choices else " or ".join(_WORDS[typing.get_origin(one) or one] for one in options)
        bounds = _bounds(kind, field.name) if re.search("int|float", str(hint)) else ""
        yield Setting(name, plain, choices, words, bounds, meaning)


def about(settings: Any, name: str) -> str:
    """What there is to say of one setting, or of a group and its parts.

    Args:
      settings: see `explained`.
      name: of the setting, such as weights.learning_rate.

    Returns:
      Lines of text.

    Raises:
      UserError: if there is no such setting.
    """
    every = list(explained(settings))
    found = [one for one in every if f"{one.name}.".startswith(f"{name}.")]
    found = found or [one for one in every if one.name == name.rpartition(".")[0] and one.kind == "table"]
    if not found:
        names = [one.name for one in every]
        near = [one for one in names if one.endswith(f".{name}")] or difflib.get_close_matches(name, names, 1)
        meant = f"did you mean {' or '.join(near)}?" if near else "jnas search --show prints all of them"
        raise UserError(f"there is no setting {name!r}: {meant}")
    lines = []
    for one in found:
        lines += [f"{one.name}{' = ' * bool(one.kind)}{one.value}", f"    {one.meaning}"]
        lines += [f"    {', '.join(filter(None, (one.choices or one.kind, one.bounds)))}"] if one.kind else []
    return "\n".join(lines) + "\n"


def as_markdown(settings: Any) -> str:
    """All settings as a table of a reference page: name, default, values with bounds and unit, meaning."""
    rows = tuple(
        (one.name, one.value, ", ".join(filter(None, (one.choices or one.kind, one.bounds))), one.meaning)
        for one in explained(settings)
    )
    return report.as_markdown(report.Table("", ("setting", "default", "values", "meaning"), rows))


def descriptions(kind: type) -> dict[str, str]:
    """What the settings of a dataclass mean: the comment behind a field, the sentences above it, or its docstring.

    A comment above a field that begins in lower case is the heading of several, and says nothing about one.

    Args:
      kind: a dataclass, whose source can be read.

    Returns:
      Name to description, of those fields of its own that have one.

    Raises:
      OSError: where there is no source.
    """
    source = textwrap.dedent(inspect.getsource(kind))
    comments = {
        token.start[0]: (token.string.lstrip("# "), token.start[1])
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    attributes = dict(re.findall(r"^ +(\w+): (.+)$", kind.__doc__ or "", re.MULTILINE))
    alone = {line for line, (_, column) in comments.items() if not source.splitlines()[line - 1][:column].strip()}
    found: dict[str, str] = {}
    body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
    for field in body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        behind = [comments[line][0] for line in range(field.lineno, (field.end_lineno or 0) + 1) if line in comments]
        first = field.lineno
        while first - 1 in alone:
            first -= 1
        while first < field.lineno and not comments[first][0][:1].isupper():
            first += 1
        above = [comments[line][0] for line in range(first, field.lineno)]
        words = " ".join(above + behind) or attributes.get(field.target.id) or COMMON.get(field.target.id)
        if words:
            found[field.target.id] = words.removesuffix(".")
    return found


def as_yaml(settings: Any) -> str:
    """The settings as YAML, each with its choices, meaning and bounds behind it; `config.read_yaml` reads them back.

    Args:
      settings: a dataclass, whose fields may be dataclasses.

    Returns:
      The text, which ends with a newline.
    """
    lines = []
    for one in explained(settings):
        *parents, name = one.name.split(".")
        said = ": ".join(filter(None, (one.choices, one.meaning)))
        comment = "; ".join(filter(None, (said, one.bounds)))
        value = f" {one.value}" if one.kind else ""
        lines.append(f"{'  ' * len(parents)}{name}:{value}{'  # ' * bool(comment)}{comment}")
    return "\n".join(lines) + "\n"


def _bounds(kind: Any, name: str) -> str:
    low, high = bounds_of(getattr(kind, "own_bounds", {}), name)
    least = "above 0" if low == POSITIVE else f"at least {low:,}" if low > -LARGE else ""
    most = "below 1" if high == BELOW_ONE else f"at most {high:,}" if high < LARGE else ""
    both = least.startswith("at least") and most.startswith("at most")
    words = f"{low:,} to {high:,}" if both else ", ".join(filter(None, (least, most)))
    return " ".join(filter(None, (words, UNITS.get(name))))
