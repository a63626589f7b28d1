"""A journal of trials in a file: who may write, and what is one."""

import contextlib
import json
import os
import sys
from typing import Any

from jnas.errors import UserError
from jnas.files.locks import exclusive

_BEGIN = b'{"op_code":'


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


def _record(line: bytes) -> dict[str, Any] | None:
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
            if _record(file.read(end - start)) is not None:
                break
            end = start
        if end < size:
            file.truncate(end)


def check_journal(path: str) -> None:
    """Refuse a file that is no journal, or that is damaged before its end, in one sentence; nothing is written."""
    from optuna.storages.journal._storage import JournalOperation

    if not os.path.isfile(path):
        raise UserError(f"{path} is no file: name a journal of trials, or a new file")
    with open(path, "rb") as file:
        if file.read(len(_BEGIN)) not in (_BEGIN, b""):
            raise UserError(f"{path} is no journal of trials, and is left as it is: name one, or a new file")
        file.seek(0)
        damaged, line, known = 0, b"\n", set(JournalOperation)
        for number, line in enumerate(file, start=1):
            record = _record(line)
            damaged = damaged or number * (record is None or record.get("op_code") not in known)
            if damaged and (record is not None or (number == 1 and line.endswith(b"\n"))):
                kept = f", or a copy of the {damaged - 1} lines before it with their trials" * (damaged > 1)
                raise UserError(f"line {damaged} of {path} is damaged or of another program: name a new file{kept}")
    if damaged and (b"\0" in line or line.endswith(b"\n")):  # not what a kill leaves
        print(f"line {damaged} of {path} is damaged: the trials before it are kept", file=sys.stderr)
