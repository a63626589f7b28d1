"""One tiny data set of real images, and one finished search on it, for all the tests of this folder."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import jnas

# The default method and space at the smallest size.
TINY = (
    "channels=2", "depth=1", "epochs=2", "batch_size=10", "random_cells=1", "augmentation.crop=1",
    "train.channels=2", "train.depth=1", "train.epochs=2", "train.batch_size=20", "train.augmentation.crop=1",
)  # fmt: skip

ENTRY = "\nfrom jnas.cli import entry\nentry()\n"
# For `command(before=...)`: the first `fit` of a program, its search, sends the process a signal after a step. So what
# is stopped, and when, does not depend on how soon somebody else sees that step done.
SIGNALLED = """
import os
from jnas import engine

plain = engine.fit

def fit(*given, hooks=(), **options):
    engine.fit = plain
    look = lambda event: os.kill(os.getpid(), {number:d}) if event.step == {step} else None
    return plain(*given, hooks=[*hooks, engine.Hook(steps=look)], **options)

engine.fit = fit
"""


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """120 + 40 images of the embedded slice, of 4 classes, halved twice to 7 x 7 pixels."""
    splits = jnas.data.load("fashion-mnist-slice")
    arrays = {}
    for name, part, count in (("train", splits.train, 30), ("test", splits.test, 10)):
        chosen = np.concatenate([np.flatnonzero(part.labels == c)[:count] for c in range(4)])
        pictures = part.images[chosen].reshape(-1, 7, 4, 7, 4).mean((2, 4)).astype(np.uint8)
        arrays |= {f"x_{name}": pictures, f"y_{name}": part.labels[chosen]}
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="session")
def command():
    """Runs the program as a user does; returns the finished process, or the running one with `wait=False`.

    `before`: Python that the process runs first.
    """

    def run(*words, wait=True, cwd=None, env=None, before=None):
        # Less optimised machine code: these programs are compiled for longer than they run.
        flags = "--xla_backend_optimization_level=0"
        environment = {
            **os.environ,
            "XLA_FLAGS": flags,
            "PYTHONPATH": str(pathlib.Path(jnas.__file__).parents[1]),
            **(env or {}),
        }
        process = subprocess.Popen(
            [sys.executable, *(["-m", "jnas"] if before is None else ["-c", before + ENTRY]), *map(str, words)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=environment,
        )  # fmt: skip
        if not wait:
            return process
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def finished(images, command, tmp_path_factory):
    """The folder of a finished search by the default method, and what the program printed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = command("search", f"data={images}", *TINY, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout
