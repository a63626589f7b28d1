"""Locks on files, which the system takes back from a process that dies."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from typing import Any

from jnas.files.writing import explain


@contextlib.contextmanager
def exclusive(path: str | os.PathLike[str], *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock that one process at a time can have; it ends with the block or with the process.

    Args:
      path: of a file, made if absent and left there, or of a folder; where a file system locks no folders, as NFS, a
        file `.lock` in it.
      wait: for the holder; otherwise go on without the lock.

    Yields:
      Whether the lock is held.

    Raises:
      UserError: if the file cannot be opened.
    """
    folder, how = os.path.isdir(path), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
    with explain("lock", path):
        file = os.open(path, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(file, how)
            held = True
        except BlockingIOError:
            held = False
        except OSError:
            if not folder:
                raise
            held = None
        if held is None:
            with exclusive(os.path.join(path, ".lock"), wait=wait) as held:
                yield held
        else:
            yield held
    finally:
        os.close(file)


class JournalLock:
    """The lock of Optuna's journal file: the one it brings along outlives its holder by half a minute.

    Before anybody writes, what a process or machine left that failed while writing, lines that are none, is taken off.
    """

    def __init__(self, path: str):
        self._path = path
        self._held: contextlib.AbstractContextManager | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        held = exclusive(f"{self._path}.lock")
        held.__enter__()
        self._held = held
        try:
            _drop_torn_lines(self._path)
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        """Give it back."""
        held, self._held = self._held, None
        if held is not None:
            held.__exit__(None, None, None)


def journal_record(line: bytes) -> dict[str, Any] | None:
    """What a line of a journal holds; None of one that is torn, or overwritten by a machine that failed."""
    with contextlib.suppress(ValueError, RecursionError):
        if line.endswith(b"\n") and isinstance(record := json.loads(line), dict):
            return record
    return None


def _drop_torn_lines(path: str) -> None:
    with open(path, "r+b") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end:
            start = end - 1  # a line ends with its last byte
            while start:
                begin = max(start - 4096, 0)
                file.seek(begin)
                found = file.read(start - begin).rfind(b"\n")
                start = begin + found + 1
                if found >= 0:
                    break
            file.seek(start)
            if journal_record(file.read(end - start)) is not None:
                break
            end = start
        if end < size:
            file.truncate(end)
