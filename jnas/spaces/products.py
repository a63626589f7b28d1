"""The space of tuples of architectures."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from jnas.spaces.base import Choice, Space
from jnas.types import Array


@dataclasses.dataclass(frozen=True)
class ProductSpace:
    """One architecture of every factor; see `product`."""

    factors: tuple[Space, ...]

    @property
    def name(self) -> str:
        """The factors' names, joined."""
        return " x ".join(factor.name for factor in self.factors)

    @functools.cached_property
    def choices(self) -> tuple[Choice, ...]:
        """The factors' choices in order, each prefixed with the name of its factor."""
        return tuple(
            Choice(f"{factor.name}/{choice.name}", choice.options)
            for factor in self.factors
            for choice in factor.choices
        )

    def split(self, arch: Array) -> tuple[Array, ...]:
        """Cuts `[..., num_choices]` architectures into those of the factors."""
        ends = np.cumsum([len(factor.choices) for factor in self.factors])
        return tuple(jnp.split(jnp.asarray(arch, jnp.int32), ends[:-1], axis=-1))


def product(*factors: Space) -> ProductSpace:
    """The space of tuples: a cell together with its bit widths, say.

    >>> from jnas import spaces
    >>> both = product(spaces.nasbench201(), spaces.s2())
    >>> both.choices[0].name
    'nasbench201/cell/0->1'

    Args:
      *factors: spaces with different names.

    Returns:
      A space whose choices are those of the factors, concatenated, with names `factor/choice`.

    Raises:
      ValueError: if two factors have one name, or there are none.
    """
    names = [factor.name for factor in factors]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"a product needs factors with different names and not {names}: rename one of them.")
    return ProductSpace(factors)
