"""How a chunk of steps is driven: data on the device in one call, data from the host a step at a time."""

import concurrent.futures
import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from jnas.distributed.sharding import AXIS, axis_size, home, over_examples
from jnas.train.program import Keys, Program
from jnas.types import PyTree, State

# (state, start, stop) -> (state, metrics {name: [stop - start]}); consumes the state
Advance = Callable[[State, int, int], tuple[State, dict[str, np.ndarray]]]


@contextlib.contextmanager
def drive(
    program: Program,
    arrays: PyTree,
    fetch: Callable[..., PyTree] | None,
    keys: Keys,
    mesh: Mesh | None,
    num_steps: int,
    batch_size: int | None = None,
) -> Iterator[Advance]:
    """The function that runs a chunk of steps, with what it holds: arrays on the devices or a thread that fetches.

    Args:
      program: of size 1 if there is `fetch`.
      arrays: see `Source`.
      fetch: see `Source`; what it returns must not be written again.
      keys: of the run.
      mesh: over which batches are split, or None.
      num_steps: steps of the whole run: nothing is fetched for a step beyond.
      batch_size: see `Source`.

    Yields:
      The function.
    """
    if fetch is None:
        yield _resident(program, put_whole(arrays, home(mesh)), keys, home(mesh))
    else:
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool:
            rows = None
            if batch_size is not None and mesh is not None and jax.process_count() > 1:
                rows = rows_here(mesh, batch_size)
                whole, fetch = fetch, lambda step: whole(step, rows)
            place = functools.partial(put_payload, mesh=mesh, batch_size=None if rows is None else batch_size)
            yield _streamed(program, fetch, place, keys, num_steps, pool)


def _resident(program: Program, arrays: PyTree, keys: Keys, place: Sharding) -> Advance:
    # With several processes what they all hold is handed over at the call.
    alone = jax.process_count() == 1
    keys = jax.device_put(keys, place) if alone else keys

    def advance(state, start, stop):
        count, start, stop = stop - start, np.int32(start), np.int32(stop)
        if alone:
            start, stop = jax.device_put((start, stop), place)
        with jax.transfer_guard("disallow" if alone else "allow"):  # nothing else may pass between host and device
            state, metrics = program.run(state, start, stop, arrays, keys)
        return state, {name: values[:count] for name, values in jax.device_get(metrics).items()}

    return advance


def _streamed(
    program: Program,
    fetch: Callable[[int], PyTree],
    place: Callable[[PyTree], PyTree],
    keys: Keys,
    num_steps: int,
    pool: concurrent.futures.Executor,
) -> Advance:
    ahead: dict[int, concurrent.futures.Future[PyTree]] = {}

    def advance(state, start, stop):
        metrics = []
        for step in range(start, stop):
            payload = (ahead.pop(step, None) or pool.submit(fetch, step)).result()
            if step + 1 < num_steps:
                ahead[step + 1] = pool.submit(fetch, step + 1)
            arrays = place(payload)
            state, new = program.run(state, np.int32(step), np.int32(step + 1), arrays, keys)
            # The host may be one step ahead of the device and no more: payloads would pile up there.
            jax.block_until_ready(metrics[-1:])
            metrics.append(new)
        metrics = jax.device_get(metrics)
        return state, {name: np.concatenate([one[name] for one in metrics]) for name in metrics[0]}

    return advance


def put_whole(tree: PyTree, place: Sharding) -> PyTree:
    """Copy what every process holds to the devices.

    Args:
      tree: of arrays, the same in all processes, which is not checked: to compare them would send them around.
      place: where to.

    Returns:
      Global arrays.
    """
    if place.is_fully_addressable:
        return jax.device_put(tree, place)
    return jax.tree.map(
        lambda leaf: jax.device_put(leaf, place) if _is_key(leaf) else _from_host(np.asarray(leaf), place), tree
    )


def rows_here(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Which examples of a batch the devices of this process work on.

    The mesh says it: its axis "data" need not follow the order of the processes, and with an axis "run" several
    processes may need the same examples.

    Args:
      mesh: of the run.
      batch_size: examples of a batch.

    Returns:
      Their positions in the batch, increasing, [n] int64; all of them where the devices do not divide the batch.
    """
    places = _split_axis(mesh, batch_size, 0).addressable_devices_indices_map((batch_size,)).values()
    positions = np.arange(batch_size)
    return np.unique(np.concatenate([positions[index] for index in places if index is not None]))


def put_payload(payload: PyTree, mesh: Mesh | None, batch_size: int | None = None) -> PyTree:
    """Copy what the hosts supply for one step to the devices, split along the examples where the devices divide them.

    The split saves copying the whole to each device; it does not change the meaning of a value.

    Args:
      payload: a tree of arrays `[batch, ...]`; in `Batches.further` they are `[num_further, batch, ...]`.
      mesh: of the run, or None.
      batch_size: None: each process holds the whole payload. Else each holds the rows `rows_here` of every array; one
        with fewer dimensions is held whole.

    Returns:
      Global arrays.

    Raises:
      ValueError: if an array holds another number of rows.
    """
    if mesh is None:
        return jax.device_put(payload, home(None))
    rows = None if batch_size is None else rows_here(mesh, batch_size)

    def put(leaf, axis: int):
        leaf = np.asarray(leaf)
        if leaf.ndim <= axis:
            return _from_host(leaf, home(mesh))
        if rows is None or batch_size is None:
            return _from_host(leaf, _split_axis(mesh, leaf.shape[axis], axis))
        if leaf.shape[axis] != len(rows):
            raise ValueError(
                f"fetch returned an array {list(leaf.shape)} for {len(rows)} rows: "
                f"return the rows asked for, along axis {axis} of every array"
            )
        shape = (*leaf.shape[:axis], batch_size, *leaf.shape[axis + 1 :])
        return _from_host(leaf, _split_axis(mesh, batch_size, axis), shape, axis, rows)

    return over_examples(put, payload)


def _is_key(leaf) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _split_axis(mesh: Mesh, size: int, axis: int) -> NamedSharding:
    divides = AXIS in mesh.shape and size % axis_size(mesh, AXIS) == 0
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS) if divides else PartitionSpec())


def _from_host(
    leaf: np.ndarray,
    place: Sharding,
    shape: Iterable[int] | None = None,
    axis: int = 0,
    rows: np.ndarray | None = None,
) -> jax.Array:
    """A global array of which this process holds all, or the given rows along an axis."""

    def part(index: Any) -> np.ndarray:
        if rows is not None:  # where what is wanted stands among what is here
            wanted = np.arange(whole[axis])[index[axis]]
            index = (*index[:axis], np.searchsorted(rows, wanted), *index[axis + 1 :])
        return leaf[index]

    whole = tuple(leaf.shape if shape is None else shape)
    return jax.make_array_from_callback(whole, place, part)
