"""Groups of alike operators, and the two spaces of a search that first chooses a group for each edge, then a member.

Stage 1 mixes one operator a group on every edge; stage 2 mixes all operators of the group that won there. Few unlike
operators compete in each stage, so that a group is not weakened by its own members sharing the weight.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from jnas.spaces.cell import NONE, CellSpace, narrow, op_mask
from jnas.types import Array

Winners = dict[str, tuple[int | None, ...]]  # for each cell, for each edge, a group; None: nothing to choose there


@dataclasses.dataclass(frozen=True)
class Groups:
    """Operators sorted into groups of one kind, and the one that stands for each group in stage 1.

    Attributes:
      members: the groups; `none` belongs to no group and is on every edge of both stages where the space has it.
      representatives: one operator of each group, in the same order.

    >>> Groups((("skip_connect",), ("sep_conv_3x3", "conv_5x5")), ("skip_connect", "sep_conv_3x3")).of("conv_5x5")
    1
    """

    members: tuple[tuple[str, ...], ...]
    representatives: tuple[str, ...]

    def __post_init__(self):
        named = [op for group in self.members for op in group]
        if not self.members or not all(self.members):
            raise ValueError(f"the groups {self.members} are none, or one is empty: give each at least one operator.")
        for op in named:
            if op == NONE or named.count(op) > 1:
                raise ValueError(
                    f"{op!r} is in {named.count(op)} groups: name every operator once, and {NONE!r} never."
                )
        if len(self.representatives) != len(self.members):
            raise ValueError(
                f"{len(self.representatives)} representatives are given for {len(self.members)} groups: give one each."
            )
        for op, group in zip(self.representatives, self.members, strict=True):
            if op not in group:
                raise ValueError(f"{op!r} cannot stand for the group {group}: choose one of its operators.")

    def of(self, op: str) -> int:
        """The number of the group that holds an operator.

        Raises:
          ValueError: if none does.
        """
        for number, group in enumerate(self.members):
            if op in group:
                return number
        raise ValueError(f"{op!r} is in none of the groups {self.members}: add it to one.")


def groups_of(members: Sequence[Sequence[str]]) -> Groups:
    """Groups in which the first operator of each stands for it.

    Args:
      members: the groups.

    Returns:
      The groups.

    Raises:
      ValueError: if a group is empty, or an operator is named twice or is `none`.
    """
    groups = tuple(tuple(group) for group in members)
    return Groups(groups, tuple(group[0] for group in groups if group))


@functools.cache
def stacnas_groups() -> Groups:
    """The four groups of StacNAS for the operators of DARTS: pools, the skip, separable and dilated convolutions.

    >>> stacnas_groups().representatives
    ('max_pool_3x3', 'skip_connect', 'sep_conv_3x3', 'dil_conv_3x3')

    Returns:
      The groups.

    References:
      Li et al., "StacNAS: Towards Stable and Consistent Differentiable Neural Architecture Search", arXiv:1909.11926.
    """
    return groups_of(
        (
            ("max_pool_3x3", "avg_pool_3x3"),
            ("skip_connect",),
            ("sep_conv_3x3", "sep_conv_5x5"),
            ("dil_conv_3x3", "dil_conv_5x5"),
        )
    )


def representatives(space: CellSpace, groups: Groups) -> CellSpace:
    """The space of stage 1: on each edge one operator of every group that has any there, and `none` where it was.

    That operator is the group's representative; where the edge lacks it, the group's first operator on the edge.

    Args:
      space: the whole space.
      groups: of its operators, each in exactly one.

    Returns:
      The narrowed space; columns of alpha keep their meaning.

    Raises:
      ValueError: if an operator of the space is in no group.
    """
    for op in space.ops:
        if op != NONE:
            groups.of(op)

    def left(ops: tuple[str, ...]) -> list[str]:
        there = [[op for op in (first, *group) if op in ops] for first, group in _pairs(groups)]
        return [*(op for op in ops if op == NONE), *(found[0] for found in there if found)]

    return narrow(space, {cell: [left(edge.ops) for edge in space.edges(cell)] for cell in space.cells})


def winners(stage_one: CellSpace, alpha: Mapping[str, Array | np.ndarray], groups: Groups) -> Winners:
    """The group that won on every edge of every cell: that of the largest raw alpha, `none` left out.

    Args:
      stage_one: from `representatives`.
      alpha: at the end of stage 1; for each cell `[num_edges, num_ops]`, concrete.
      groups: those of the stage.

    Returns:
      For each cell, the number of the group on each edge; None on an edge without any operator. Ties go to the operator
      that comes first in the space.

    Raises:
      ValueError: if alpha is not of the space's shape or a candidate's is not a number.
    """
    mask = op_mask(stage_one)
    result: Winners = {}
    for cell in stage_one.cells:
        values = np.asarray(alpha[cell])
        if values.shape != mask[cell].shape:
            raise ValueError(f"alpha of cell {cell!r} is {values.shape}: give {mask[cell].shape}.")
        if np.isnan(values[mask[cell]]).any():
            raise ValueError(f"alpha of cell {cell!r} is not a number: the search diverged, take an earlier alpha.")
        chosen = []
        for row, edge in enumerate(stage_one.edges(cell)):
            ops = [op for op in edge.ops if op != NONE]
            best = max(ops, key=lambda op: values[row, stage_one.ops.index(op)], default=None)  # the first of equals
            chosen.append(None if best is None else groups.of(best))
        result[cell] = tuple(chosen)
    return result


def stage_two(space: CellSpace, groups: Groups, chosen: Mapping[str, Sequence[int | None]]) -> CellSpace:
    """The space of stage 2: on every edge all operators of the group that won there, and `none` where it was.

    The architecture at its end is `spaces.derive(stage_two, alpha)`, from raw alpha: edges of different groups have
    different numbers of candidates, so that their softmax weights cannot be compared.

    Args:
      space: the whole space.
      groups: of its operators.
      chosen: from `winners`.

    Returns:
      The narrowed space; columns of alpha keep their meaning.

    Raises:
      ValueError: if `chosen` is not for the cells and edges of the space.
    """
    if {cell: len(rows) for cell, rows in chosen.items()} != dict.fromkeys(space.cells, space.num_edges):
        raise ValueError(f"winners are given for {sorted(chosen)}: give {space.num_edges} groups for {space.cells}.")

    def left(ops: tuple[str, ...], number: int | None) -> list[str]:
        members = () if number is None else groups.members[number]
        return [op for op in ops if op == NONE or op in members]

    return narrow(
        space,
        {
            cell: [left(edge.ops, number) for edge, number in zip(space.edges(cell), chosen[cell], strict=True)]
            for cell in space.cells
        },
    )


def _pairs(groups: Groups):
    return zip(groups.representatives, groups.members, strict=True)
