"""Meshes over the devices that are there."""

import math
from collections.abc import Mapping

import jax
from jax.sharding import AxisType, Mesh

from jnas.distributed.sharding import AXES, AXIS, RUN, axis_size
from jnas.errors import UserError


def make_mesh(axes: Mapping[str, int]) -> Mesh:
    """A mesh over the devices of the default platform, of all processes.

    Args:
      axes: size of each axis: "run" for independent runs, "data" for the examples of a batch. Those that are not named
        have the size 1 and are left out. The last one varies fastest, so that its devices are neighbours.

    Returns:
      The mesh, its axes of type Auto: the compiler decides where the sums over devices stand.

    Raises:
      UserError: for an unknown axis, a size below 1, or more devices than there are.

    Example:
      >>> dict(make_mesh({"data": 1}).shape)
      {'data': 1}
    """
    if unknown := [name for name in axes if name not in AXES]:
        raise UserError(f"a mesh has no axis {unknown[0]!r}: name {' or '.join(AXES)}")
    if small := [name for name in axes if axes[name] < 1]:
        raise UserError(f"the axis {small[0]!r} has the size {axes[small[0]]}: give 1 or more")
    devices = jax.devices()
    named = {name: axes[name] for name in AXES if name in axes} or {AXIS: 1}
    count = math.prod(named.values())
    if count > len(devices):
        raise UserError(f"{count} devices were asked for and {len(devices)} are there: ask for 1 to {len(devices)}")
    if count < len(devices) and jax.process_count() > 1:
        raise UserError(
            f"the mesh has {count} devices and the processes {len(devices)}: a run of several uses them all"
        )
    types = (AxisType.Auto,) * len(named)
    return jax.make_mesh(tuple(named.values()), tuple(named), axis_types=types, devices=devices[:count])


def mesh_of_one(mesh: Mesh | None, batch_size: int) -> Mesh | None:
    """The mesh for a single run on the devices of several: its batch over all of them, if they divide it.

    Else the runs' groups of devices do the same work, each on its own; on the devices of one process only one of them.
    """
    if mesh is None or axis_size(mesh, RUN) == 1:
        return mesh
    devices = mesh.devices.ravel()
    if batch_size % len(devices):
        if jax.process_count() > 1:
            return mesh
        devices = devices[: axis_size(mesh, AXIS)]
    return Mesh(devices, (AXIS,), axis_types=(AxisType.Auto,))


def data_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh with the single axis "data" over the devices of the default platform.

    Args:
      num_devices: how many of them; None takes all.

    Returns:
      The mesh, see `make_mesh`.

    Raises:
      UserError: if there are fewer devices.
    """
    devices = jax.devices()
    count = len(devices) if num_devices is None else num_devices
    if not 1 <= count <= len(devices):
        raise UserError(f"{count} devices were asked for and {len(devices)} are there: ask for 1 to {len(devices)}")
    return make_mesh({AXIS: count})
