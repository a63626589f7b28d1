"""Settings from presets, YAML files and `key=value` words, checked against the dataclasses that describe them."""

import dataclasses
import difflib
import pathlib
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import yaml

from jnas.errors import UserError

Settings = TypeVar("Settings")
PRESETS = pathlib.Path(__file__).parents[1] / "presets"
KINDS = ("search", "grouped", "trials", "space_search", "quantised")  # of recipes; `cli.recipe_of` has their code


def build(kind: type[Settings], *layers: Mapping[str, Any]) -> Settings:
    """Settings of a dataclass from nested mappings laid over its defaults, the later over the earlier.

    Args:
      kind: a dataclass, whose fields may be dataclasses.
      layers: what is set.

    Returns:
      The settings.

    Raises:
      UserError: for an unknown key, a value of another type, or one that the dataclass refuses.
    """
    from pydantic import TypeAdapter, ValidationError

    values = _defaults(kind)
    for layer in layers:
        _check_keys(kind, layer, "")
        values = _merge(values, layer)
    for name, hint in typing.get_type_hints(kind).items():
        if typing.get_origin(hint) is dict and isinstance(values.get(name), Mapping):
            values[name] = dict(_flat(values[name]))
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "value_error":  # of a __post_init__, a sentence of ours
            raise UserError(str(first.get("ctx", {}).get("error"))) from error
        if first["type"] == "missing":
            raise UserError(f"{where} is not set: give {where}=...") from error
        message = first["msg"].removeprefix("Input should be ")
        raise UserError(f"{where} is {first['input']!r}: give {message}") from error


def read_preset(name: str) -> dict[str, Any]:
    """A preset of the package by its name, or a YAML file by its path.

    Raises:
      UserError: if there is neither, or the file is no mapping.
    """
    if name in presets():
        return read_yaml(PRESETS / f"{name}.yaml")
    if pathlib.Path(name).suffix in (".yaml", ".yml"):
        return read_yaml(pathlib.Path(name))
    raise UserError(f"{name!r} is no preset, YAML file or key=value: give one of {', '.join(presets())}, or FILE.yaml")


def kind_of(name: str) -> str:
    """Which of `KINDS` the settings of a preset or a YAML file are of: "search" unless its `kind` says another.

    Raises:
      UserError: if the file cannot be read, or names another kind.
    """
    path = PRESETS / f"{name}.yaml" if name in presets() else pathlib.Path(name)
    read_preset(name)  # says what is wrong with it
    kind = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("kind", "search")
    if kind not in KINDS:
        raise UserError(f"{name} has settings of kind {kind!r}: give those of one of {', '.join(KINDS)}")
    return kind


def presets() -> list[str]:
    """Names of the presets of the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def read_yaml(path: pathlib.Path) -> dict[str, Any]:
    """A mapping from a YAML file.

    Raises:
      UserError: if the file cannot be read or holds anything else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; name a YAML file or a preset") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text: give a YAML file of settings") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path} is not YAML{where}: correct it") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds a {type(content).__name__} and not a mapping: write lines of the form key: value"
        )
    content.pop("kind", None)  # config.yaml of a run says what kind of run it was
    return content


def read_words(words: Iterable[str]) -> dict[str, Any]:
    """A nested mapping from words such as `train.epochs=3`; each value is read as YAML.

    Raises:
      UserError: for a word without `=`, or one that is not YAML behind it.

    Example:
      >>> read_words(["train.epochs=3", "space=darts"])
      {'train': {'epochs': 3}, 'space': 'darts'}
    """
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise UserError(f"{word!r} is not of the form key=value: write it so")
        try:
            value = yaml.safe_load(text) if text else ""
        except yaml.YAMLError:
            value = text
        *parents, last = name.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UserError(f"{word!r} sets a part of {parent}, which was given a value: give only one of them")
        place[last] = value
    return values


def _check_keys(kind: type, values: Mapping[str, Any], prefix: str) -> None:
    hints = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = (
                f"did you mean {prefix}{near[0]}?" if near else f"the keys are {', '.join(prefix + k for k in known)}"
            )
            raise UserError(f"unknown key {prefix}{name}: {hint}")
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, Mapping):
                raise UserError(
                    f"{prefix}{name} is {value!r} and not a mapping: set its parts, such as {prefix}{name}.KEY=..."
                )
            _check_keys(typing.cast(type, hints[name]), value, f"{prefix}{name}.")


def _defaults(kind: type) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        f.name: f.default for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING
    }
    return {name: dataclasses.asdict(value) if _is_settings(value) else value for name, value in defaults.items()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of a setting that is itself a table, under dotted names, as `each.alpha.learning_rate=...` means."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_settings(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for name, value in high.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merge(merged[name], value) if both else value
    return merged
