"""Numbers that describe a generated space, for a model of how spaces perform."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from jnas.spaces.base import Space, num_options, size
from jnas.spaces.cell import BLOCKING, CellSpace
from jnas.spaces.chain import ChainSpace, Layer, layer_of
from jnas.spaces.families.generated import Family, Member

_LISTED = 2**16  # members that may be looked at one by one
_KINDS = ("strategy", "operators", "depth", "width", "branches", "kernels")
_Name = TypeVar("_Name", str, int)


class Facts(NamedTuple):
    """What a space offers: the averages over the networks that are drawn from it uniformly."""

    by_layer: tuple[Mapping[str, float], ...]  # of each layer or edge: operator or attribute -> share of the candidates
    depth: int  # layers, or nodes of a cell
    width: float  # mean over layers of the candidates' mean width
    branches: bool  # whether a state may feed several
    kernels: Mapping[int, float]  # side of a convolution -> mean over layers of the share of candidates

    @property
    def shares(self) -> dict[str, float]:
        """Operator or attribute -> the share of layers that carry it in a network drawn uniformly, on average."""
        return _mean(self.by_layer)


@functools.lru_cache(maxsize=_LISTED)
def facts(space: Space) -> Facts:
    """What a space offers; the parts of its descriptor.

    >>> from jnas.spaces.chain import chain
    >>> facts(chain(("skip_connect", "conv_5x5-w0.5"), 4)).kernels
    {5: 0.5}

    Args:
      space: of chains or of cells.

    Returns:
      The facts. Of the words for convolutions with attributes each attribute counts as an operator. The facts of a
      fixed space are those of its network.

    Raises:
      ValueError: for a space of neither kind.
    """
    if isinstance(space, ChainSpace):
        places, depth, branches = space.layers, len(space.layers), False
    elif isinstance(space, CellSpace):
        places, branches = [ops for cell in space.edge_ops for ops in cell if ops], True
        depth = space.num_nodes
    else:
        raise ValueError(f"space {space.name!r} has neither cells nor layers: describe it by a function of your own.")
    plain = {*BLOCKING, *(op.name for op in getattr(space, "operators", ()))}
    layers = {op: Layer(op, 0) if op in plain else layer_of(op) for ops in places for op in ops}
    return Facts(
        tuple(_mean([dict.fromkeys(_attributes(op), 1.0) for op in ops]) for ops in places),
        depth,
        sum(sum(layers[op].width for op in ops) / len(ops) for ops in places) / len(places),
        branches,
        _mean([_mean([{layers[op].kernel: 1.0} if layers[op].kernel else {} for op in ops]) for ops in places]),
    )


def _mean(parts: Sequence[Mapping[_Name, float]]) -> dict[_Name, float]:
    names = dict.fromkeys(itertools.chain.from_iterable(parts))
    return {name: sum(part.get(name, 0.0) for part in parts) / len(parts) for name in names}


def _attributes(word: str) -> tuple[str, ...]:
    """The words by which layers are compared: an operator's name, or the attributes of a convolution."""
    return tuple(part for part in word.split("-") if not part.startswith("w")) if "-" in word else (word,)


class Descriptor(NamedTuple):
    """How the members of a family look to a model."""

    names: tuple[str, ...]  # of the features
    groups: tuple[int, ...]  # features of equal number are of one kind: strategies, operators, kernels ...
    of: Callable[[np.ndarray], np.ndarray]  # codes [n, num_choices] -> [n, num_features] float32
    # the same features of any space, of one network for instance, as a member of a strategy: [num_features] float32
    of_space: Callable[[Member], np.ndarray]


def describe(family: Family, *, by_layer: bool = False) -> Descriptor:
    """Builds the descriptor of a family's members.

    Strategy (one-hot), share of layers or edges with each operator, depth, width, whether there are branches, share of
    layers with each side of kernel. A feature that all members share is left out; the others have mean 0 and standard
    deviation 1 over the family. Shares are those of a network drawn uniformly, so the descriptor of a space is the mean
    of the descriptors of its networks.

    >>> from jnas.spaces.chain import chain
    >>> from jnas.spaces.families.generated import union
    >>> family = union("depths", {"mine": [chain(("skip_connect", "nor_conv_3x3"), n) for n in (2, 4)]})
    >>> describe(family).names, describe(family).of(np.array([[1]]))
    (('depth',), array([[1.]], dtype=float32))

    Args:
      family: of chains and cells; it is listed member by member, once.
      by_layer: describe by the operators of every layer in place of their shares, for members whose layers differ.

    Returns:
      The descriptor.

    Raises:
      ValueError: if the family has more than 65,536 members.
    """
    if size(family) > _LISTED:
        raise ValueError(f"family {family.name!r} has {size(family):,} members: describe more than 65,536 by hand.")
    bounds = num_options(family)
    members = list(family.members())
    values = [_values(member, by_layer) for member in members]
    names = sorted(frozenset().union(*values))
    table = np.array([[row.get(name, 0.0) for name in names] for row in values], np.float64)
    centre, scale = table.mean(0), table.std(0)
    kept = scale > 1e-9 * (1 + np.abs(table).max(0, initial=0))
    left = [name for name, keep in zip(names, kept, strict=True) if keep]
    centre, scale = centre[kept], scale[kept]
    table = ((table[:, kept] - centre) / scale).astype(np.float32)

    def of(codes):
        return table[np.ravel_multi_index(tuple(np.asarray(codes).T), tuple(bounds))]

    def of_space(member):
        row = _values(member, by_layer)
        return ((np.array([row.get(name, 0.0) for name in left]) - centre) / scale).astype(np.float32)

    return Descriptor(
        tuple(" ".join(name[1:]) for name in left), tuple(_KINDS.index(name[0]) for name in left), of, of_space
    )


def _values(member: Member, by_layer: bool) -> dict[tuple[str, ...], float]:
    """`(kind, words ...)` -> value of every feature that is not 0."""
    found = facts(member.space)
    values: dict[tuple[str, ...], float] = {("strategy", "strategy", member.strategy): 1.0}
    if by_layer:
        for at, shares in enumerate(found.by_layer):
            values |= {("operators", f"layer {at:02d}", name): share for name, share in shares.items()}
    else:
        values |= {("operators", "share of", name): share for name, share in found.shares.items()}
    values |= {("kernels", "kernel", str(side)): share for side, share in found.kernels.items()}
    return values | {
        ("depth", "depth"): float(found.depth), ("width", "width"): found.width,
        ("branches", "branches"): float(found.branches),
    }  # fmt: skip
