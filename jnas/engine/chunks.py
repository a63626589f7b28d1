"""How a chunk of steps is driven: data on the device in one call, data from the host a step at a time."""

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh, Sharding

from jnas.engine.program import Keys, Program
from jnas.engine.sharding import home, put_payload
from jnas.types import PyTree, State

# (state, start, stop) -> (state, metrics {name: [stop - start]}); consumes the state
Advance = Callable[[State, int, int], tuple[State, dict[str, np.ndarray]]]


@contextlib.contextmanager
def drive(
    program: Program,
    arrays: PyTree,
    fetch: Callable[[int], PyTree] | None,
    keys: Keys,
    mesh: Mesh | None,
    num_steps: int,
) -> Iterator[Advance]:
    """The function that runs a chunk of steps, with what it holds: arrays on the devices or a thread that fetches.

    Args:
      program: of size 1 if there is `fetch`.
      arrays: see `Source`.
      fetch: see `Source`; what it returns must not be written again.
      keys: of the run.
      mesh: over which batches are split, or None.
      num_steps: steps of the whole run: nothing is fetched for a step beyond.

    Yields:
      The function.
    """
    if fetch is None:
        yield _resident(program, jax.device_put(arrays, home(mesh)), keys, home(mesh))
    else:
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool:
            yield _streamed(program, fetch, keys, mesh, num_steps, pool)


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
    keys: Keys,
    mesh: Mesh | None,
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
            arrays = put_payload(payload, mesh)
            state, new = program.run(state, np.int32(step), np.int32(step + 1), arrays, keys)
            # The host may be one step ahead of the device and no more: payloads would pile up there.
            jax.block_until_ready(metrics[-1:])
            metrics.append(new)
        metrics = jax.device_get(metrics)
        return state, {name: np.concatenate([one[name] for one in metrics]) for name in metrics[0]}

    return advance
