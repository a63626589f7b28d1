"""The gradient loop: `fit` runs a `Learner`, a `Hook` looks on, `Checkpoints` makes the run survive.

It knows no network, space or method.
"""

from jnas.train.checkpoint import Checkpoints, Saving
from jnas.train.fit import MOST_STEPS_PER_CALL, fit
from jnas.train.hooks import Event, Hook, chunks_of, of_run, progress, tensorboard
from jnas.train.program import Runs, Several
from jnas.train.records import jsonl_each, jsonl_log, standard_hooks

__all__ = [
    "MOST_STEPS_PER_CALL",
    "Checkpoints",
    "Event",
    "Hook",
    "Runs",
    "Saving",
    "Several",
    "chunks_of",
    "fit",
    "jsonl_each",
    "jsonl_log",
    "of_run",
    "progress",
    "standard_hooks",
    "tensorboard",
]
