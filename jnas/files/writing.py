"""Files and folders of a run: what cannot be written is said in one sentence, and no reader sees half a file."""

import contextlib
import fcntl
import math
import os
import pathlib
import platform
import re
import shutil
import struct
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
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
    with explain("write", target):
        if not target.name or (target.exists() and not target.is_file() and not target.is_dir()):
            raise UserError(f"cannot write {os.fspath(path)!r}: it is no file; name another")  # a device would be lost
        sweep(target.parent, target.name)
        while True:
            # In the same folder: a rename is atomic within one file system only.
            temporary = target.with_name(left_name())
            try:
                with open(temporary, "xb") as file:  # x: what stands there, such as a link, is not opened
                    with contextlib.suppress(OSError):  # for this process is alive, see `sweep`
                        fcntl.flock(file, fcntl.LOCK_EX)
                    file.write(content.encode() if isinstance(content, str) else content)
                    file.flush()
                    os.fsync(file.fileno())
                    return os.replace(temporary, target)
            except BaseException as error:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                if not isinstance(error, FileNotFoundError) or not target.parent.is_dir():
                    raise  # and else it was swept away before it was locked


LEFT = re.compile(r"\.jnas-[0-9a-f]{32}\.tmp")  # what `left_name` returns


def left_name() -> str:
    """A name that no other process on no machine has, for what is going to be renamed or removed."""
    return f".jnas-{uuid.uuid4().hex}.tmp"


@contextlib.contextmanager
def staged(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A new folder in another one, which no `sweep` takes while the block lasts; in the end it is renamed or gone."""
    while True:
        place = folder / left_name()
        place.mkdir()
        try:
            file = os.open(place, os.O_RDONLY)
        except FileNotFoundError:  # swept away before it was locked
            continue
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if place.is_dir():
                return (yield place)
        finally:
            os.close(file)
            shutil.rmtree(place, ignore_errors=True)


def sweep(folder: pathlib.Path, name: str = "") -> None:
    """Remove what is named by `left_name` and locked by nobody, for its writer was killed.

    Beside it what a version before 0.11, which locked nothing, left of a file of that name a day ago or longer.
    """
    left = re.compile(rf"\.jnas-.*\.tmp|(\.{re.escape(name)}\.\d+\.tmp)")
    for path, found in ((path, left.fullmatch(path.name)) for path in folder.glob(".*.tmp")):
        with contextlib.suppress(OSError):
            if found and not (found[1] and time.time() - path.lstat().st_mtime < 86_400):
                file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                finally:
                    os.close(file)


def curves(folder: Any, suffix: str, purge: int | None = None) -> Callable[[Iterable[tuple[str, float, int]]], None]:
    """A new file of TensorBoard's events, written by no thread of its own: what a disk refuses is said to the caller.

    Args:
      folder: for the file; made if absent.
      suffix: of its name, which has a resolution of one second.
      purge: the step from which on it hides what earlier files hold.

    Returns:
      A function that writes `(name, value, step)`s; it raises UserError if the file cannot be written.
    """
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboardX.record_writer import masked_crc32c
    from tensorboardX.summary import scalar

    path = prepare_folder(folder) / f"events.out.tfevents.{time.time():.0f}.{platform.node()}{suffix}"

    def write(events: Iterable[Event]) -> None:
        with explain("write", path), open(path, "ab") as file:
            for data in (event.SerializeToString() for event in events):
                for part in (struct.pack("<Q", len(data)), data):
                    file.write(part + struct.pack("<I", masked_crc32c(part)))

    begun = Event(step=purge, session_log=SessionLog(status=SessionLog.START))
    write([Event(wall_time=time.time(), file_version="brain.Event:2"), *([] if purge is None else [begun])])
    return lambda rows: write(Event(wall_time=time.time(), step=n, summary=scalar(name, v)) for name, v, n in rows)


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
