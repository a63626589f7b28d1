"""The NAS-Bench-201 space, its like with other operators and sizes, and the strings in which its tables name cells."""

import functools
import re
from collections.abc import Mapping, Sequence

from jnas.errors import UserError
from jnas.spaces.base import quoted
from jnas.spaces.cell import CellSpace

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_NAME = re.compile(r"cell-(\d|1[0-6]):([a-z0-9_]+(?:,[a-z0-9_]+)*)")


@functools.cache
def nasbench201() -> CellSpace:
    """The space of NAS-Bench-201: one cell of 3 nodes, 6 edges and 5 operators, every edge kept.

    >>> from jnas import spaces
    >>> spaces.to_string(nasbench201(), [3, 3, 3, 3, 3, 3])
    '|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|'

    Returns:
      The space "nasbench201".

    References:
      Dong, Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020.
    """
    return CellSpace(
        "nasbench201", ("cell",), num_inputs=1, num_nodes=3, ops=OPS, edge_ops=((OPS,) * 6,), kept=None, output="last"
    )


def branched(ops: Sequence[str], num_nodes: int) -> CellSpace:
    """Cells in which every node adds up what any of the states before it send: NAS-Bench-201 with another size.

    >>> from jnas import spaces
    >>> spaces.size(branched(("none", "skip_connect", "nor_conv_3x3"), 2))
    27

    Args:
      ops: candidates of every edge; with `none` among them the topology is searched too.
      num_nodes: of a cell, which then has num_nodes (num_nodes + 1) / 2 edges.

    Returns:
      The space, whose name `cell-NODES:op,op` `spaces.by_name` reads.

    Raises:
      ValueError: if there is no operator, one is named twice, or there is no node.
    """
    names = tuple(ops)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"the operators {names} are none or repeat one: name each once.")
    edges = num_nodes * (num_nodes + 1) // 2
    name = f"cell-{num_nodes}:{','.join(names)}"
    return CellSpace(name, ("cell",), 1, num_nodes, names, ((names,) * edges,), kept=None, output="last")


def parse_branched(text: str) -> CellSpace:
    """Reads the name that `branched` gives.

    Args:
      text: any.

    Returns:
      The space.

    Raises:
      UserError: if it is no such name.
    """
    match = _NAME.fullmatch(text.strip()[:2_000])
    if match is None:
        raise UserError(f"{quoted(text)} is no generated space: write cell-3:none,skip_connect,nor_conv_3x3.")
    try:
        return branched(match[2].split(","), int(match[1]))
    except ValueError as error:
        raise UserError(str(error)) from None


def to_bars(fixed: CellSpace, cell: str) -> str:
    """Writes one fixed cell as `|op~0|+|op~0|op~1|+...`: nodes joined by +, each in-edge as operator~source.

    Args:
      fixed: a space with at most one operator on every edge.
      cell: which of its cells.

    Returns:
      The string; absent edges are not mentioned.
    """
    nodes: dict[int, list[str]] = {target: [] for _, target in fixed.endpoints}
    for edge in fixed.edges(cell):
        nodes[edge.target].extend(f"{op}~{edge.source}" for op in edge.ops)
    return "+".join(f"|{'|'.join(edges)}|" for edges in nodes.values())


def from_bars(space: CellSpace, text: str) -> Mapping[int, str]:
    """Reads one cell as `to_bars` writes it; the in-edges of a node may come in any order.

    Args:
      space: the space of the cell.
      text: such as `|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|`.

    Returns:
      The operator of every edge mentioned, by its row of alpha.

    Raises:
      UserError: if the text does not fit the space; the sentence quotes the part that does not.
    """
    parts = [part.strip() for part in text.split("+")]
    if not parts[0].startswith("|"):
        raise UserError(f"{quoted(text)} is no cell of space {space.name!r}: write |op~0|+|op~0|op~1|+... .")
    if len(parts) != space.num_nodes:
        raise UserError(
            f"{quoted(text)} has {len(parts)} nodes: write the {space.num_nodes} of space {space.name!r}, joined by +."
        )
    rows: dict[int, str] = {}
    for target, part in enumerate(parts, space.num_inputs):
        if len(part) < 2 or part[0] != "|" or part[-1] != "|":
            raise UserError(f"{quoted(part)} is no node: write |op~0|op~1| with one op~source for each in-edge.")
        for item in filter(None, part[1:-1].split("|")):
            op, _, source = item.partition("~")
            if op not in space.ops:
                raise UserError(
                    f"{quoted(item)} names no operator of space {space.name!r}: use {', '.join(space.ops)}."
                )
            if not (source.isascii() and source.isdigit() and len(source) < 4 and int(source) < target):
                raise UserError(f"{quoted(item)} has no source among 0 to {target - 1}: write {op}~0, say.")
            row = space.endpoints.index((int(source), target))
            if row in rows:
                raise UserError(f"{item!r} is the second edge {source}->{target}: keep one of the two.")
            rows[row] = op
    return rows
