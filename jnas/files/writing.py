"""Files and folders of a run: what cannot be written is said in one sentence, and no reader sees half a file."""

import contextlib
import math
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from jnas.errors import UserError


@contextlib.contextmanager
def explain(action: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the operating system's refusals inside the block into one sentence.

    Use it around writing or reading what a user named.

    Args:
      action: what was tried, in the words of the sentence: "write", "read".
      path: what it was tried on.

    Raises:
      UserError: for any `OSError` inside the block.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot {action} {os.fspath(path)}: {reason}; check the path, its permissions and its disk"
        ) from error


def prepare_folder(path: str | os.PathLike[str]) -> pathlib.Path:
    """Make a folder with its parents and find out, by writing to it, whether it can be written.

    Use it before hours of work whose result goes there.

    Args:
      path: the folder; it may exist.

    Returns:
      The same path.

    Raises:
      UserError: if it cannot be made or written.
    """
    folder = pathlib.Path(path)
    with explain("write to the folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Permission bits do not tell: the superuser passes them, and a read-only or full disk does not show in them.
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0")
    return folder


def atomic_write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file so that a reader, or a crash, finds the old content or the new one and nothing between.

    Args:
      path: the file; its folder must exist.
      content: text, written as UTF-8, or bytes.

    Raises:
      UserError: if it cannot be written.
    """
    target = pathlib.Path(path)
    data = content.encode() if isinstance(content, str) else content
    # In the same folder: a rename is atomic within one file system only.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with explain("write", target):
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def plain(value: Any) -> Any:
    """The value in types that JSON has: arrays as nested lists, a float that is not finite as None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "__array__"):
        return plain(np.asarray(value).tolist())
    return value
