"""What a run ran on."""

import datetime
import importlib.metadata
import os
import platform
import sys
from typing import Any

import jax

from jnas import __version__
from jnas.files.urls import masked


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
        **{name: _version(name) for name in ("jax", "jaxlib", "flax", "optax")},
        "jnas": __version__,
        "platform": device.platform,
        "device": device.device_kind,
        "num_devices": jax.device_count(),
        "num_processes": jax.process_count(),
        "cpu_count": os.cpu_count(),
        "argv": [masked(word) for word in sys.argv],
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def has_devices() -> bool:
    """Whether JAX can begin, which depends on variables of the environment."""
    try:
        return bool(jax.devices())
    except (RuntimeError, AssertionError):  # the second of a platform whose package is not there
        return False
