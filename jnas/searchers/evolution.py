"""Evolution: tournaments in a population in which the oldest dies, or crossover and mutation among the best."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jnas.searchers.base import Searcher, bred, padded, padded_length
from jnas.spaces.base import Space, mutate, num_options

ATTEMPTS = 16  # children drawn for each architecture asked, of which the first new one is taken


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
