"""The DARTS space, the reduced ones on its graph, and the genotype in which its field writes cells down."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

from jnas.errors import UserError
from jnas.spaces.base import quoted
from jnas.spaces.cell import CellSpace, fix, place

PRIMITIVES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
CELLS = ("normal", "reduce")


class Genotype(NamedTuple):
    """A found pair of cells as the field writes it; its repr pastes back in, here and into the PyTorch codes.

    `normal` and `reduce` list `(operator, source)` pairs node after node, without a mark between nodes. Lists and
    ranges rather than tuples, because those are what published genotypes look like.
    """

    normal: Sequence[tuple[str, int]]
    normal_concat: Sequence[int]
    reduce: Sequence[tuple[str, int]]
    reduce_concat: Sequence[int]


@functools.cache
def darts() -> CellSpace:
    """The space of DARTS: 2 cells of 4 nodes, 14 edges and 8 operators; a node keeps 2 of its in-edges.

    >>> from jnas import spaces
    >>> spaces.size(darts()) == (180 * 49**4) ** 2
    True

    Returns:
      The space "darts".

    References:
      Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019.
    """
    return cells_of_darts("darts", PRIMITIVES, ((PRIMITIVES,) * 14,) * 2)


def cells_of_darts(name: str, ops: tuple[str, ...], edge_ops: tuple[tuple[tuple[str, ...], ...], ...]) -> CellSpace:
    """A space on the graph of DARTS' cells with other operators.

    Args:
      name: of the space.
      ops: every candidate, in the order of the columns of alpha.
      edge_ops: for the normal and the reduction cell, for each of 14 edges, the candidates on it.

    Returns:
      The space.
    """
    return CellSpace(name, CELLS, num_inputs=2, num_nodes=4, ops=ops, edge_ops=edge_ops, kept=2, output="concat")


_MAX, _AVG, _SKIP, _SEP3, _DIL3, _DIL5 = (PRIMITIVES[index] for index in (1, 2, 3, 4, 6, 7))

# S1 to S4, on which plain DARTS collapses: the cheapest honest test of a gradient (Zela et al., "Understanding and
# Robustifying Differentiable Architecture Search", ICLR 2020; operators as in github.com/automl/RobustDARTS,
# src/spaces.py). By target, then by source: the rows of a node start a line.
_S1_NORMAL = (
    (_SKIP, _DIL3), (_SKIP, _DIL5),
    (_SKIP, _DIL5), (_SKIP, _SEP3), (_SKIP, _DIL3),
    (_MAX, _SKIP), (_SKIP, _SEP3), (_SKIP, _SEP3), (_SKIP, _DIL3),
    (_SKIP, _SEP3), (_MAX, _SKIP), (_SKIP, _DIL3), (_DIL3, _DIL5), (_DIL3, _DIL5),
)  # fmt: skip
_S1_REDUCE = (
    (_MAX, _AVG), (_MAX, _DIL3),
    (_MAX, _AVG), (_MAX, _AVG), (_SKIP, _DIL5),
    (_MAX, _AVG), (_MAX, _SEP3), (_SKIP, _DIL3), (_SKIP, _DIL5),
    (_MAX, _AVG), (_MAX, _AVG), (_SKIP, _DIL5), (_SKIP, _DIL5), (_SKIP, _DIL5),
)  # fmt: skip


@functools.cache
def s1() -> CellSpace:
    """S1: two operators an edge, other ones on other edges: those left after the least important of DARTS were dropped.

    Returns:
      The space "s1", whose columns of alpha are the six operators that occur.
    """
    return cells_of_darts("s1", (_MAX, _AVG, _SKIP, _SEP3, _DIL3, _DIL5), (_S1_NORMAL, _S1_REDUCE))


@functools.cache
def s2() -> CellSpace:
    """S2: a skip connection or a 3x3 separable convolution; plain DARTS takes the skips.

    Returns:
      The space "s2".
    """
    return _uniform("s2", (_SKIP, _SEP3))


@functools.cache
def s3() -> CellSpace:
    """S3: S2 with `none` in the mixture.

    Returns:
      The space "s3".
    """
    return _uniform("s3", ("none", _SKIP, _SEP3))


@functools.cache
def s4() -> CellSpace:
    """S4: noise of variance one, whatever the input, or a 3x3 separable convolution; a good search avoids the noise.

    Returns:
      The space "s4".
    """
    return _uniform("s4", ("noise", _SEP3))


def _uniform(name: str, ops: tuple[str, ...]) -> CellSpace:
    return cells_of_darts(name, ops, ((ops,) * 14,) * 2)


def has_genotype(space: CellSpace) -> bool:
    """Whether a `Genotype` can say what an architecture of `space` is."""
    return space.cells == CELLS and space.kept is not None and space.output == "concat"


def to_genotype(space: CellSpace, arch) -> Genotype:
    """Writes an architecture as a genotype, the pairs of a node by increasing source.

    Args:
      space: a space for which `has_genotype`.
      arch: `[num_choices]` int32, concrete.

    Returns:
      The genotype.

    Raises:
      ValueError: if the space has other cells than DARTS, or `arch` is none of its architectures.
    """
    if not has_genotype(space):
        raise ValueError(f"space {space.name!r} has no genotypes: its cells are {space.cells}; use to_string.")
    fixed = fix(space, arch)
    pairs = [[(edge.ops[0], edge.source) for edge in fixed.edges(cell) if edge.ops] for cell in CELLS]
    nodes = range(space.num_inputs, space.num_inputs + space.num_nodes)
    return Genotype(normal=pairs[0], normal_concat=nodes, reduce=pairs[1], reduce_concat=nodes)


def from_genotype(space: CellSpace, genotype: Genotype) -> CellSpace:
    """Reads a genotype: the cells it stands for, as a fixed space.

    Args:
      space: a space for which `has_genotype`.
      genotype: with as many pairs a node as the space keeps edges, in any order within a node.

    Returns:
      The fixed space; `encode` turns it into an architecture.

    Raises:
      UserError: if the genotype does not fit the space; the sentence quotes the part that does not.
    """
    if not has_genotype(space):
        raise UserError(f"space {space.name!r} has no genotypes: its cells are {', '.join(space.cells)}.")
    nodes = list(range(space.num_inputs, space.num_inputs + space.num_nodes))
    for cell, concat in zip(CELLS, (genotype.normal_concat, genotype.reduce_concat), strict=True):
        if sorted(concat) != nodes:
            raise UserError(f"{cell}_concat is {list(concat)}: space {space.name!r} joins all its nodes, {nodes}.")
    return place(
        space, {"normal": _rows(space, "normal", genotype.normal), "reduce": _rows(space, "reduce", genotype.reduce)}
    )


def _rows(space: CellSpace, cell: str, pairs: Sequence[tuple[str, int]]) -> dict[int, str]:
    counts = [len(decision.placements[0]) for decision in space.decisions if decision.cell == cell]
    if len(pairs) != sum(counts):
        raise UserError(f"{cell!r} has {len(pairs)} pairs: space {space.name!r} needs {sum(counts)}, {counts} by node.")
    targets = (space.num_inputs + node for node, count in enumerate(counts) for _ in range(count))
    rows: dict[int, str] = {}
    for target, (op, source) in zip(targets, pairs, strict=True):
        if op not in space.ops:
            raise UserError(
                f"{quoted(op)} in {cell!r} is no operator of space {space.name!r}: use {', '.join(space.ops)}."
            )
        if (source, target) not in space.endpoints:
            raise UserError(
                f"{(op, source)} in {cell!r} has no source {source}: node {target} takes 0 to {target - 1}."
            )
        row = space.endpoints.index((source, target))
        if row in rows:
            raise UserError(f"{(op, source)} in {cell!r} is the second edge {source}->{target}: keep one of the two.")
        rows[row] = op
    return rows
