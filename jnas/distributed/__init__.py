"""Devices and processes: meshes, where arrays live; `hosts` has how processes find one another. Open to every room."""

from jnas.distributed.processes import from_first, is_first
from jnas.distributed.sharding import (
    all_at_once,
    backend,
    check_batch,
    check_mesh,
    one_by_one,
    to_host,
)

__all__ = [
    "all_at_once",
    "backend",
    "check_batch",
    "check_mesh",
    "from_first",
    "is_first",
    "one_by_one",
    "to_host",
]
