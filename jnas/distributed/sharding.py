"""Where arrays live: on one device, or over a mesh with the axes "run" and "data".

Semantics are global: under `jax.jit` a loss, a batch-norm statistic or a Hessian-vector product of a split batch is
that of the whole batch, so no loss, network or estimator contains a collective. Runs are independent of one another,
so that the axis "run" carries none at all.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from jnas.errors import UserError
from jnas.types import Batch, Batches, PyTree

AXIS = "data"
RUN = "run"
AXES = (RUN, AXIS)

# (f, xs with leading axis [num_runs]) -> f of each
Mapper = Callable[[Callable[[PyTree], PyTree], PyTree], PyTree]


def backend() -> str:
    """The kind of device that computes here: "cpu", "gpu" or "tpu"."""
    return jax.default_backend()


def check_mesh(mesh: Mesh, num_runs: int | None = None) -> None:
    """Raise unless the mesh has known axes of type Auto, and one "run" only where it divides the runs."""
    strange = [
        name
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if name not in AXES or kind != AxisType.Auto
    ]
    if strange:
        raise ValueError(f"mesh has the axes {mesh.axis_names} of types {mesh.axis_types}: build it with make_mesh()")
    size = axis_size(mesh, RUN)
    if num_runs is not None and num_runs % size:
        raise UserError(
            f"{num_runs} runs cannot be spread over run={size}: choose a number of runs that is a multiple of "
            f"{size}, or another mesh"
        )


def check_batch(batch_size: int, mesh: Mesh | None, name: str = "batch_size") -> None:
    """Raise a UserError unless the devices of "data" divide a batch; `split_batch` would, but in the middle of a run.

    Args:
      batch_size: examples of a batch.
      mesh: of the run; None always fits.
      name: what the sentence calls the number.
    """
    size = axis_size(mesh, AXIS)
    if batch_size % size:
        raise UserError(f"{name} is {batch_size} and data={size} devices do not divide it: give a multiple of {size}")


def axis_size(mesh: Mesh | None, axis: str) -> int:
    """The number of devices along an axis; 1 where there is none."""
    return 1 if mesh is None else mesh.shape.get(axis, 1)


def home(mesh: Mesh | None) -> Sharding:
    """Where what all devices share lives: replicated over the mesh, or on the default device."""
    return jnp.zeros(()).sharding if mesh is None else NamedSharding(mesh, PartitionSpec())


# Map over the runs of a device in turn: one program of one run's size, each run at its own speed. The choice on a CPU,
# where operations with one weight for each run are slow.
one_by_one: Mapper = jax.lax.map


def all_at_once(function: Callable[[PyTree], PyTree], xs: PyTree) -> PyTree:
    """Map over the runs of a device in wider operations, which fill a matrix unit that one small network leaves idle.

    It takes the memory of all runs together.
    """
    return jax.vmap(function)(xs)


class Place(NamedTuple):
    """How a run, or several, lie on the devices; hashable."""

    mesh: Mesh | None = None
    num_runs: int | None = None  # None: one run, without a leading axis
    mapper: Mapper | None = None  # over the runs of a device

    @property
    def state(self) -> Sharding:
        """Where every leaf of a state lives: spread over the runs, and replicated over "data"."""
        if self.mesh is None:
            return home(None)
        lead = () if self.num_runs is None else (RUN if RUN in self.mesh.shape else None,)
        return NamedSharding(self.mesh, PartitionSpec(*lead))


def across(mesh: Mesh | None) -> AbstractContextManager:
    """Tell what is traced inside that it runs on a mesh, as batch norms want to know; a context's own mesh stays."""
    if mesh is None or not jax.sharding.get_abstract_mesh().empty:
        return nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def split_batch(batch: Batch, mesh: Mesh | None) -> Batch:
    """Split a batch over the devices of "data", inside `jax.jit`.

    Args:
      batch: a tree of arrays `[batch, ...]`; in `Batches.further` they are `[num_further, batch, ...]`.
      mesh: with an axis "data"; without one, or None, the batch stays as it is.

    Returns:
      The same values, placed.

    Raises:
      UserError: if the devices do not divide a batch.
    """
    if mesh is None or AXIS not in mesh.shape:
        return batch
    # Inside the map over runs the mesh of the context is the one whose axis "run" is taken already.
    context = jax.sharding.get_abstract_mesh()
    num_devices = mesh.shape[AXIS]

    def split(leaf, axis: int):
        if jnp.ndim(leaf) <= axis:
            return leaf
        if leaf.shape[axis] % num_devices:
            raise UserError(
                f"a batch of {leaf.shape[axis]} cannot be split over {num_devices} devices: "
                f"choose a batch size that is a multiple of {num_devices}"
            )
        spec = PartitionSpec(*[None] * axis, AXIS)
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh if context.empty else context, spec))

    return over_examples(split, batch)


def over_examples(function: Callable[[Any, int], Any], batch: Batch) -> Batch:
    """`function(leaf, axis of the examples)` for each array of a batch: 1 in `Batches.further` and else 0."""

    def along(axis: int, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: function(leaf, axis), tree)

    if isinstance(batch, Batches):
        return Batches(along(0, batch.inner), along(0, batch.outer), along(1, batch.further))
    return along(0, batch)


def to_host(tree: PyTree) -> PyTree:
    """The values of arrays wherever they live, as NumPy arrays; in a run of several processes all of them call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return jax.tree.map(
        lambda leaf: (
            np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
            if isinstance(leaf, jax.Array) and not leaf.is_fully_replicated
            else np.asarray(leaf)
        ),
        tree,
    )
