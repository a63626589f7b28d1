"""What every search space is, a tuple of choices, and the functions that need nothing more."""

import math
from collections.abc import Hashable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jnas.types import Array, Key


class Choice(NamedTuple):
    """One decision of an architecture: an index into `options`."""

    name: str
    options: tuple[Hashable, ...]


class Space(Protocol):
    """Frozen, hashable data. An architecture of it is an int32 vector `[num_choices]`."""

    @property
    def name(self) -> str:
        """The name under which reports and files mention the space."""
        ...

    @property
    def choices(self) -> tuple[Choice, ...]:
        """One entry a decision; entry i of an architecture indexes `choices[i].options`."""
        ...


def quoted(text: str) -> str:
    """Quotes a user's text for an error message, cut to 60 characters."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def num_options(space: Space) -> np.ndarray:
    """How many options each choice has: the exclusive upper bounds of an architecture's entries.

    Args:
      space: any space.

    Returns:
      `[num_choices]` int32, each at least 1.

    Raises:
      ValueError: if a choice has no option.
    """
    for choice in space.choices:
        if not choice.options:
            raise ValueError(f"choice {choice.name!r} of space {space.name!r} has no option: give it one or drop it.")
    return np.array([len(choice.options) for choice in space.choices], np.int32)


def size(space: Space) -> int:
    """The number of architectures, exactly.

    >>> from jnas import spaces
    >>> size(spaces.nasbench201())
    15625

    Args:
      space: any space.

    Returns:
      The product of the numbers of options, a Python integer (it overflows no machine word).
    """
    return math.prod(len(choice.options) for choice in space.choices)


def sample(space: Space, key: Key, num: int) -> Array:
    """Draws architectures uniformly and independently: the random baseline, or a first population.

    Args:
      space: any space.
      key: of the draw.
      num: architectures to draw; static under jit.

    Returns:
      `[num, num_choices]` int32.
    """
    bounds = num_options(space)
    return jax.random.randint(key, (num, len(bounds)), 0, bounds[None], jnp.int32)


def mutate(space: Space, key: Key, arch: Array) -> Array:
    """Changes one choice, drawn uniformly among those with a second option, to another of its options, drawn uniformly.

    Use `jax.vmap` over keys and architectures for a population.

    Args:
      space: any space with at least two architectures.
      key: of the draw.
      arch: `[num_choices]` int32.

    Returns:
      `[num_choices]` int32, different from `arch` in exactly one entry.

    Raises:
      ValueError: if the space has one architecture.
    """
    bounds = num_options(space)
    free = np.flatnonzero(bounds > 1).astype(np.int32)
    if free.size == 0:
        raise ValueError(f"space {space.name!r} has one architecture and no mutation: leave a second option somewhere.")
    arch = jnp.asarray(arch, jnp.int32)
    key_position, key_option = jax.random.split(key)
    position = jnp.asarray(free)[jax.random.randint(key_position, (), 0, free.size, jnp.int32)]
    other = jax.random.randint(key_option, (), 0, jnp.asarray(bounds)[position] - 1, jnp.int32)
    return arch.at[position].set(_skip(other, arch[position]))


def neighbours(space: Space, arch: Array) -> Array:
    """Every architecture that differs from `arch` in exactly one choice, by choice and then by option.

    Args:
      space: any space.
      arch: `[num_choices]` int32.

    Returns:
      `[num_neighbours, num_choices]` int32; num_neighbours is the sum over choices of the number of options less one.
    """
    bounds = num_options(space)
    position = np.repeat(np.arange(len(bounds), dtype=np.int32), bounds - 1)
    other = np.concatenate([np.arange(0), *(np.arange(bound - 1) for bound in bounds)]).astype(np.int32)
    arch = jnp.asarray(arch, jnp.int32)
    rows = jnp.broadcast_to(arch, (len(position), len(bounds)))
    return rows.at[np.arange(len(position)), position].set(_skip(other, arch[position]))


def _skip(other, current) -> Array:
    # The k-th option that is not the current one: count over a gap, so that no draw is rejected and shapes stay static.
    return other + (other >= current).astype(jnp.int32)
