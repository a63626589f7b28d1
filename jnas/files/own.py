"""Parts of the user's own out of Python files: only a path that the user types is ever run, and no file names one."""

import contextlib
import hashlib
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Iterator
from typing import Any

from jnas.errors import UserError
from jnas.files.reading import LONGEST, opened
from jnas.files.text import shortened

_TYPED = re.compile(r"(.+\.py):([A-Za-z_]\w*)", re.DOTALL)
_RECORDED = re.compile(r"([^/\\]+\.py):(\w+)@sha256:([0-9a-f]{64})")


class Changed(UserError):
    """The file of a part is not as it was."""


class Own(str):
    """The name of a part of the user's own, which is all that files hold of it, and with it the part.

    Attributes:
      part: a space, data, or what makes an objective.
    """

    part: Any

    def __new__(cls, name: str, part: Any) -> "Own":
        """The name with its part."""
        own = super().__new__(cls, name)
        own.part = part
        return own

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """A copy, and what is written to a file, is the name alone."""
        return str, (str(self),)


def is_typed(text: str) -> bool:
    """Whether what a user typed is a part of a file, `FILE.py:NAME`."""
    return _TYPED.fullmatch(text) is not None


def read(text: str) -> Own:
    """Run a Python file that a user named, once in a process, and take a part of it.

    The digest is of this file alone: keep in it all that the part is made of.

    Args:
      text: `FILE.py:NAME`.

    Returns:
      The part, named `FILE.py:NAME@sha256:DIGEST`, without the folder of the file.

    Raises:
      UserError: if there is no such file, or it cannot be run, or has no such name.
    """
    typed = _TYPED.fullmatch(text)
    if typed is None:
        raise UserError(f"{shortened(text)!r} is no part of a Python file: write FILE.py:NAME")
    path, name = pathlib.Path(typed[1]).expanduser(), typed[2]
    if not path.exists():
        raise UserError(f"there is no file {shortened(typed[1])}: check the path")
    with opened(path) as file:
        content = file.read(LONGEST)
    digest = hashlib.sha256(content).hexdigest()
    key = f"_jnas_own_{digest}"
    if key not in sys.modules:  # what is made twice is compiled twice
        _run(path, content, key)
    module = sys.modules[key]
    if not hasattr(module, name):
        there = ", ".join(one for one in vars(module) if not one.startswith("_"))
        raise UserError(f"{path.name} has no {name}: give one of {shortened(there)}")
    return Own(f"{path.name}:{name}@sha256:{digest}", getattr(module, name))


def part_of(name: str, setting: str) -> Any:
    """The part that comes with the name which a setting has; None: it is not of the user's own.

    Raises:
      UserError: if the name, as files hold it, is of a part that the user has to name.
    """
    if isinstance(name, Own):
        return name.part
    found = _RECORDED.fullmatch(name) or _TYPED.fullmatch(name)
    if found:
        file = pathlib.PurePath(found[1]).name
        raise UserError(
            f"the {setting} is {found[2]} of {file}, and a Python file is run only where you name it: give "
            f"{setting}=PATH/{file}:{found[2]}, or --{setting} PATH/{file}:{found[2]} to commands without settings"
        )
    if "@sha256:" in name:
        raise UserError(f"the {setting} {shown(name)} was given as a value in Python: give it again with {setting}=")
    return None


def is_changed(recorded: object, given: object) -> bool:
    """Whether two names are of one part of a file whose content is not the same."""
    found = [_RECORDED.fullmatch(str(name)) for name in (recorded, given)]
    old, new = (match.groups() if match else ("", "", "") for match in found)
    return bool(old[0]) and old[:2] == new[:2] and old[2] != new[2]


def check_unchanged(recorded: object, given: object, whose: object, remedy: str) -> None:
    """Raises `Changed` if the file of a part is not as it was when its name was recorded."""
    if is_changed(recorded, given):
        file = str(given).partition(":")[0]
        old, new = (str(name).rpartition(":")[2][:12] for name in (recorded, given))
        raise Changed(f"{file} has changed since {whose} (SHA-256 {old}..., now {new}...): restore it, or {remedy}")


def shown(name: str) -> str:
    """The name of a part as a page shows it, with the beginning of its digest."""
    return re.sub(r"@sha256:([0-9a-f]{8})[0-9a-f]{56}$", r"@\1", name)


@contextlib.contextmanager
def explained(file: str) -> Iterator[None]:
    """Inside the block whatever is wrong with a file of the user's, called `file`, is a UserError with its line."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if pathlib.PurePath(frame.filename).name == file]
        lines += [error.lineno] if isinstance(error, SyntaxError) else []
        where = f"{file}, line {lines[-1]}" if lines else file
        raise UserError(f"{where}: {type(error).__name__}: {shortened(str(error))}; correct the file") from error


def _run(path: pathlib.Path, content: bytes, key: str) -> None:
    module = types.ModuleType(key, f"Parts of {path.name}.")
    module.__file__ = str(path.resolve())
    sys.modules[key] = module  # dataclasses look their module up while they are made
    try:
        with explained(path.name):
            exec(compile(content, module.__file__, "exec"), vars(module))
    except UserError:
        del sys.modules[key]
        raise
