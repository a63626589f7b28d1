"""How a chunk of steps is driven: data on the device in one call, data from the host a step at a time."""

import concurrent.futures
import contextlib
import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh, Sharding

from jnas.distributed.payload import put_payload, put_whole, rows_here
from jnas.distributed.sharding import home
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
