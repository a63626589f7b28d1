"""Records of a run as JSON lines that agree with its checkpoints: no gap and no repeat, however often it was killed."""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from jnas.errors import UserError
from jnas.files.writing import explain, plain, prepare_folder
from jnas.train.hooks import Event, Hook, chunks_of, progress, tensorboard


def jsonl_log(path: str | os.PathLike[str]) -> Hook:
    """Write one JSON object a step: `{"step": 1, "time": 1763766000.0, "loss": 2.3, ...}`.

    `step` counts from 1, the state after that many steps; `time` is in seconds since 1970 and shared by the steps of a
    chunk. When a run goes on after step s, records beyond s and a last line torn by a kill are removed before it
    writes.

    Args:
      path: the file; its folder is made if absent.

    Returns:
      The hook; it raises UserError if the file cannot be written or holds anything else.
    """

    def records(event: Event) -> Iterable[dict[str, Any]]:
        # Through text: the shortest decimal of a float32, not that of the double it would become.
        columns = {name: [json.loads(str(v)) for v in values] for name, values in event.metrics.items()}
        now = round(time.time(), 3)
        count = len(next(iter(columns.values()), ()))
        for i in range(count):
            yield {"step": event.step - count + 1 + i, "time": now, **{name: c[i] for name, c in columns.items()}}

    return _lines(path, records, every=None)


def jsonl_each(path: str | os.PathLike[str], every: int, record: Callable[[Event], dict[str, Any]]) -> Hook:
    """Write one JSON object at each multiple of some number of steps, such as the genotype of each epoch.

    Args:
      path: the file, kept in agreement with the checkpoints as `jsonl_log` does.
      every: steps between two records.
      record: what to write; `step` is put before it. Arrays become nested lists, a float that is not finite null.

    Returns:
      The hook; it raises UserError if the file cannot be written or holds anything else.

    Raises:
      ValueError: if `every` is below 1.
    """
    if every < 1:
        raise ValueError(f"every is {every}: give at least 1 step")

    def records(event: Event) -> Iterable[dict[str, Any]]:
        if event.step % every == 0:
            yield {"step": event.step, **record(event)}

    return _lines(path, records, every=every)


def standard_hooks(
    folder: str | os.PathLike[str], title: str, *metrics: str, steps_per_call: int | None = None
) -> list[Hook]:
    """What every long training keeps: progress, JSON lines and TensorBoard curves.

    Args:
      folder: for `metrics.jsonl` and the events.
      title: of the progress line.
      metrics: that it shows.
      steps_per_call: see `chunks_of`.

    Returns:
      The hooks.
    """
    return [
        *chunks_of(steps_per_call),
        progress(title, metrics=metrics),
        jsonl_log(pathlib.Path(folder) / "metrics.jsonl"),
        tensorboard(os.fspath(folder)),
    ]


def _lines(
    path: str | os.PathLike[str], records: Callable[[Event], Iterable[dict[str, Any]]], *, every: int | None
) -> Hook:
    file: BinaryIO | None = None

    def start(step: int, num_steps: int) -> None:
        nonlocal file
        prepare_folder(pathlib.Path(path).parent)
        with explain("write", path), contextlib.ExitStack() as opened:
            file = opened.enter_context(open(path, "a+b"))
            file.truncate(_length_up_to(file, step, os.fspath(path)))
            opened.pop_all()  # it stays open until `end`

    def steps(event: Event) -> None:
        assert file is not None
        with explain("write", path):
            file.write(b"".join(json.dumps(plain(r), allow_nan=False).encode() + b"\n" for r in records(event)))
            file.flush()  # into the hands of the system: from here a killed process loses nothing

    def save(step: int) -> None:
        assert file is not None
        with explain("write", path):
            os.fsync(file.fileno())  # on the disk, as the checkpoint will be: a machine that fails loses nothing either

    def end(step: int) -> None:
        assert file is not None
        with contextlib.suppress(OSError):  # closing tries again what `steps` has reported as refused
            file.close()

    return Hook(start, steps, save, end, every=every, first_process_only=True)


def _length_up_to(file: BinaryIO, step: int, name: str) -> int:
    """How many bytes of the log hold whole records of steps up to `step`; they stand in the order of their steps."""
    file.seek(0)
    length = 0
    for line in file:
        if not line.endswith(b"\n"):
            break
        try:
            found = int(json.loads(line)["step"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise UserError(f"{name} is no log of steps: move it away or choose another path") from error
        if found > step:
            break
        length += len(line)
    return length
