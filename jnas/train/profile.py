"""A trace of a few steps in the middle of a run: what the host and each compiled operation did, and for how long."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator

import jax

from jnas.files.writing import prepare_folder
from jnas.train.hooks import Event, Hook, in_the_first_fit


def profile(folder: str | os.PathLike[str], first: int = 4, last: int = 6) -> Hook:
    """Trace some steps of a run with `jax.profiler`.

    Give it to `fit` beside the other hooks, as the first of them; `profiling` does that for a run whose `fit` is out
    of reach. Steps are counted from where this process takes the run up, and a trace consists of whole chunks: it
    begins after the first chunk (which compiles) that ends at step `first - 1` or later, and ends with the first chunk
    after it that reaches step `last`.

    Args:
      folder: for the trace, in the layout of TensorBoard's profile plugin:
        `plugins/profile/TIME/HOST.xplane.pb` beside `perfetto_trace.json.gz`, which ui.perfetto.dev opens.
      first: the first step to trace, at least 2.
      last: the last one.

    Returns:
      The hook; it raises UserError on starting if the folder cannot be written. A run that ends before `first` leaves
      no trace and says so on the standard error.

    Raises:
      ValueError: unless `2 <= first <= last`.
    """
    if not 2 <= first <= last:
        raise ValueError(f"the steps to trace are {first}:{last}: give FIRST:LAST with 2 <= FIRST <= LAST")
    began, tracing, done = 0, False, False

    def start(step: int, num_steps: int) -> None:
        nonlocal began, tracing, done
        began, tracing, done = step, False, False
        prepare_folder(folder)

    def stop() -> None:
        nonlocal tracing, done
        tracing, done = False, True
        jax.profiler.stop_trace()

    def steps(event: Event) -> None:
        nonlocal tracing
        number = event.step - began
        if tracing and number >= last:
            stop()
        elif not tracing and not done and number >= first - 1 and event.step < event.num_steps:
            tracing = True
            jax.profiler.start_trace(os.fspath(folder), create_perfetto_trace=True)

    def end(step: int) -> None:
        if tracing:
            stop()
        if not done:
            print(f"no trace: the run ended after {step - began} steps and not after {first}", file=sys.stderr)

    return Hook(start, steps, end=end, first_process_only=True)


@contextlib.contextmanager
def profiling(folder: str | os.PathLike[str] | None, first: int = 4, last: int = 6) -> Iterator[None]:
    """Inside the block the first `fit` that runs a step is traced, see `profile`.

    Use it around a whole method, whose first `fit` is its search.

    Args:
      folder: for the trace; None traces nothing.
      first: the first step to trace.
      last: the last one.

    Raises:
      ValueError: unless `2 <= first <= last`.
    """
    with in_the_first_fit([] if folder is None else [profile(pathlib.Path(folder), first, last)]):
        yield
