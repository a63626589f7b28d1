"""Quantisation policies as a space: one choice a unit of a network, whose options are methods."""

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jnas.errors import UserError
from jnas.spaces.base import Choice, quoted

FLOAT = 32  # the width that leaves values as they are
MAPPINGS = ("uniform", "power_of_two")
WIDTHS = (*range(2, 17), FLOAT)
_METHOD = re.compile(r"w(\d+)a(\d+)(-pow2)?")


class Method(NamedTuple):
    """How one unit is quantised: widths in bits, and the mapping from real weights to levels.

    Activations are always uniform: with weights that are powers of two a product is then a shift of an integer.
    """

    weight_bits: int
    activation_bits: int
    mapping: str = "uniform"  # of the weights: "uniform" or "power_of_two"

    def __str__(self) -> str:
        return f"w{self.weight_bits}a{self.activation_bits}" + "-pow2" * (self.mapping == "power_of_two")


EIGHT = Method(8, 8)
UNQUANTISED = Method(FLOAT, FLOAT)


def method_of(text: str) -> Method:
    """Reads a method as `str` writes it.

    >>> method_of("w4a8-pow2")
    Method(weight_bits=4, activation_bits=8, mapping='power_of_two')
    >>> str(method_of("w2a4"))
    'w2a4'

    Args:
      text: `wWaA` or `wWaA-pow2`, W and A being widths from 2 to 16, or 32 for values left as they are.

    Returns:
      The method.

    Raises:
      UserError: if the text is none.
    """
    match = _METHOD.fullmatch(text.strip())
    if match is None or int(match[1]) not in WIDTHS or int(match[2]) not in WIDTHS:
        raise UserError(f"{quoted(text)} is no method: write w4a8 or w4a8-pow2 with widths of 2 to 16 bits, or 32.")
    return Method(int(match[1]), int(match[2]), MAPPINGS[match[3] is not None])


@dataclasses.dataclass(frozen=True)
class PolicySpace:
    """Every assignment of methods to units: a space whose architectures are policies.

    >>> from jnas import spaces
    >>> policy = policies(["stem", "head"], [method_of("w2a4"), method_of("w8a8")])
    >>> from jnas.spaces.products import product
    >>> spaces.size(product(spaces.nasbench201(), policy))
    62500

    Attributes:
      units: names of what is quantised, one choice each.
      methods: all methods, in the order of the columns of tables.
      allowed: for each unit, the methods left to it, in the order of `methods`.
      name: of the space.
    """

    units: tuple[str, ...]
    methods: tuple[Method, ...]
    allowed: tuple[tuple[Method, ...], ...]
    name: str = "policy"

    def __post_init__(self):
        if len(set(self.units)) < len(self.units) or len(self.allowed) != len(self.units):
            raise ValueError(f"{len(self.allowed)} method sets are given for the units {self.units}: give one each.")
        if len(set(self.methods)) < len(self.methods) or not self.methods:
            raise ValueError(f"the methods {list(map(str, self.methods))} are none or repeat one: name each once.")
        for unit, left in zip(self.units, self.allowed, strict=True):
            if not left or left != tuple(method for method in self.methods if method in left):
                raise ValueError(f"unit {unit!r} has the methods {left}: leave it some of {self.methods}, in order.")

    @property
    def choices(self) -> tuple[Choice, ...]:
        """One choice a unit."""
        return tuple(Choice(unit, left) for unit, left in zip(self.units, self.allowed, strict=True))

    def columns(self, arch) -> np.ndarray:
        """The methods of policies as indices into `methods`, whatever each unit's own set is.

        Args:
          arch: `[..., num_units]` int, concrete.

        Returns:
          `[..., num_units]` int32.
        """
        codes, widest = np.asarray(arch), max(map(len, self.allowed))
        table = np.array([[self.methods.index(m) for m in left] + [0] * (widest - len(left)) for left in self.allowed])
        return table[np.arange(len(self.units)), codes].astype(np.int32)


def policies(units: Sequence[str], methods: Sequence[Method]) -> PolicySpace:
    """The space in which every unit may have every method.

    Args:
      units: names.
      methods: without repeats.

    Returns:
      The space "policy"; `product(space, policies)` searches it together with an architecture.

    Raises:
      ValueError: if there is no method, or a name comes twice.
    """
    return PolicySpace(tuple(units), tuple(methods), (tuple(methods),) * len(tuple(units)))
