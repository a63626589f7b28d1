"""Running things: the one gradient loop, devices, checkpoints, logs. It knows no network, space or method.

`fit` runs a `Learner`; a `Hook` looks on; `data_mesh` spreads a run over devices; `Checkpoints` makes it survive.
"""

from jnas.engine.checkpoint import Checkpoints
from jnas.engine.environment import backend, enable_compilation_cache, environment
from jnas.engine.files import atomic_write, explain, prepare_folder
from jnas.engine.fit import MOST_STEPS_PER_CALL, fit
from jnas.engine.hooks import Event, Hook, at_multiples, of_run, progress, tensorboard
from jnas.engine.hosts import Hosts, from_first, is_first, joined
from jnas.engine.jsonl import jsonl_each, jsonl_log
from jnas.engine.profile import profile, profiling
from jnas.engine.program import Runs
from jnas.engine.sharding import (
    all_at_once,
    check_batch,
    check_mesh,
    data_mesh,
    make_cpu_devices,
    make_mesh,
    mesh_of_one,
    one_by_one,
    parse_mesh,
    split_largest,
    to_host,
)
from jnas.engine.trees import load_tree, save_tree

__all__ = [
    "MOST_STEPS_PER_CALL",
    "Checkpoints",
    "Event",
    "Hook",
    "Hosts",
    "Runs",
    "all_at_once",
    "at_multiples",
    "atomic_write",
    "backend",
    "check_batch",
    "check_mesh",
    "data_mesh",
    "enable_compilation_cache",
    "environment",
    "explain",
    "fit",
    "from_first",
    "is_first",
    "joined",
    "jsonl_each",
    "jsonl_log",
    "load_tree",
    "make_cpu_devices",
    "make_mesh",
    "mesh_of_one",
    "of_run",
    "one_by_one",
    "parse_mesh",
    "prepare_folder",
    "profile",
    "profiling",
    "progress",
    "save_tree",
    "split_largest",
    "tensorboard",
    "to_host",
]
