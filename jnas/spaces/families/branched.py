"""Cells of many branches with operators and a number of nodes of one's own, named by what they are."""

import re
from collections.abc import Sequence

from jnas.errors import UserError
from jnas.spaces.base import quoted
from jnas.spaces.cell import CellSpace

_NAME = re.compile(r"cell-(\d{1,2}):([a-z0-9_]+(?:,[a-z0-9_]+)*)")


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
