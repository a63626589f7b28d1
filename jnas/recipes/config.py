"""Settings from presets, YAML files and `key=value` words, checked against the dataclasses that describe them."""

import contextlib
import dataclasses
import difflib
import functools
import os
import pathlib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import yaml

from jnas.errors import UserError
from jnas.files.own import Own
from jnas.files.plain_yaml import plain_yaml
from jnas.files.reading import yaml_of
from jnas.files.text import check_text
from jnas.report.reading import dotted

Settings = TypeVar("Settings")
NULLS = ("null", "Null", "NULL", "~", "")
RENAMED = {"inner_fraction": "validation", "validation_images": "validation", "examples": "train_images"}
PRESETS = pathlib.Path(__file__).parents[1] / "presets"
KINDS = ("search", "grouped", "trials", "space_search", "quantised")  # of recipes; `commands.recipe_of` has their code


def build(kind: type[Settings], *layers: Mapping[str, Any]) -> Settings:
    """Settings of a dataclass from nested mappings laid over its defaults, the later over the earlier.

    Text is read as the field's type asks: `data=2024` names data, `seed=010` is ten, and only what may be null is made
    so by `null`.

    Args:
      kind: a dataclass, whose fields may be dataclasses.
      layers: what is set, as values or as text.

    Returns:
      The settings.

    Raises:
      UserError: for an unknown key, a value of another type, or one that the dataclass refuses.
    """
    from pydantic import ValidationError

    values = _defaults(kind)
    for layer in map(renamed, layers):
        _check_keys(kind, layer, "", kind)
        values = _merge(values, layer)
    hints = typing.get_type_hints(kind)
    for name, hint in hints.items():
        if typing.get_origin(hint) is dict and isinstance(values.get(name), Mapping):
            values[name] = dict(dotted(values[name]))
    own = {name: value for name, value in values.items() if isinstance(value, Own)}  # which pydantic would make plain
    try:
        plain = {k: str(v) if k in own else v for k, v in values.items() if k not in own or hints[k] is str}
        return dataclasses.replace(_adapter(kind).validate_python(_read(kind, plain, "")), **own)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "value_error":  # of a __post_init__, a sentence of ours
            sentence = str(first.get("ctx", {}).get("error"))
            name, verb = [*sentence.split(" ", 2), ""][:2]
            known = name.isidentifier() and verb == "is"  # it begins with the setting, and not with its group
            raise UserError(f"{where}.{sentence}" if where and known else sentence) from error
        if first["type"] == "missing":
            raise UserError(f"{where} is not set: give {where}=...") from error
        message = first["msg"].partition("Input should be ")[2] or f"another value ({first['msg'].lower()})"
        raise UserError(f"{where} is {_short(first['input'])}: give {message}") from error


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of older versions under the names and in the units of this one.

    >>> renamed({"inner_fraction": "0.6", "seed": "1"})
    {'validation': 0.4, 'seed': '1'}
    """
    found = dict[str, Any]()
    for name, value in values.items():
        if name == "inner_fraction":  # of the training images, the lower level's; validation is the rest
            with contextlib.suppress(TypeError, ValueError):
                value = round(1 - float(value), 12)
        found[RENAMED.get(name, name)] = value
    return found


def read_preset(name: str) -> dict[str, Any]:
    """A preset of the package by its name, or a YAML file by its path.

    Raises:
      UserError: if there is neither, or the file is no mapping.
    """
    if name in presets():
        return read_yaml(PRESETS / f"{name}.yaml")
    if pathlib.Path(name).suffix in (".yaml", ".yml"):
        return read_yaml(pathlib.Path(name))
    if pathlib.Path(name).suffix == ".npz" or os.path.isdir(name):
        raise UserError(f"{name!r} is no preset, YAML file or key=value: did you mean data={name}?")
    raise UserError(f"{name!r} is no preset, YAML file or key=value: give one of {', '.join(presets())}, or FILE.yaml")


def kind_of(name: str) -> str:
    """Which of `KINDS` the settings of a preset or a YAML file are of: "search" unless its `kind` says another.

    Raises:
      UserError: if the file cannot be read, or names another kind.
    """
    path = PRESETS / f"{name}.yaml" if name in presets() else pathlib.Path(name)
    read_preset(name)  # says what is wrong with it
    kind = yaml_of(path, typed=False).get("kind", "search")
    if kind not in KINDS:
        raise UserError(f"{name} has settings of kind {kind!r}: give those of one of {', '.join(KINDS)}")
    return kind


def presets() -> list[str]:
    """Names of the presets of the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def read_yaml(path: pathlib.Path) -> dict[str, Any]:
    """A mapping from a YAML file, its values as text, for `build` to read.

    Raises:
      UserError: if the file cannot be read or holds anything else.
    """
    if not path.exists():
        raise UserError(f"there is no file {path}: name a YAML file or a preset ({', '.join(presets())})")
    content = yaml_of(path, typed=False)
    content.pop("kind", None)  # config.yaml of a run says what kind of run it was
    return content


