"""`CellSpace`: one type for DARTS, NAS-Bench-201, the reduced spaces, a narrowed space and a found cell."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from jnas.spaces.base import Choice
from jnas.spaces.operators import Operator

NONE = "none"
NOISE = "noise"
BLOCKING = (NONE, NOISE)  # built-in operators whose output does not depend on their input


class Edge(NamedTuple):
    """A directed edge of a cell. States are numbered inputs first: 0 .. num_inputs - 1, then the nodes."""

    source: int
    target: int
    ops: tuple[str, ...]  # the candidates left on this edge, in the space's order; empty: the edge is absent


class Decision(NamedTuple):
    """A choice together with where it stands: every option places operators on edges of one cell."""

    choice: Choice
    cell: str
    candidates: dict[int, tuple[str, ...]]  # row of alpha -> the operators an option may place there
    placements: tuple[tuple[tuple[int, str], ...], ...]  # for each option, (row of alpha, operator) by increasing row


@dataclasses.dataclass(frozen=True)
class CellSpace:
    """Cells whose edges carry candidate operators.

    A found network is the same type with at most one operator left on every edge (see `fix`): one module builds both.

    Spaces are equal, and hash equal, by their names, which is all that files hold of them: the operators that a space
    carries take no part. A program compiled for one space may therefore not depend on them; a network compares its
    operators, too (`nets.Network`), so that equal spaces with other operators never share a compiled network.

    Attributes:
      name: of the space.
      cells: names of the searched cells, `("normal", "reduce")` for DARTS; a reduction cell is named "reduce".
      num_inputs: states a cell receives from outside.
      num_nodes: intermediate nodes of a cell, each the sum of its in-edges.
      ops: every candidate operator, in the order of the columns of alpha.
      edge_ops: for each cell, for each edge (by target, then by source), the operators left on it.
      kept: in-edges a node keeps when an architecture is derived; None keeps all.
      output: "concat" joins all intermediate nodes along channels, "last" returns the last node.
      operators: those of `ops` that are the user's own, see `extend`; the others are built in.
    """

    name: str
    cells: tuple[str, ...]
    num_inputs: int
    num_nodes: int
    ops: tuple[str, ...]
    edge_ops: tuple[tuple[tuple[str, ...], ...], ...]
    kept: int | None
    output: Literal["concat", "last"]
    operators: tuple[Operator, ...] = dataclasses.field(default=(), compare=False)

    def __post_init__(self):
        if min(self.num_inputs, self.num_nodes, 1 if self.kept is None else self.kept) < 1:
            raise ValueError(
                f"num_inputs={self.num_inputs}, num_nodes={self.num_nodes}, kept={self.kept}: each must be at least 1."
            )
        if self.output not in ("concat", "last"):
            raise ValueError(f"output is {self.output!r}: choose 'concat' or 'last'.")
        rows = [len(cell) for cell in self.edge_ops]
        if rows != [self.num_edges] * len(self.cells):
            raise ValueError(f"edge_ops lists {rows} edges for cells {self.cells}: list {self.num_edges} for each.")
        for names in itertools.chain.from_iterable(self.edge_ops):
            if names != tuple(op for op in self.ops if op in names):
                raise ValueError(f"the edge operators {names} must be some of {self.ops}, in that order.")
        own = [op.name for op in self.operators]
        for name in own:
            if own.count(name) > 1 or name not in self.ops:
                raise ValueError(
                    f"the space carries {own} and names {self.ops}: carry each operator once, and name it."
                )

    def __repr__(self) -> str:
        return f"CellSpace({self.name!r}, {', '.join(self.cells)}, {self.num_edges} edges, {len(self.ops)} operators)"

    @property
    def num_edges(self) -> int:
        """Edges of one cell, absent ones included: the rows of its alpha."""
        return len(self.endpoints)

    @functools.cached_property
    def endpoints(self) -> tuple[tuple[int, int], ...]:
        """`(source, target)` of every edge, in the order of the rows of alpha."""
        nodes = range(self.num_inputs, self.num_inputs + self.num_nodes)
        return tuple((source, target) for target in nodes for source in range(target))

    def edges(self, cell: str) -> tuple[Edge, ...]:
        """The edges of one cell, absent ones included."""
        if cell not in self.cells:
            raise ValueError(f"space {self.name!r} has no cell {cell!r}: choose one of {', '.join(self.cells)}.")
        ops = self.edge_ops[self.cells.index(cell)]
        return tuple(Edge(source, target, names) for (source, target), names in zip(self.endpoints, ops, strict=True))

    @functools.cached_property
    def blocking(self) -> tuple[str, ...]:
        """The operators whose output does not depend on their input."""
        own = [op.name for op in self.operators if not op.passes]
        return tuple(op for op in self.ops if op in (*BLOCKING, *own))

    @property
    def is_fixed(self) -> bool:
        """Whether nothing is left to choose: at most one operator on every edge."""
        return all(len(names) <= 1 for cell in self.edge_ops for names in cell)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """One choice an edge where a node keeps all its in-edges, else one choice a node over valid sets of in-edges.

        An option of a per-edge choice is an operator name; of a per-node choice, a tuple of `(source, op)` pairs with
        increasing sources, so that every code is a valid cell. `none` is no candidate where edges are dropped anyway,
        and an absent edge is no choice.
        """
        return tuple(decision.choice for decision in self.decisions)

    @functools.cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """The choices, with the cell and the edges that each of them is about."""
        per_cell = self._edge_decisions if self.kept is None else self._node_decisions
        return tuple(itertools.chain.from_iterable(per_cell(cell) for cell in self.cells))

    def _edge_decisions(self, cell: str):
        for row, edge in enumerate(self.edges(cell)):
            if edge.ops:
                choice = Choice(f"{cell}/{edge.source}->{edge.target}", edge.ops)
                yield Decision(choice, cell, {row: edge.ops}, tuple(((row, op),) for op in edge.ops))

    def _node_decisions(self, cell: str):
        for node in range(self.num_inputs, self.num_inputs + self.num_nodes):
            candidates = {
                row: ops
                for row, edge in enumerate(self.edges(cell))
                if edge.target == node and (ops := tuple(op for op in edge.ops if op != NONE))
            }
            count = min(self.kept or 0, len(candidates))
            placements = tuple(
                placed
                for rows in itertools.combinations(candidates, count)
                for placed in itertools.product(*([(row, op) for op in candidates[row]] for row in rows))
            )
            options = tuple(tuple((self.endpoints[row][0], op) for row, op in placed) for placed in placements)
            yield Decision(Choice(f"{cell}/{node}", options), cell, candidates, placements)


def extend(space: CellSpace, *operators: Operator) -> CellSpace:
    """Adds operators of your own to the candidates of every edge.

    >>> from jnas import spaces
    >>> both = extend(spaces.nasbench201(), spaces.Operator("mine", lambda channels, stride: ...))
    >>> both.name, spaces.size(both) == 6**6
    ('nasbench201+mine', True)

    Args:
      space: the space to extend.
      *operators: whose names neither the space nor `jnas.nets.ops` has.

    Returns:
      A space of another name, for it has other architectures; an edge that is absent stays so. No name finds it again:
      functions that go from a name to a space take it as a value.

    Raises:
      ValueError: if the space has an operator of that name.
    """
    names = tuple(op.name for op in operators)
    for name in names:
        if name in space.ops:
            raise ValueError(f"space {space.name!r} has an operator {name!r}: give yours another name.")
    return dataclasses.replace(
        space,
        name="+".join((space.name, *names)),
        ops=(*space.ops, *names),
        edge_ops=tuple(tuple((*ops, *names) if ops else () for ops in cell) for cell in space.edge_ops),
        operators=(*space.operators, *operators),
    )


def narrow(space: CellSpace, edge_ops: Mapping[str, Sequence[Sequence[str]]]) -> CellSpace:
    """Leaves fewer operators on some edges: progressive shrinking, or the second stage of a grouped search.

    Args:
      space: the space to narrow.
      edge_ops: for each cell to narrow, for each of its edges, the operators to leave, in any order; cells that are not
        mentioned stay as they are. No operator: the edge is absent.

    Returns:
      The same space, with these operators only; columns of alpha keep their meaning.

    Raises:
      ValueError: if a cell, an edge or an operator was not there before.
    """
    for cell, lists in edge_ops.items():
        if len(lists) != space.num_edges:
            raise ValueError(
                f"{len(lists)} edges are given for cell {cell!r}: give {space.num_edges} lists of operators."
            )
        for edge, names in zip(space.edges(cell), lists, strict=True):
            if extra := [op for op in names if op not in edge.ops]:
                raise ValueError(
                    f"{extra[0]!r} is not on edge {edge.source}->{edge.target} of cell {cell!r}: "
                    f"leave some of {', '.join(edge.ops) or 'nothing'}."
                )
    left = (edge_ops.get(cell, old) for cell, old in zip(space.cells, space.edge_ops, strict=True))
    ordered = tuple(tuple(tuple(op for op in space.ops if op in names) for names in lists) for lists in left)
    return dataclasses.replace(space, edge_ops=ordered)


def fix(space: CellSpace, arch) -> CellSpace:
    """The found network's cells: the operators that an architecture places, and nothing on the other edges.

    Args:
      space: the space of the architecture.
      arch: `[num_choices]` int32, concrete (not traced).

    Returns:
      A space with at most one operator on every edge. An edge of a space that keeps all edges may carry `none`.

    Raises:
      ValueError: if `arch` is no architecture of `space`.
    """
    placed: dict[str, dict[int, str]] = {cell: {} for cell in space.cells}
    for decision, option in zip(space.decisions, checked(space, arch), strict=True):
        placed[decision.cell].update(decision.placements[option])
    return place(space, placed)


def place(space: CellSpace, placed: Mapping[str, Mapping[int, str]]) -> CellSpace:
    """The fixed space with operator `placed[cell][row]` on the edges named, and the other edges absent."""
    rows = range(space.num_edges)
    edge_ops = tuple(tuple((placed[cell][row],) if row in placed[cell] else () for row in rows) for cell in space.cells)
    return dataclasses.replace(space, edge_ops=edge_ops)


def checked(space: CellSpace, arch) -> list[int]:
    """The entries of `arch` as integers, or a ValueError that says which of them indexes no option."""
    codes = np.asarray(arch)
    if codes.shape != (len(space.choices),) or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(
            f"an architecture of {space.name!r} is a vector of {len(space.choices)} integers "
            f"and not {codes.dtype}{list(codes.shape)}."
        )
    for choice, code in zip(space.choices, codes, strict=True):
        if not 0 <= code < len(choice.options):
            raise ValueError(f"entry {choice.name!r} is {code}: give an index below {len(choice.options)}.")
    return codes.tolist()


def op_mask(space: CellSpace) -> dict[str, np.ndarray]:
    """Which operators are left where.

    Args:
      space: any cell space.

    Returns:
      For each cell, bool `[num_edges, num_ops]`.
    """
    return {
        cell: np.array([[op in names for op in space.ops] for names in lists], bool)
        for cell, lists in zip(space.cells, space.edge_ops, strict=True)
    }


def is_connected(space: CellSpace, arch) -> bool:
    """Whether every cell's output depends on one of its inputs; a network of other cells guesses one class for all.

    A node that keeps DARTS' operators always does. A NAS-Bench-201 cell may have `none` on every path, and a cell of S4
    may hold nothing but noise.

    Args:
      space: the space of the architecture.
      arch: `[num_choices]` int32, concrete.

    Returns:
      True if in every cell a path of operators that pass something on leads from an input to the output.
    """
    fixed = fix(space, arch)
    first, last = space.num_inputs, space.num_inputs + space.num_nodes - 1
    for cell in fixed.cells:
        reached = set(range(first))
        for edge in fixed.edges(cell):  # by target, so that a source is settled before it is read
            if edge.source in reached and any(op not in fixed.blocking for op in edge.ops):
                reached.add(edge.target)
        outputs = {last} if space.output == "last" else set(range(first, last + 1))
        if not outputs & reached:
            return False
    return True
