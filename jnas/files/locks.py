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
