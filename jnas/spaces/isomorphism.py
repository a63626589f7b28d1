"""When two codes are one network: the order of a cell's nodes is a matter of naming."""

import itertools
from collections.abc import Iterable

from jnas.spaces.cell import NONE, CellSpace, fix
from jnas.types import Array

Placed = tuple[int, int, str]  # (source, target, operator)


def canonical(space: CellSpace, arch: Array) -> str:
    """A text that two architectures share exactly if one is the other with its nodes renamed.

    Use it to count distinct results of several runs, and to train none twice. Edges of `none`, and edges that no input
    reaches or that do not reach the output, are left out. Nodes that a cell concatenates stay, for each of them is a
    part of the output; a renaming then only permutes its channels. That a skip connection joins two nodes into one is
    not followed: such networks differ in no value, but in their codes.

    Args:
      space: a cell space.
      arch: code `[num_choices]`.

    Returns:
      The text, such as `"cell: 0->1 skip_connect, 1->3 nor_conv_3x3"`.

    Example: the same cell with its two middle nodes exchanged.

      >>> from jnas import spaces
      >>> space = spaces.nasbench201()
      >>> cells = ["|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|",
      ...          "|none~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|skip_connect~2|"]
      >>> one, other = (canonical(space, spaces.from_string(space, cell)) for cell in cells)
      >>> one == other
      True
    """
    fixed = fix(space, arch)
    return "; ".join(f"{cell}: {_smallest(fixed, cell)}" for cell in fixed.cells)


def isomorphic(space: CellSpace, one: Array, other: Array) -> bool:
    """Whether two architectures are the same but for the names of their nodes; see `canonical`."""
    return canonical(space, one) == canonical(space, other)


def _smallest(fixed: CellSpace, cell: str) -> str:
    placed = [(edge.source, edge.target, edge.ops[0]) for edge in fixed.edges(cell) if edge.ops and edge.ops[0] != NONE]
    inputs, states = fixed.num_inputs, fixed.num_inputs + fixed.num_nodes
    outputs = range(inputs, states) if fixed.output == "concat" else [states - 1]
    live = _reached(placed, range(inputs)) & _reached([(b, a, op) for a, b, op in placed], outputs)
    placed = [edge for edge in placed if {edge[0], edge[1]} <= live]
    free = list(range(inputs, states if fixed.output == "concat" else states - 1))
    renamed = []
    for order in itertools.permutations(free):
        names = {state: state for state in range(states)} | dict(zip(free, order, strict=True))
        edges = sorted((names[a], names[b], op) for a, b, op in placed)
        if all(a < b for a, b, _ in edges):  # an order in which the nodes can be computed
            renamed.append(edges)
    return ", ".join(f"{a}->{b} {op}" for a, b, op in min(renamed))


def _reached(placed: Iterable[Placed], starts: Iterable[int]) -> set[int]:
    reached, edges = set(starts), list(placed)
    while new := {b for a, b, _ in edges if a in reached} - reached:
        reached |= new
    return reached
