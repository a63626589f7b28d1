"""Devices and processes: meshes, where arrays live, how hosts find and watch one another. Open to every room."""

from jnas.distributed.environment import backend, enable_compilation_cache, environment
from jnas.distributed.hosts import Hosts, from_first, is_first, joined
from jnas.distributed.sharding import (
    Layout,
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

__all__ = [
    "Hosts",
    "Layout",
    "all_at_once",
    "backend",
    "check_batch",
    "check_mesh",
    "data_mesh",
    "enable_compilation_cache",
    "environment",
    "from_first",
    "is_first",
    "joined",
    "make_cpu_devices",
    "make_mesh",
    "mesh_of_one",
    "one_by_one",
    "parse_mesh",
    "split_largest",
    "to_host",
]
