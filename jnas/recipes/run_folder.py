"""The folder of a run: what was asked, on what it ran, and what came out; the same command goes on or shows it.

In a run of several processes the first one reads and writes it; all call these functions and get the same answers.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from jnas import data, files
from jnas.data.load import load
from jnas.distributed import from_first
from jnas.distributed.environment import environment
from jnas.errors import UserError
from jnas.files import own
from jnas.files.locks import exclusive
from jnas.files.reading import json_of, yaml_of
from jnas.files.writing import LEFT
from jnas.recipes.config import renamed
from jnas.report.reading import dotted

CONFIG, RESULT, ENVIRONMENT = "config.yaml", "result.json", "environment.json"
GONE = {  # settings of old, at what changed nothing
    "entropy": 0.0, "temperature": 1.0, "statistics_groups": 1, "acquisition": "mean", "fine_tuning.epochs": 3,
    "checkpoint_every": None,
}  # fmt: skip
# Settings that older runs lack, and what those did.
BEFORE = {
    "shrink": 1, "inner_steps": 1, "order": "structure", "tuning_steps": 0, "tuning_rate": 0.02, "patience": None,
    "tolerance": 0.02, "score": "accuracy", "networks": 1, "rungs": 1, "eta": 3, "limits": {},
    "prior": "both", "max_memory": None, "target_accuracy": None,
}  # fmt: skip
CHECKPOINTS_SINCE = (0, 9)  # the first version whose checkpoints this one can go on from


@contextlib.contextmanager
def as_user_input() -> Iterator[None]:
    """Inside the block a ValueError is an answer to what the user asked for.

    Raises:
      UserError: for any ValueError, with its sentence.
    """
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error


def begin(folder: str | os.PathLike[str], settings: Any, kind: str) -> pathlib.Path:
    """Take up a run: write its settings and environment, or check that the folder holds this very run.

    Args:
      folder: made if absent.
      settings: a dataclass.
      kind: of run, "search" or "train".

    Returns:
      The folder.

    Raises:
      UserError: if the folder cannot be written or holds another run.
    """
    path = pathlib.Path(folder)
    from_first(lambda: _begin(path, _asked(settings, kind)))
    return path


def is_free(folder: pathlib.Path, settings: Any, kind: str) -> bool:
    """Whether `begin` would find this very run in a folder, or nothing; raises `own.Changed` if but for a file."""
    if not (folder / CONFIG).is_file():
        return not folder.exists() or (folder.is_dir() and _is_empty(folder))
    try:
        _check_same(folder / CONFIG, yaml.safe_load(_asked(settings, kind)))
    except own.Changed:
        raise
    except UserError:
        return False
    return True


@contextlib.contextmanager
def alone(folder: str | os.PathLike[str], settings: Any, kind: str) -> Iterator[pathlib.Path]:
    """Take up a run as `begin` does, and keep others from it inside the block; the system lets go for who is killed.

    Raises:
      UserError: as `begin`, and if another process works in the folder.
    """
    path = begin(folder, settings, kind)
    with contextlib.ExitStack() as stack:

        def take() -> None:
            if not stack.enter_context(exclusive(path, wait=False)):
                raise UserError(f"another process works in {path}: wait for it, or choose another folder with --out")

        from_first(take)
        yield path
        from_first(lambda: check_there(path))


def check_there(path: pathlib.Path) -> None:
    """Raises a UserError if somebody removed the folder of a run while it went on."""
    if not (path / CONFIG).is_file():
        raise UserError(f"{path} was removed while the run went on: remove what is left, and run the command again")


def read_json(path: pathlib.Path) -> Any:
    """The content of a JSON file, or None where there is none.

    Raises:
      UserError: if the file is damaged, or not as `schemas.of` says.
    """
    return from_first(lambda: _read_json(path))


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    from_first(lambda: _write_json(path, value))


def kept(path: pathlib.Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a JSON file holds; where there is none, `make` is called and what it returns written and read again."""
    found = read_json(path)
    if found is None:
        value = make()
        from_first(lambda: str(files.prepare_folder(path.parent)))
        write_json(path, value)
        found = read_json(path)  # as the next process will read it
    return found


def load_data(name: str, image_size: int | None) -> data.Splits:
    """The data set of a run, see `data.load`.

    Raises:
      UserError: as `data.load`, and if there is nothing to tell apart.
    """
    splits = load(name, size=None if image_size is None else (image_size, image_size))
    if splits.train.num_classes < 2:
        raise UserError(f"{splits.train.name} has one class, which leaves nothing to tell apart: give two or more")
    return splits


def _asked(settings: Any, kind: str) -> str:
    return yaml.safe_dump({"kind": kind, **dataclasses.asdict(settings)}, sort_keys=False, allow_unicode=True)


def _is_empty(path: pathlib.Path) -> bool:
    """Whether a folder holds nothing, or what is left of a run that ended before it began."""
    return all(entry.name == ENVIRONMENT or LEFT.fullmatch(entry.name) for entry in path.iterdir())


def _begin(path: pathlib.Path, asked: str) -> None:
    stored = path / CONFIG
    if stored.exists():
        _check_same(stored, yaml.safe_load(asked))  # as the file was read: its lists are no tuples
        _check_version(path)
        files.prepare_folder(path)
        return
    if path.is_dir() and not _is_empty(path):
        raise UserError(f"{path} is not empty and holds no run: choose another folder with --out")
    files.prepare_folder(path)
    _write_json(path / ENVIRONMENT, environment())
    files.atomic_write(stored, asked)  # last: now it is a run


def _read_json(path: pathlib.Path) -> Any:
    return json_of(path) if path.exists() else None


def _write_json(path: pathlib.Path, value: Any) -> None:
    files.atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _check_version(path: pathlib.Path) -> None:
    """Refuse to go on with a run whose checkpoints are laid out in another way; a finished one can be read."""
    version = (_read_json(path / ENVIRONMENT) or {}).get("jnas", "")
    numbers = re.match(r"(\d{1,9})\.(\d{1,9})", version)
    old = numbers is not None and tuple(map(int, numbers.groups())) < CHECKPOINTS_SINCE
    if old and not any((path / name).is_file() for name in (RESULT, "search/found.json")):
        raise UserError(
            f"{path} was begun by jnas {version}, whose checkpoints this version cannot go on from: "
            "finish it with that version, or choose another folder with --out"
        )


def _check_same(stored: pathlib.Path, wanted: dict[str, Any]) -> None:
    old, new = (dict(dotted(value)) for value in (renamed(yaml_of(stored, typed=True)), wanted))
    old = {key: value for key, value in BEFORE.items() if key in new} | old
    changed = [key for key in new if own.is_changed(old.get(key), new[key])]
    for key in {**new, **old}:
        # Of a run that began before 0.7.0: what has gone, where it changed nothing, and what there was not.
        unknown = key not in old and key.startswith("adjoint.")
        same = old.get(key) == new.get(key) or unknown or (key not in new and old[key] == GONE.get(key, ...))
        if not same and key not in changed:
            raise UserError(
                f"{stored.parent} holds a run with {key}={old.get(key)} and not {new.get(key)}: "
                "choose another folder with --out, or the settings of that run"
            )
    for key in changed:
        own.check_unchanged(old[key], new[key], f"the run in {stored.parent}", "choose another folder with --out")
