"""Locks on files, which the system takes back from a process that dies."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

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
        file = os.open(path, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT, 0o666)
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

    Before anybody writes, what a process left that was killed while writing, a line without its end, is taken off.
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
            _drop_torn_line(self._path)
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        """Give it back."""
        held, self._held = self._held, None
        if held is not None:
            held.__exit__(None, None, None)


def _drop_torn_line(path: str) -> None:
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        start = end
        while start:
            start = max(start - 4096, 0)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                start += found + 1
                break
        if start < end:
            file.truncate(start)
