"""The raced process: prepares one piece of work, then does it again each time it is asked.

It reads JSON lines from its standard input and answers each with one. Standard library and numpy only.
"""

import ctypes
import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Work(NamedTuple):
    """One piece of work, ready to run."""

    run: Callable[[], object]  # does it once and returns when it is done
    check: Callable[[], dict[str, np.ndarray]]  # results from the start, under names that the sides share
    about: dict[str, Any]  # versions and choices, for the record
    device_bytes: Callable[[], int | None] = lambda: None  # peak of the memory of a GPU, if there is one


def serve(prepare: Callable[[dict[str, Any]], Work]) -> None:
    """Answers requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    work = None
    for line in sys.stdin:
        request = json.loads(line)
        match request["do"]:
            case "prepare":
                work = prepare(request)
                answer = work.about
            case "check":
                started = time.perf_counter()
                results = work.check()
                answer = {"first_call_s": time.perf_counter() - started}
                np.savez(request["out"], **results)
            case "warm":
                _give_back()
                work.run()
                _forget_peak()
                answer = {"peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
            case "run":
                wall, cpu = time.perf_counter(), time.process_time()
                work.run()
                answer = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
            case "memory":
                answer = {"run_peak_bytes": _peak_since(), "device_peak_bytes": work.device_bytes()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _give_back() -> None:
    """Returns what a compiler or a check has freed to the system: it is not the memory of the runs."""
    ctypes.CDLL(None).malloc_trim(0)


def _forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak_since() -> int:
    """High water of the resident memory since `_forget_peak`, in bytes."""
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", file.read())[1])
