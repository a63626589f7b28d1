"""Whether the worker of a running trial is alive: on this machine by its process, elsewhere by a beat that goes on.

Optuna's own heartbeat exists for databases only, and tells the dead by comparing clocks; this one is the same in every
storage, and needs no two clocks to agree: a beat that an observer has not seen move for a while has stopped.
"""

import contextlib
import functools
import os
import pathlib
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jnas.study.ledger import Row

TAKEN = "taken"  # in a lease: by the worker that runs the trial
BEATS = 5  # in the time after which a worker counts as dead


def identity() -> dict[str, Any]:
    """Who works here: a lease without its beat."""
    return {"worker": uuid.uuid4().hex, "machine": _machine(), "pid": os.getpid(), "born": _born(os.getpid())}


class Watch:
    """What an observer knows of the beats of others."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        self.seconds = seconds
        self.own: str | None = None  # the observer's own worker: a trial in its name is not shown, or another has it
        self._clock = clock
        self._seen: dict[int, tuple[Any, float]] = {}  # number of a trial -> its lease, and since when it looks so

    def dead(self, rows: Sequence[Row]) -> list[Row]:
        """The running trials whose worker is gone: its process has ended here, or its beat has stopped elsewhere.

        A process of this machine is not judged by its beat: on a busy one that may be late.
        """
        now = self._clock()
        running = {row.number: row for row in rows if row.state == "running"}
        before = self._seen
        self._seen = {}
        for number, row in running.items():
            lease, since = before.get(number, (None, now))
            self._seen[number] = (row.lease, since if lease == row.lease and number in before else now)
        return [
            row
            for number, row in running.items()
            if self._ended(row.lease)
            or (not self._lives_here(row.lease) and now - self._seen[number][1] >= self.seconds)
        ]

    # A lease that is not marked as taken is still that of whoever made room: who runs the trial is not known yet.

    def _ended(self, lease: dict[str, Any] | None) -> bool:
        return bool(lease) and lease.get(TAKEN, False) and process_ended(lease)

    def _lives_here(self, lease: dict[str, Any] | None) -> bool:
        return bool(lease) and lease.get(TAKEN, False) and is_here(lease) and lease.get("worker") != self.own


def process_ended(lease: dict[str, Any] | None) -> bool:
    """Whether the lease is of a process of this machine that is no more."""
    return bool(lease) and is_here(lease) and _born(lease["pid"]) != lease.get("born")


def is_here(lease: dict[str, Any] | None) -> bool:
    """Whether the lease is of a process of this machine, of the past or the present."""
    return bool(lease) and lease.get("machine") == _machine()


@contextlib.contextmanager
def beating(seconds: float, beat: Callable[[int], None]) -> Iterator[None]:
    """Calls `beat(count)` again and again from a thread, often enough for an observer that waits `seconds`.

    What `beat` raises is ignored: a storage may be out of reach for a moment, and a trial may have been taken away.
    """
    stop = threading.Event()

    def run() -> None:
        count = 0
        while not stop.wait(seconds / BEATS):
            count += 1
            with contextlib.suppress(Exception):
                beat(count)

    thread = threading.Thread(target=run, name="jnas-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@functools.cache
def _machine() -> str:
    """One name for all processes that see each other's numbers: a container has its own."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # not Linux: the name must do
        parts += [
            pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")[:8],
            os.readlink("/proc/self/ns/pid"),
        ]
    return " ".join(parts)


def _born(pid: int) -> str | None:
    """When a process began, so that its number, given again, is not mistaken for it; None if there is none."""
    try:
        state, *rest = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        if pathlib.Path("/proc/self/stat").exists():
            return None
        return _exists(pid)
    return None if state in "ZX" else rest[18]  # a zombie is dead, whoever has yet to hear of it


def _exists(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"
