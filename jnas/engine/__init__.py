"""Running things: the one gradient loop, the one trial loop, devices, checkpoints, logs. It knows no network, space or
method.

`fit` runs a `Learner`, `search` a `Searcher`; a `Hook` looks on; `data_mesh` spreads a run over devices; `Checkpoints`
makes it survive.
"""

from jnas.engine.checkpoint import Checkpoints
from jnas.engine.environment import backend, enable_compilation_cache, environment
from jnas.engine.files import atomic_write, explain, prepare_folder
from jnas.engine.fit import MOST_STEPS_PER_CALL, fit
from jnas.engine.hooks import Event, Hook, at_multiples, of_run, progress, tensorboard
from jnas.engine.hosts import Hosts, from_first, is_first, joined
from jnas.engine.jsonl import jsonl_each, jsonl_log
from jnas.engine.locks import exclusive
from jnas.engine.profile import profile, profiling
from jnas.engine.program import Runs
from jnas.engine.search import search
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
from jnas.engine.study import close_study, masked, open_study
from jnas.engine.trees import load_tree, save_tree
from jnas.engine.trial_hooks import trials_jsonl, trials_progress, trials_tensorboard
from jnas.engine.trials import Progress, Result, Trial

__all__ = [
    "MOST_STEPS_PER_CALL",
    "Checkpoints",
    "Event",
    "Hook",
    "Hosts",
    "Progress",
    "Result",
    "Runs",
    "Trial",
    "all_at_once",
    "at_multiples",
    "atomic_write",
    "backend",
    "check_batch",
    "check_mesh",
    "close_study",
    "data_mesh",
    "enable_compilation_cache",
    "environment",
    "exclusive",
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
    "masked",
    "mesh_of_one",
    "of_run",
    "one_by_one",
    "open_study",
    "parse_mesh",
    "prepare_folder",
    "profile",
    "profiling",
    "progress",
    "save_tree",
    "search",
    "split_largest",
    "tensorboard",
    "to_host",
    "trials_jsonl",
    "trials_progress",
    "trials_tensorboard",
]