def read_words(words: Iterable[str]) -> dict[str, Any]:
    """A nested mapping from words such as `train.epochs=3`, its values as text, for `build` to read.

    Raises:
      UserError: for a word without `=`.

    Example:
      >>> read_words(["train.epochs=3", "space=darts"])
      {'train': {'epochs': '3'}, 'space': 'darts'}
    """
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise UserError(f"{word!r} is not of the form key=value: write it so")
        *parents, last = name.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UserError(f"{word!r} sets a part of {parent}, which was given a value: give only one of them")
        place[last] = text
    return values


@functools.cache
def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _read(hint: Any, value: Any, name: str) -> Any:
    """The value with its text read as far as the type of the setting says; pydantic does the rest.

    Raises:
      UserError: for text that is no list or table where one is wanted, or a truth value where none is.
    """
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return {key: _read(hints[key], part, f"{name}{key}.") for key, part in value.items()}
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    table = next((one for one in options if typing.get_origin(one) in (list, tuple, dict)), None)
    if isinstance(value, str) and types.NoneType in options and value in NULLS:
        return None
    if isinstance(value, bool) and bool not in options:
        raise UserError(f"{name[:-1]} is {value}: give a number or a name")
    if isinstance(value, str):
        check_text(value, name[:-1])
    if table is None:
        return value
    if isinstance(value, str):
        try:
            value = plain_yaml(value)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise UserError(f"{name[:-1]} is {_short(value)}: write it as [a, b], or {{key: value}}") from error
    if isinstance(value, list | tuple):
        return [_read(typing.get_args(table)[0], part, name) for part in value]
    if isinstance(value, Mapping):
        return {key: _read(typing.get_args(table)[-1], part, f"{name}{key}.") for key, part in value.items()}
    return value


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**40 else "an integer of many digits"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text):,} characters)"


def _check_keys(kind: type, values: Mapping[str, Any], prefix: str, whole: type) -> None:
    hints = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    for name, value in values.items():
        if name not in known:
            near = [f"{prefix}{one}" for one in difflib.get_close_matches(str(name), known, 1)]
            near = near or [path for path in _paths(whole) if path.rpartition(".")[2] == name]
            every = ", ".join(prefix + key for key in known)
            meant = f"did you mean {' or '.join(near)}?" if near else f"the keys are {every}"
            raise UserError(f"unknown key {prefix}{name}: {meant}")
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, Mapping):
                raise UserError(
                    f"{prefix}{name} is {value!r} and not a mapping: set its parts, such as {prefix}{name}.KEY=..."
                )
            _check_keys(typing.cast(type, hints[name]), value, f"{prefix}{name}.", whole)


def _paths(kind: type, prefix: str = "") -> Iterator[str]:
    """The dotted names of all settings."""
    for name, hint in typing.get_type_hints(kind).items():
        nested = dataclasses.is_dataclass(hint)
        yield from _paths(typing.cast(type, hint), f"{prefix}{name}.") if nested else [prefix + name]


def _defaults(kind: type) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        f.name: f.default for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING
    }
    return {name: dataclasses.asdict(value) if _is_settings(value) else value for name, value in defaults.items()}


def _is_settings(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for name, value in high.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merge(merged[name], value) if both else value
    return merged
