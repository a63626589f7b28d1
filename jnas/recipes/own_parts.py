"""The user's own space, data and objective: of a Python file that the user names, or as values in Python."""

import contextlib
import dataclasses
import hashlib
import inspect
import itertools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from jnas.data.arrays import Dataset, Splits
from jnas.data.npz import KEYS, splits_from
from jnas.errors import UserError
from jnas.files.own import Own, check_unchanged, explained, is_typed, read
from jnas.spaces import networks
from jnas.spaces.cell import CellSpace
from jnas.spaces.chain import ChainSpace


def typed(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a user typed or gives in Python, with the parts behind `space`, `data` and `objective`.

    ==========  ========================================================================================================
    setting     the part: itself, or for space and data a function without arguments that returns it
    ==========  ========================================================================================================
    space       a `CellSpace`, perhaps with operators of the user's own (`spaces.extend`), or a `ChainSpace`; for a
                search over spaces a list of those that are found by their names
    data        `data.Splits`; or the arrays x_train, y_train, x_test and y_test of an .npz file, in this order or in a
                mapping. A `Source` is for `jnas.fit`: a search divides and measures its images itself
    objective   `make(space, train, validation, training)` that returns an objective, as `objectives.short_training`
    ==========  ========================================================================================================

    Args:
      layer: settings; those named are text, such as `FILE.py:NAME`, or a part.

    Returns:
      The settings with every part as `own.Own`: its name says the file's digest, of data that are a value their own.

    Raises:
      UserError: if a file cannot be read, or a part is none.
    """
    found = dict(layer)
    for setting, made in (("space", _space), ("data", _data), ("objective", _objective)):
        value = found.get(setting)
        if isinstance(value, os.PathLike):
            value = found[setting] = os.fspath(value)
        if isinstance(value, str) and is_typed(value):
            value = read(value)
        if value is not None and (isinstance(value, Own) or not isinstance(value, str)):
            found[setting] = made(value)
    return found


def space_of(settings: Any) -> CellSpace | ChainSpace | None:
    """The one space of the user's own that settings hold, which files do not; None: there is none, or several."""
    part = getattr(getattr(settings, "space", None), "part", None)
    return None if isinstance(part, tuple) else part


def check_recorded(recorded: Mapping[str, Any], given: Any, whose: object) -> None:
    """Raises a UserError if the file of a part that is given again is not as a run had it.

    Args:
      recorded: names of the run's parts.
      given: settings, whose parts may be those of the run or others.
      whose: the run.
    """
    for setting in ("space", "data"):
        name = getattr(given, setting, None)
        check_unchanged(recorded.get(setting), name, f"the run in {whose}", "search again with it")


def _space(given: Any) -> Own:
    part = _made(given)
    if isinstance(part, list | tuple) and part and all(isinstance(one, CellSpace | ChainSpace) for one in part):
        digest = hashlib.sha256(" ".join(map(_name_of_value, part)).encode()).hexdigest()
        return Own(_name(given, f"spaces@sha256:{digest}"), tuple(part))
    if not isinstance(part, CellSpace | ChainSpace):
        raise UserError(f"space {_name(given)} is of type {type(part).__name__}: give a CellSpace, see spaces.extend")
    if isinstance(given, Own) and isinstance(part, CellSpace):
        part = dataclasses.replace(part, name=str(given))  # equal to no space but that of a file with this digest
    return Own(_name(given, _name_of_value(part)), part)


def _name_of_value(space: CellSpace | ChainSpace) -> str:
    """The name of a space that is found by it, and else the name with a digest of what the space is."""
    with contextlib.suppress(ValueError, UserError):
        if networks.network_space(space.name) == space:
            return space.name
    own = [getattr(space, field.name) for field in dataclasses.fields(space) if field.compare]
    return f"{space.name}@sha256:{hashlib.sha256(repr(own).encode()).hexdigest()}"


def _data(given: Any) -> Own:
    name, part = _name(given, "data"), _made(given)
    splits = _splits(part, name)
    if isinstance(given, Own):
        return Own(name, splits)
    digest = hashlib.sha256()
    for array in (array for one in splits for array in (one.images, one.labels)):
        digest.update(np.ascontiguousarray(array).data)
    return Own(f"{splits.train.name}@sha256:{digest.hexdigest()}", splits)


def _splits(part: Any, name: str) -> Splits:
    """Data in each form that `typed` names, checked as the arrays of a file are."""
    arrays, is_whole = part, isinstance(part, Splits) and all(isinstance(half, Dataset) for half in part)
    if is_whole:
        pairs = ((half.images.reshape(len(half), *half.shape), half.labels) for half in part)
        arrays = dict[str, Any](zip(KEYS, itertools.chain(*pairs), strict=True)) | {"channels": part.train.shape[-1]}
    elif isinstance(part, tuple | list) and len(part) == len(KEYS):
        arrays = dict[str, Any](zip(KEYS, part, strict=True))
    if not (isinstance(arrays, Mapping) and set(KEYS) <= set(arrays)):
        kind = f"{type(part).__name__}{f' of {type(part[0]).__name__}' if isinstance(part, Splits) else ''}"
        raise UserError(f"{name} is of type {kind}: give Splits of Datasets, or the arrays {', '.join(KEYS)}")
    try:
        arrays = {key: np.asarray(arrays[key]) for key in (*KEYS, "channels") if key in arrays}
    except (ValueError, TypeError) as error:  # lists of several lengths
        raise UserError(f"{name} holds what is no array ({error}): give images of one shape, and labels") from error
    splits = splits_from(arrays, name.partition("@")[0], name)
    if not is_whole:
        return splits
    number = splits.train.num_classes
    for half in part:
        if half.num_classes != number or len(half.class_names) not in (0, number):
            said = f"{half.num_classes} classes and {len(half.class_names)} names of them"
            raise UserError(f"{name} says {said}, and its labels are of {number}: give as many, or no names")
    kept = ({"name": half.name, "class_names": tuple(half.class_names)} for half in part)
    return Splits(*(dataclasses.replace(half, **names) for half, names in zip(splits, kept, strict=True)))


def _objective(given: Any) -> Own:
    part = given.part if isinstance(given, Own) else given
    name = _name(given, f"{getattr(part, '__module__', '')}.{getattr(part, '__qualname__', '')}")
    if not callable(part):
        raise UserError(f"objective {name} is of type {type(part).__name__}: give a function that makes an objective")
    if not isinstance(given, Own):
        try:
            source = inspect.getsource(part)
        except (OSError, TypeError):
            raise UserError(f"the source of objective {name} is not known: write it in a file, FILE.py:NAME") from None
        name = f"{name}@sha256:{hashlib.sha256(source.encode()).hexdigest()}"
    return Own(name, part)


def _made(given: Any) -> Any:
    part = given.part if isinstance(given, Own) else given
    if not callable(part):
        return part
    if not isinstance(given, Own):
        return part()
    with explained(given.partition(":")[0]):
        return part()


def _name(given: Any, other: str = "given") -> str:
    return str(given) if isinstance(given, Own) else other
