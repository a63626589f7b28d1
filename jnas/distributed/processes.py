"""What a process of a run needs to know of the others: which one is the first, and what it says."""

import itertools
import json
from collections.abc import Callable
from typing import Any

from jnas.errors import UserError

_numbers = itertools.count()  # the same in all processes, which call `from_first` in the same order
_DAY = 24 * 3600 * 1000  # in milliseconds


def is_first() -> bool:
    """Whether this process writes what a run writes once: files, tables, pages."""
    return state().process_id == 0  # jax.process_index() would be a call of JAX before its processes have met


def from_first(call: Callable[[], Any]) -> Any:
    """Let the first process do something and give all processes its answer.

    Use it around reading and writing the files of a run, so that no two processes write one file and all see the same.
    All processes must call it, in the same order.

    Args:
      call: without arguments; returns values of JSON.

    Returns:
      What it returned; with several processes tuples have become lists.

    Raises:
      UserError: in all processes, if `call` raised it.
    """
    if state().num_processes == 1:
        return call()
    name, store = f"jnas/first/{next(_numbers)}", client()
    if is_first():
        try:
            answer = {"value": call()}
        except UserError as error:
            answer = {"error": str(error)}
        text = json.dumps(answer)
        store.key_value_set(name, text)
    else:
        text = store.blocking_key_value_get(name, _DAY)
    answer = json.loads(text)
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["value"]


def state() -> Any:
    """What JAX knows of the processes of this run."""
    from jax._src import distributed  # JAX has no public name for its key-value store

    return distributed.global_state


def client() -> Any:
    """The key-value store of the run."""
    return state().client
