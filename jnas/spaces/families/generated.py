"""Spaces of spaces, and the strategies that generate them.

A strategy is any function that returns spaces; `union` joins what several return. The result is itself a space, whose
architectures are spaces, so that whatever searches a space searches for one.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from jnas.spaces.base import Choice
from jnas.spaces.cell import NONE, CellSpace
from jnas.spaces.chain import ChainSpace, Layer, chain, word_of
from jnas.spaces.families.nasbench201 import branched

PLAIN_LAYERS = ("skip_connect", "max_pool_3x3", "nor_conv_3x3", "sep_conv_3x3", "sep_conv_5x5")


class Member(NamedTuple):
    """A generated space and what generated it."""

    strategy: str
    space: CellSpace | ChainSpace


@dataclasses.dataclass(frozen=True)
class Family:
    """A space whose architectures are spaces.

    Attributes:
      name: of the family.
      choices: the decisions of the generator; one choice among all members where they have no structure.
      generate: the options chosen, one a choice, -> the member.
    """

    name: str
    choices: tuple[Choice, ...]
    generate: Callable[..., Member]

    def member(self, code) -> Member:
        """The space that a code `[num_choices]` stands for."""
        return self.generate(*(choice.options[int(at)] for choice, at in zip(self.choices, code, strict=True)))

    def members(self) -> Iterator[Member]:
        """Every member, the last choice varying fastest."""
        return itertools.starmap(self.generate, itertools.product(*(choice.options for choice in self.choices)))


def union(name: str, strategies: Mapping[str, Iterable[CellSpace | ChainSpace]]) -> Family:
    """Joins what several strategies generate.

    >>> from jnas import spaces
    >>> small = union("small", {"mine": (spaces.nasbench201(), spaces.s2())})
    >>> small.member([1]).space.name
    's2'

    Args:
      name: of the family.
      strategies: name of a strategy -> its spaces. A space that an earlier one has generated is left out.

    Returns:
      A family of one choice, whose options are the members.

    Raises:
      ValueError: if there is no space.
    """
    members: dict[CellSpace | ChainSpace, Member] = {}
    for strategy, generated in strategies.items():
        for space in generated:
            members.setdefault(space, Member(strategy, space))
    if not members:
        raise ValueError(f"the strategies {tuple(strategies)} generate no space: give one that does.")
    return Family(name, (Choice("space", tuple(members.values())),), _itself)


def _itself(member: Member) -> Member:
    return member


def layer_types_and_depth(
    types: Sequence[str] = PLAIN_LAYERS, depths: Sequence[int] = (3, 6, 9), *, least: int = 2
) -> tuple[ChainSpace, ...]:
    """Chains of every depth over every set of layer types.

    >>> len(layer_types_and_depth(("skip_connect", "nor_conv_3x3", "max_pool_3x3"), (2, 4)))
    8

    Args:
      types: words for layers, see `chain.layer_of`.
      depths: numbers of layers.
      least: types in a set.

    Returns:
      A space for each depth and each set of at least that many types.
    """
    return tuple(chain(words, depth) for depth in depths for words in _subsets(types, least))


def layer_types(types: Sequence[str] = PLAIN_LAYERS, depth: int = 6, *, least: int = 2) -> tuple[ChainSpace, ...]:
    """Chains of one depth over every set of layer types; see `layer_types_and_depth`."""
    return layer_types_and_depth(types, (depth,), least=least)


def convolutions(
    *,
    kernels: Sequence[Sequence[int]] = ((3,), (3, 5)),
    widths: Sequence[Sequence[float]] = ((1.0,), (0.5, 1.0)),
    expansions: Sequence[Sequence[int]] = ((1,), (1, 3)),
    groups: Sequence[Sequence[int | None]] = ((1,), (1, None)),
    dilations: Sequence[Sequence[int]] = ((1,), (1, 2)),
    depths: Sequence[int] = (3, 6),
) -> tuple[ChainSpace, ...]:
    """Chains of convolutions: for every attribute the generator picks the set of values that a layer may have.

    >>> len(convolutions(kernels=[[3, 5], [3, 5, 7]], widths=[[1]], expansions=[[1]], groups=[[1], [1, None]],
    ...                  dilations=[[1]], depths=[2]))
    4

    Args:
      kernels: sets of sides in pixels.
      widths: sets of channels of a layer, in units of its stage's.
      expansions: sets of channels inside a layer, in units of its input's.
      groups: sets of numbers of groups; None: one filter a channel.
      dilations: sets of distances of taps, in pixels.
      depths: numbers of layers.

    Returns:
      A space for each combination of sets and depth in which a layer has something to choose. Its layers take any
      combination of values, but a kernel of one pixel has no dilation.
    """
    found = []
    for sets in itertools.product(kernels, widths, expansions, groups, dilations):
        layers = (
            Layer("conv", kernel, float(width), expansion, grouped, dilation)
            for kernel, width, expansion, grouped, dilation in itertools.product(*sets)
            if kernel > 1 or dilation == 1
        )
        words = tuple(map(word_of, layers))
        found += [chain(words, depth) for depth in depths if len(words) > 1]
    return tuple(found)


def topologies(
    types: Sequence[str] = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"),
    sizes: Sequence[int] = (2, 3),
    *,
    least: int = 2,
) -> tuple[ChainSpace | CellSpace, ...]:
    """Single-branch chains and multi-branch cells over every set of operators.

    >>> [space.name for space in topologies(("skip_connect", "nor_conv_3x3"), (2,))]
    ['chain-6:skip_connect,nor_conv_3x3', 'cell-2:none,skip_connect,nor_conv_3x3']

    Args:
      types: operators of cells.
      sizes: nodes of a cell. A chain has three times as many layers, for a cell stands in each of the three stages.
      least: types in a set.

    Returns:
      A chain and a cell for each set and size; the cells have `none` too, so that branches may be absent.
    """
    return tuple(
        space
        for nodes in sizes
        for ops in _subsets(types, least)
        for space in (chain(ops, 3 * nodes), branched((NONE, *ops), nodes))
    )


def _subsets(items: Sequence[str], least: int):
    for count in range(least, len(items) + 1):
        yield from itertools.combinations(items, count)
