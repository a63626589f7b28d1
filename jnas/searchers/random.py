"""Random search: the baseline that every other searcher is measured against."""

import functools

import jax
import numpy as np

from jnas.searchers.base import Searcher, complete, no_observations, record
from jnas.spaces.base import Space, sample


def random(space: Space) -> Searcher:
    """Draws architectures uniformly, each once.

    >>> from jnas import spaces
    >>> searcher = random(spaces.nasbench201())
    >>> searcher.ask(searcher.init(), jax.random.key(0), 3).shape
    (3, 6)

    Args:
      space: any space.

    Returns:
      A searcher that learns nothing from what it is told but what not to ask again.
    """

    def ask(state, key, num):
        key_draw, key_rest = jax.random.split(key)
        return complete(space, state, key_rest, num, np.asarray(sample(space, key_draw, num)))

    return Searcher(functools.partial(no_observations, space), ask, functools.partial(record, space))
