"""The space of tuples of architectures."""

import dataclasses
import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jnas.spaces.base import Choice, Space
from jnas.types import Array


@dataclasses.dataclass(frozen=True)
class ProductSpace:
    """One architecture of every factor; see `product`."""

    factors: tuple[Space, ...]
    order: tuple[int, ...] = ()  # of the factors' choices, one after another; empty: as they are

    @property
    def name(self) -> str:
        """The factors' names, joined."""
        return " x ".join(factor.name for factor in self.factors)

    @functools.cached_property
    def choices(self) -> tuple[Choice, ...]:
        """The factors' choices in order, each prefixed with the name of its factor."""
        each = [
            Choice(f"{factor.name}/{choice.name}", choice.options)
            for factor in self.factors
            for choice in factor.choices
        ]
        return tuple(each[n] for n in self.order or range(len(each)))

    def split(self, arch: Array) -> tuple[Array, ...]:
        """Cuts `[..., num_choices]` architectures into those of the factors."""
        ends = np.cumsum([len(factor.choices) for factor in self.factors])
        arch = jnp.asarray(arch, jnp.int32)
        arch = arch[..., np.argsort(self.order)] if self.order else arch
        return tuple(jnp.split(arch, ends[:-1], axis=-1))

    def join(self, *archs: np.ndarray) -> np.ndarray:
        """Puts architectures of the factors together, `[..., num_choices]` int32: what `split` cuts."""
        whole = np.concatenate(archs, axis=-1).astype(np.int32)
        return whole[..., list(self.order)] if self.order else whole


def product(*factors: Space, order: Sequence[int] = ()) -> ProductSpace:
    """The space of tuples: a cell together with its bit widths, say.

    >>> from jnas import spaces
    >>> both = product(spaces.nasbench201(), spaces.s2())
    >>> both.choices[0].name
    'nasbench201/cell/0->1'

    Args:
      *factors: spaces with different names.
      order: a permutation of the factors' choices, for searchers to whom it matters which choice comes before which.

    Returns:
      A space whose choices are those of the factors, concatenated, with names `factor/choice`.

    Raises:
      ValueError: if two factors have one name, or there are none; if the order is no permutation.
    """
    names = [factor.name for factor in factors]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"a product needs factors with different names and not {names}: rename one of them.")
    count = sum(len(factor.choices) for factor in factors)
    if order and sorted(order) != list(range(count)):
        raise ValueError(f"the order {tuple(order)} is no permutation: name each of the {count} choices once.")
    return ProductSpace(factors, tuple(order))
