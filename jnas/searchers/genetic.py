"""A genetic algorithm: crossover and mutation among the best."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jnas.searchers.base import Searcher, bred, padded, padded_length
from jnas.spaces.base import Space, num_options

ATTEMPTS = 16  # children drawn for each architecture asked, of which the first new one is taken


def genetic(
    space: Space, *, population: int = 100, parents: float = 0.25, mutated: float = 0.5, probability: float = 0.1
) -> Searcher:
    """Children of the best: some mutated in a few choices, the others crossed from two parents.

    The first `population` are random. From then on the parents are the best `parents * population` of all that are
    known. With the defaults and `population` asked at once a generation has 50 mutations and 50 crossovers; asked for
    fewer at a time, the parents are renewed earlier.

    Args:
      space: any space with at least two architectures.
      population: random architectures at the start.
      parents: share of `population` that may have children.
      mutated: share of the children that are mutations: each choice is drawn anew with `probability`, at least one. The
        others take each choice from one of two parents.
      probability: of a choice to be drawn anew.

    Returns:
      The searcher.

    Raises:
      ValueError: if a number is out of its range or the space has one architecture.

    Reference: Guo et al., "Single path one-shot neural architecture search with uniform sampling", ECCV 2020,
    algorithm 1, whose sizes of population, mutation and crossover are the defaults of published joint searches too.
    """
    if population < 2 or not 0 < parents <= 1 or not 0 <= mutated <= 1 or not 0 < probability <= 1:
        raise ValueError(
            f"population={population}, parents={parents}, mutated={mutated}, probability={probability}: give at least "
            "2 and shares up to 1."
        )
    kept = max(round(parents * population), 2)
    bounds = num_options(space)
    free = np.flatnonzero(bounds > 1).astype(np.int32)

    @functools.partial(jax.jit, static_argnames="num")
    def born(codes, count, key, num):
        # codes [kept, num_choices], of which the first `count` rows are filled
        def child(key):
            kind, first, second, where, one, options, side = jax.random.split(key, 7)
            pair = [codes[jax.random.randint(k, (), 0, count, jnp.int32)] for k in (first, second)]
            drawn = jax.random.randint(options, bounds.shape, 0, bounds, jnp.int32)
            certain = jnp.asarray(free)[jax.random.randint(one, (), 0, free.size, jnp.int32)]
            anew = jax.random.bernoulli(where, probability, bounds.shape).at[certain].set(True)
            crossed = jnp.where(jax.random.bernoulli(side, 0.5, bounds.shape), *pair)
            return jnp.where(jax.random.bernoulli(kind, mutated), jnp.where(anew, drawn, pair[0]), crossed)

        return jax.vmap(child)(jax.random.split(key, num))

    def best(state, rows):
        return rows[np.argsort(-state.values[rows], kind="stable")[:kept]]

    def children(codes, values, key, num):
        return born(padded(codes, kept), np.int32(len(codes)), key, padded_length(ATTEMPTS * num))

    return bred(space, population, best, children)
