"""What looks on while `search` runs: the counterparts of the hooks of `fit`."""

import datetime
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from jnas.files.writing import atomic_write, curves, prepare_folder
from jnas.study.ledger import Progress, Trial

TrialHook = Callable[[Progress], None]


def trials_progress(description: str, stream: TextIO | None = None) -> TrialHook:
    """Print a line for every trial that has finished, by this worker or another, and the time left at their rate.

    A trial that says its `epochs` is printed with them. Made, it says that there will be lines: a first trial compiles.

    Args:
      description: the name of what runs.
      stream: where to write; None is the standard error.
    """
    first: tuple[float, int] | None = None  # after the first trials: they compile, and some may be of another day
    print(f"{description}  compiling", file=stream or sys.stderr, flush=True)

    def report(progress: Progress) -> None:
        nonlocal first
        now, ended = time.monotonic(), len(progress.trials)
        left = ""
        if first is None:
            first = now, ended
        elif ended > first[1]:
            seconds = max(progress.num_evaluations - ended, 0) * (now - first[0]) / (ended - first[1])
            left = f"  {datetime.timedelta(seconds=round(seconds))} left"
        count = len(progress.trials) - sum(trial.error is None for trial in progress.new)
        for trial in progress.new:
            count += trial.error is None
            words = trial.error or "  ".join(f"{score:.4g}" for score in trial.scores)
            if "epochs" in trial.metrics:
                words += f" after {trial.metrics['epochs']} epochs"
            line = f"{description} {count}/{progress.num_evaluations}  trial {trial.number}: {words}"
            if progress.best is not None:
                line += f"  best {progress.best.scores[0]:.4g}"
            print(f"{line}  {trial.seconds:.1f} s{left}", file=stream or sys.stderr, flush=True)

    return report


def trials_jsonl(path: str | os.PathLike[str], describe: Callable[[Any], str] | None = None) -> TrialHook:
    """Keep a file of JSON lines that shows the study: one finished trial a line, in the order of their numbers.

    The file is written anew each time, whole or not at all, from what the study holds: whoever was killed when, it has
    no gap and no repeat.

    Args:
      path: the file; its folder is made if absent.
      describe: the name of an architecture, put into each line.
    """
    prepare_folder(os.path.dirname(os.fspath(path)) or ".")
    failed: dict[int, Trial] = {}

    def write(progress: Progress) -> None:
        failed.update({trial.number: trial for trial in progress.new if trial.error is not None})
        trials = sorted((*progress.trials, *failed.values()), key=lambda trial: trial.number)
        atomic_write(path, "".join(json.dumps(_line(trial, describe), allow_nan=False) + "\n" for trial in trials))

    return write


def trials_tensorboard(path: str | os.PathLike[str]) -> TrialHook:
    """Write the score of each trial, and the best so far, as TensorBoard curves over the number of the trial.

    Args:
      path: the folder for the event files. A worker that takes up a study writes all its trials again, into a file of
        its own that hides the earlier ones: one worker at a time should.
    """
    write: Any = None

    def show(progress: Progress) -> None:
        nonlocal write
        if write is None:
            write = curves(path, f".trials-{len(progress.trials)}-{os.getpid()}", 0)
        rows = [
            (f"score_{n}" if len(trial.scores) > 1 else "score", score, trial.number)
            for trial in progress.new
            for n, score in enumerate(trial.scores)
        ]
        best = [] if progress.best is None else [("best_score", progress.best.scores[0], progress.new[-1].number)]
        write([*rows, *best])

    return show


def _line(trial: Trial, describe: Callable[[Any], str] | None) -> dict[str, Any]:
    return {
        "trial": trial.number, "code": trial.code.tolist(),
        **({} if describe is None or not len(trial.code) else {"architecture": describe(trial.code)}),
        "scores": list(trial.scores), "metrics": trial.metrics, "seconds": round(trial.seconds, 3),
        **({} if trial.error is None else {"error": trial.error}),
    }  # fmt: skip
