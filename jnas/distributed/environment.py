"""What a run ran on, and where compiled programs are kept between processes."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import sys
from typing import Any

import jax

from jnas.errors import UserError
from jnas.files.urls import masked
from jnas.files.writing import prepare_folder


def environment() -> dict[str, Any]:
    """What somebody needs to judge or repeat a run, as values of JSON.

    Returns:
      `python`, the versions of `jax`, `jaxlib`, `flax`, `optax` and `jnas` (None where one is not installed),
      `platform` ("cpu", "gpu", "tpu"), `device` (its kind), `num_devices`, `num_processes`, `cpu_count`, `argv`, and
      `started` in UTC.
    """
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in ("jax", "jaxlib", "flax", "optax", "jnas")},
        "platform": device.platform,
        "device": device.device_kind,
        "num_devices": jax.device_count(),
        "num_processes": jax.process_count(),
        "cpu_count": os.cpu_count(),
        "argv": [masked(word) for word in sys.argv],
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def enable_compilation_cache() -> pathlib.Path | None:
    """Keep compiled programs on disk, so that the second run of a command starts in seconds.

    Call it before anything is compiled. The folder is `$JNAS_CACHE_DIR`; if that is unset `$XDG_CACHE_HOME/jnas/xla` or
    `~/.cache/jnas/xla`; if it is empty nothing is kept. A folder that cannot be written does no harm.

    Returns:
      The folder in use, or None.
    """
    chosen = os.environ.get("JNAS_CACHE_DIR")
    if chosen == "":
        return None
    try:
        base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        folder = prepare_folder(chosen or pathlib.Path(base) / "jnas" / "xla")
    except (UserError, RuntimeError):  # RuntimeError: there is no home
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return folder


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def backend() -> str:
    """The kind of device that computes here: "cpu", "gpu" or "tpu"."""
    return jax.default_backend()
