"""Where arrays live: on one device, or replicated and split over the axis "data" of a mesh.

Semantics are global: under `jax.jit` a loss, a batch-norm statistic or a Hessian-vector product of a split batch is
that of the whole batch, so no loss, network or estimator contains a collective.
"""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from jnas.errors import UserError
from jnas.types import Batch, Batches, PyTree

AXIS = "data"


def data_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh with the single axis "data" over the devices of the default platform.

    Args:
      num_devices: how many of them; None takes all.

    Returns:
      The mesh, its axis of type Auto: the compiler decides where the sums over devices stand.

    Raises:
      UserError: if there are fewer devices.
    """
    devices = jax.devices()
    count = len(devices) if num_devices is None else num_devices
    if not 1 <= count <= len(devices):
        raise UserError(f"{count} devices were asked for and {len(devices)} are there: ask for 1 to {len(devices)}")
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count])


def check_mesh(mesh: Mesh) -> None:
    """Raise a ValueError unless the mesh has an axis "data" of type Auto."""
    if AXIS not in mesh.axis_names or mesh.axis_types[mesh.axis_names.index(AXIS)] != AxisType.Auto:
        raise ValueError(f"mesh has the axes {mesh.axis_names} of types {mesh.axis_types}: build it with data_mesh()")


def home(mesh: Mesh | None) -> Sharding:
    """Where the state lives: replicated over the mesh, or on the default device."""
    return jnp.zeros(()).sharding if mesh is None else NamedSharding(mesh, PartitionSpec())


def split_batch(batch: Batch, mesh: Mesh | None) -> Batch:
    """Split a batch over the devices, inside `jax.jit`.

    Args:
      batch: a tree of arrays `[batch, ...]`; in `Batches.curvature` they are `[num_terms, batch, ...]`.
      mesh: with an axis "data"; None leaves the batch as it is.

    Returns:
      The same values, placed.

    Raises:
      UserError: if the devices do not divide a batch.
    """
    if mesh is None:
        return batch
    if isinstance(batch, Batches):
        return Batches(
            inner=_split(batch.inner, mesh, 0),
            outer=_split(batch.outer, mesh, 0),
            curvature=_split(batch.curvature, mesh, 1),
        )
    return _split(batch, mesh, 0)


def put_payload(payload: PyTree, mesh: Mesh | None) -> PyTree:
    """Copy what the host supplies for one step to the devices: split where the leading axis divides, else replicated.

    The split saves copying the whole to each device; it does not change the meaning of a value.
    """
    if mesh is None:
        return jax.device_put(payload, home(None))

    def put(leaf):
        shape = jnp.shape(leaf)
        spec = PartitionSpec(AXIS) if shape and shape[0] % mesh.shape[AXIS] == 0 else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(put, payload)


def _split(tree: PyTree, mesh: Mesh, axis: int) -> PyTree:
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))
    num_devices = mesh.shape[AXIS]

    def split(leaf):
        if leaf.ndim <= axis:
            return leaf
        if leaf.shape[axis] % num_devices:
            raise UserError(
                f"a batch of {leaf.shape[axis]} cannot be split over {num_devices} devices: "
                f"choose a batch size that is a multiple of {num_devices}"
            )
        return jax.lax.with_sharding_constraint(leaf, sharding)

    return jax.tree.map(split, tree)
