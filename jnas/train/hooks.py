"""What looks on while `fit` runs: the hook type and the small ones."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, TextIO

import numpy as np

from jnas.files.writing import curves
from jnas.types import State


class Event(NamedTuple):
    """Some steps were done."""

    step: int  # the state is that after this many steps
    num_steps: int  # of the whole run
    state: State  # valid during the call only: the next chunk of steps reuses its memory
    metrics: dict[str, np.ndarray]  # name -> [n] or [n, num_runs]: steps step - n + 1 .. step
    done: np.ndarray | None = None  # [n, num_runs] bool, of several runs: whether a run did a step, or had diverged


def _nothing(*_: Any) -> None:
    pass


class Hook(NamedTuple):
    """Functions that `fit` calls, for each chunk of steps `steps` and then, where a checkpoint is due, `save`.

    A hook that keeps a record writes it in `steps` and makes it last in `save`: then the record is never behind the
    checkpoint, and on resuming `start` drops what is ahead of it. A hook that decides says so by what `steps` returns,
    and keeps what it decides by in the checkpoint, under its name.
    """

    start: Callable[[int, int], Any] = _nothing  # (step, num_steps): the run starts or goes on after `step` steps
    # After every chunk of steps; one with a metric that is not finite is not told. True: it is enough, the run is over.
    steps: Callable[[Event], Any] = _nothing
    # (step): the checkpoint of this step is about to be written; it holds what a hook with a name returns, of JSON
    save: Callable[[int], Any] = _nothing
    end: Callable[[int], Any] = _nothing  # (step): `fit` is left, done, stopped or failed
    every: int | None = None  # a chunk ends at each multiple of it, so that `steps` sees those states
    steps_per_call: int | None = None  # the most steps in a chunk, in the place of what the clock says; 1: no loop
    first_process_only: bool = False  # for what writes files: in a run of several processes, the first one calls it
    name: str | None = None  # of what it keeps in checkpoints
    restore: Callable[[Any], Any] = _nothing  # (what `save` returned), before `start`; also of a run that is over


def chunks_of(steps: int | None) -> list[Hook]:
    """A hook under which each call of the compiled program does so many steps; None: no hook, the clock decides."""
    return [] if steps is None else [Hook(steps_per_call=steps)]


_waiting: ContextVar[list[Hook] | None] = ContextVar("jnas_hooks", default=None)


@contextlib.contextmanager
def in_the_first_fit(hooks: Sequence[Hook]) -> Iterator[None]:
    """Inside the block the first `fit` that runs a step calls these hooks, too, before its own.

    Args:
      hooks: for a run whose `fit` is out of reach. They look on: their `every`, `steps_per_call` and `name` count for
        nothing.
    """
    token = _waiting.set(list(hooks))
    try:
        yield
    finally:
        _waiting.reset(token)


def take_waiting() -> list[Hook]:
    """The hooks that `in_the_first_fit` waits to place, once; none otherwise."""
    waiting = _waiting.get() or []
    taken = list(waiting)
    waiting.clear()
    return taken


def of_run(run: int, hook: Hook) -> Hook:
    """A hook that sees one of several runs as if it were alone, until that run diverges. It cannot end the program.

    Args:
      run: its number, from 0.
      hook: of a single run. It is not shown the state, for that may lie on devices of another host: what it needs of it
        a hook of all runs takes with `to_host`.

    Returns:
      A hook for `fit(runs=...)`.

    Raises:
      ValueError: for a hook with a name.
    """
    if hook.name is not None:
        raise ValueError(f"the hook {hook.name!r} keeps something in checkpoints, which one of several runs cannot")

    def steps(event: Event) -> None:
        assert event.done is not None
        kept = event.done[:, run]  # what was done stands before what was not
        if not kept.any():
            return
        step = event.step - len(kept) + int(kept.sum())
        hook.steps(Event(step, event.num_steps, None, {k: v[kept, run] for k, v in event.metrics.items()}))

    return hook._replace(steps=steps)


def tensorboard(path: str) -> Hook:
    """Write every metric of every step as a TensorBoard curve.

    Args:
      path: the folder for the event files. A resumed run adds a file that hides what the earlier ones hold beyond its
        start.

    Returns:
      The hook; it raises UserError on starting if the folder cannot be written.
    """
    write: Any = None

    def start(step: int, num_steps: int) -> None:
        nonlocal write
        write = curves(path, f".after-{step}", step + 1 if step else None)

    def steps(event: Event) -> None:
        write(
            (name, value, step)
            for name, values in event.metrics.items()
            for step, value in enumerate(values.tolist(), event.step - len(values) + 1)
        )

    return Hook(start, steps, first_process_only=True)


def progress(
    description: str,
    *,
    metrics: Sequence[str] = (),
    interval: float = 10.0,
    stream: TextIO | None = None,
) -> Hook:
    """Show the step, the speed, the time left and chosen metrics: a bar on a terminal, else a plain line now and then.

    Args:
      description: the name of what runs.
      metrics: names of the metrics to show; those that a run does not have are left out.
      interval: seconds between two plain lines, later a twentieth of the time that has passed.
      stream: where to write; None is the standard error.

    Returns:
      The hook.
    """
    bar: Any = None
    task: Any = None
    output: Any = None
    first: tuple[float, int] | None = None  # after the first chunk: it compiles, which says nothing about the speed
    last_line = float("-inf")

    def start(step: int, num_steps: int) -> None:
        nonlocal bar, task, output, first, last_line
        from rich import progress as rich_progress
        from rich.console import Console

        output, first, last_line = stream or sys.stderr, None, float("-inf")
        console = Console(file=output)
        if console.is_terminal:
            text = rich_progress.TextColumn
            bar = rich_progress.Progress(
                text("{task.description}"), rich_progress.BarColumn(), text("{task.fields[status]}"), console=console
            )
            task = bar.add_task(description, total=num_steps, completed=step, status=f"{step}/{num_steps} compiling")
            bar.start()
        elif step < num_steps:
            print(f"{description} {step}/{num_steps}  compiling", file=output, flush=True)

    def steps(event: Event) -> None:
        nonlocal first, last_line
        now = time.monotonic()
        first = first or (now, event.step)
        status = _status(event, metrics, elapsed=now - first[0], done=event.step - first[1])
        if bar is not None:
            bar.update(task, completed=event.step, status=status)
        elif now - last_line >= max(interval, 0.05 * (now - first[0])) or event.step == event.num_steps:
            last_line = now
            print(f"{description} {status}", file=output, flush=True)

    def end(step: int) -> None:
        nonlocal bar
        if bar is not None:
            bar.stop()
            bar = None

    return Hook(start, steps, end=end, first_process_only=True)


def _status(event: Event, names: Sequence[str], *, elapsed: float, done: int) -> str:
    """The text of a progress line, such as `120/1000  3.4 steps/s  4:19 left  inner_loss 1.52`."""
    parts = [f"{event.step}/{event.num_steps}"]
    if done and elapsed > 0:
        left = round((event.num_steps - event.step) * elapsed / done)
        hours, rest = divmod(left, 3600)
        clock = f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
        parts += [f"{done / elapsed:.3g} steps/s", f"{clock} left"]
    parts += [f"{name} {_mean(event.metrics[name][-1]):.4g}" for name in names if name in event.metrics]
    if event.done is not None and not event.done[-1].all():
        parts.append(f"{int((~event.done[-1]).sum())} of {event.done.shape[1]} runs diverged")
    return "  ".join(parts)


def _mean(values: np.ndarray) -> float:
    """Of a metric over the runs that have it, or the metric of the only run."""
    return float(np.mean(values[np.isfinite(values)])) if np.ndim(values) else float(values)
