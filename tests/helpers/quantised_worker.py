"""A joint search whose accuracies and trainings are made up: one process of two, IMAGES SHARED ALONE.

It takes part in the search of the folder SHARED, whose other process is the test; then it begins one in ALONE and hangs
in its sixth trial, where it waits to be killed. `FOLDER.asked.PID` has a line for each evaluation begun.
"""

import contextlib
import json
import os
import pathlib
import sys
import time
from unittest import mock

import numpy as np

from jnas.recipes import config, driver, quantised
from jnas.recipes.joint import recipe as joint
from jnas.recipes.joint.settings import QuantisedSearch

TINY = {
    "operators": "skip_connect nor_conv_1x1", "methods": "w2a4 w8a8", "method_threshold": 0.1, "probes": 1,
    "supernet": {"channels": 2, "depth": 1, "epochs": 1, "batch_size": 32},
    "augmentation": {"crop": 1}, "num_evaluations": 12, "at_once": 4, "searcher": "random",
    "train": {"channels": 2, "depth": 1, "epochs": 1, "batch_size": 40, "augmentation": {"crop": 1}},
    "steps_per_call": 1,
}  # fmt: skip
FRONT = {
    "method_threshold": None, "compare": False, "searcher": "nsga2", "beside": ["size"], "population": 4,
    "num_evaluations": 16,
}  # fmt: skip
TARGET = np.array([0, 1, 0, 1, 1, 0])


def settings(images, **changes):
    """Of the smallest joint search."""
    return config.build(QuantisedSearch, TINY, {"data": str(images), **changes})


def pretended(archs, columns):
    """Accuracies in closed form: near a hidden cell better, with 2 bits on a convolution worse, on 0_1 much worse."""
    near = np.mean(archs == TARGET, axis=1)
    narrow = (columns == 0) * np.array([0.3, *[0.01] * 6])
    return 0.5 + 0.4 * near - narrow.sum(1)


def trained(prepared, quantisation, *_):
    """What a training gives, without one."""
    return {
        "genotype": prepared.genotype, "policy": quantisation["policy"], "test_accuracy": 0.5,
        "integer": {"refused": "none"}, "name": "joint", "parameters": 1, "epochs": 1,
    }  # fmt: skip


@contextlib.contextmanager
def made_up(judge=pretended, score=None):
    """Inside the block a joint search trains nothing, and `judge`, or that of `score(units)`, scores its candidates."""
    with (
        mock.patch.object(joint, "supernet", return_value=score or (lambda *_, **__: judge)),
        mock.patch.object(quantised, "train", trained),
    ):
        yield


def run(images, folder, at=lambda number: None, **options):
    """A search for a front, each evaluation begun noted; `at(number)` is called before the first, second, ... one."""
    begun = 0

    def judge(archs, columns):
        nonlocal begun
        begun += 1
        with open(f"{folder}.asked.{os.getpid()}", "a") as file:
            file.write(json.dumps([archs[0].tolist(), columns[0].tolist()]) + "\n")
        at(begun)
        return pretended(archs, columns)

    with made_up(judge):
        return driver.run(joint, settings(images, **FRONT), folder, **options)


def asked(folder, pid="*"):
    """The candidates whose evaluation was begun."""
    files = pathlib.Path(folder).parent.glob(f"{pathlib.Path(folder).name}.asked.{pid}")
    return [line for path in files for line in path.read_text().splitlines()]


def until(condition):
    """Wait."""
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def both_begun(folder):
    """For `run`: no process goes on to a second trial before another one has begun its first."""

    def at(number):
        if number == 2:
            until(lambda: len(list(folder.parent.glob(f"{folder.name}.asked.*"))) > 1)

    return at


if __name__ == "__main__":
    images, shared, alone = map(pathlib.Path, sys.argv[1:])
    run(images, shared, both_begun(shared), worker=True)
    run(images, alone, lambda number: time.sleep(1000) if number == 6 else None)
