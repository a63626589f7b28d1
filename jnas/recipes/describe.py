"""Settings in words: what each of them means, from the comments beside them, for `--show`."""

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
import typing
from collections.abc import Iterator
from typing import Any

import yaml

# What these names mean wherever the settings that have them say nothing else.
COMMON = {
    "data": "fashion-mnist-5k, fashion-mnist-slice, FILE.npz, a folder of class folders, or tfds:NAME[:DIR]",
    "image_size": "side in pixels to which the images of a folder are resized; null: they are all of one size",
    "space": "nasbench201, darts, s1 to s4, cell-3:OPERATORS, chain-4:OPERATORS, as jnas spaces lists them",
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
    """The settings as YAML, each with what it means behind it; `config.read_yaml` reads them back.

    Args:
      settings: a dataclass, whose fields may be dataclasses.

    Returns:
      The text, which ends with a newline.
    """
    return "\n".join(_lines(settings, "")) + "\n"


def _lines(settings: Any, indent: str) -> Iterator[str]:
    known, hints = descriptions(type(settings)), typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value, hint = getattr(settings, field.name), hints[field.name]
        one_of = f"{' | '.join(typing.get_args(hint))}:" if typing.get_origin(hint) is typing.Literal else ""
        comment = " ".join(filter(None, (one_of, known.get(field.name, "")))).removesuffix(":")
        behind = f"  # {comment}" if comment else ""
        if dataclasses.is_dataclass(value):
            yield f"{indent}{field.name}:{behind}"
            yield from _lines(value, f"{indent}  ")
        else:
            plain = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9)
            yield f"{indent}{field.name}: {plain.removesuffix('...' + chr(10)).rstrip(chr(10))}{behind}"
