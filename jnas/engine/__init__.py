"""Running things: the one gradient loop, devices, checkpoints, logs. It knows no network, space or method.

`fit` runs a `Learner`; a `Hook` looks on; `data_mesh` spreads a run over devices; `Checkpoints` makes it survive.
"""

from jnas.engine.checkpoint import Checkpoints
from jnas.engine.environment import backend, enable_compilation_cache, environment
from jnas.engine.files import atomic_write, explain, prepare_folder
from jnas.engine.fit import MOST_STEPS_PER_CALL, fit
from jnas.engine.hooks import Event, Hook, at_multiples, progress, tensorboard
from jnas.engine.jsonl import jsonl_each, jsonl_log
from jnas.engine.profile import profile, profiling
from jnas.engine.sharding import data_mesh
from jnas.engine.trees import load_tree, save_tree

__all__ = [
    "MOST_STEPS_PER_CALL",
    "Checkpoints",
    "Event",
    "Hook",
    "at_multiples",
    "atomic_write",
    "backend",
    "data_mesh",
    "enable_compilation_cache",
    "environment",
    "explain",
    "fit",
    "jsonl_each",
    "jsonl_log",
    "load_tree",
    "prepare_folder",
    "profile",
    "profiling",
    "progress",
    "save_tree",
    "tensorboard",
]
