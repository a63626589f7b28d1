"""Regularised evolution: tournaments in a population in which the oldest dies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jnas.searchers.base import Searcher, bred, padded
from jnas.spaces.base import Space, mutate

ATTEMPTS = 16  # tournaments and mutations drawn for each architecture asked, of which the first new child is taken


def evolution(space: Space, *, population: int = 50, tournament: int = 10) -> Searcher:
    """Mutates one choice of the best of a few random members of the last `population` architectures.

    The first `population` are random. Age, not score, decides who leaves, so that one lucky evaluation does not rule
    for ever. The paper may evaluate a child twice; here a child that was told already is drawn again.

    Args:
      space: any space with at least two architectures.
      population: how many of the latest known architectures may be parents.
      tournament: members drawn, with replacement, for each parent.

    Returns:
      The searcher.

    Raises:
      ValueError: if a size is below 1 or the space has one architecture.

    Reference: Real, Aggarwal, Huang, Le, "Regularized evolution for image classifier architecture search", AAAI 2019,
    algorithm 1.
    """
    if population < 1 or tournament < 1:
        raise ValueError(f"population={population}, tournament={tournament}: each must be at least 1.")

    @functools.partial(jax.jit, static_argnames="num")
    def born(codes, values, count, key, num):
        # codes [population, num_choices], values [population]; the first `count` rows are filled.
        def child(key):
            key_members, key_mutation = jax.random.split(key)
            members = jax.random.randint(key_members, (tournament,), 0, count, jnp.int32)
            parent = codes[members[jnp.argmax(values[members])]]
            return mutate(space, key_mutation, parent)

        return jax.vmap(child)(jax.random.split(key, num))

    def children(codes, values, key, num):
        ranks = _ranks(values).astype(np.float32)
        return born(padded(codes, population), padded(ranks, population), np.int32(len(codes)), key, ATTEMPTS * num)

    return bred(space, population, lambda state, rows: rows[-population:], children)


def _ranks(values):
    # A tournament needs the order only, and ranks are exact in float32 where scores are not; equals have one rank.
    return np.unique(values, return_inverse=True)[1]
