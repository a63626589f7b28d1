"""Selection by perturbation: an operator is worth what the trained supernet loses without it."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jnas import spaces
from jnas.spaces.cell import NONE, CellSpace, op_mask, place
from jnas.types import Array, Key

Mix = dict[str, np.ndarray]  # for each cell, float32 [num_edges, num_ops]


class Removal(NamedTuple):
    """One decision, as it was measured."""

    cell: str
    row: int  # of alpha
    kept: str  # the operator, or "" where an edge was judged against the others into its node
    scores: dict[str, float]  # what the supernet scored without each candidate operator, or without each edge by row


class Selection(NamedTuple):
    """What `select` returns."""

    arch: Array  # [num_choices] int32
    removals: tuple[Removal, ...]  # in the order of the decisions


def select(
    space: CellSpace,
    mix: Mapping[str, Array | np.ndarray],
    evaluate: Callable[[Mix], float],
    *,
    key: Key,
    without: Sequence[str] = (),
) -> Selection:
    """Derives an architecture from a trained supernet by removing things and looking what it loses.

    For each edge in random order: take each operator out of the mixture, one at a time, and keep the one without which
    the supernet scores worst. Where nodes keep some of their edges only, for each node in random order: take each
    in-edge out, and keep those without which it scores worst. Nothing is tuned between the decisions.

    A removal is a zero in the mixture (the other weights stay as they are, as in the published code), and a decision a
    row with one entry: every call gets arrays of the same shapes, so a jitted `evaluate` compiles once. Cost: as many
    evaluations as candidate operators, and as in-edges in the second part.

    Args:
      space: of the supernet.
      mix: its mixture at the end of the search, from `spaces.mixture`.
      evaluate: mix to its score on validation examples, larger is better, such as accuracy.
      key: of the orders.
      without: operators that must not be chosen. Where edges are dropped anyway, `none` never is.

    Returns:
      The architecture and the record of the decisions. Ties go to the first operator or edge.

    Raises:
      ValueError: if `without` leaves an edge nothing, or a score is not a number.

    References:
      Wang et al., "Rethinking architecture selection in differentiable NAS" (DARTS-PT), ICLR 2021, algorithm 1.
    """
    excluded = {*without, NONE} if space.kept is not None else set(without)
    mask = op_mask(space)
    current = {cell: np.where(mask[cell], np.asarray(mix[cell], np.float32), 0) for cell in space.cells}
    edge_key, node_key = jax.random.split(key)
    placed: dict[str, dict[int, str]] = {cell: {} for cell in space.cells}
    removals: list[Removal] = []

    edges = [(cell, row) for cell in space.cells for row, edge in enumerate(space.edges(cell)) if edge.ops]
    for cell, row in _shuffled(edges, edge_key):
        ops = [op for op in space.edges(cell)[row].ops if op not in excluded]
        if not ops and space.kept is None:
            raise ValueError(f"without={tuple(without)} leaves nothing on edge {row} of {cell!r}: exclude fewer.")
        if not ops:  # only `none`: the edge is dropped
            continue
        columns = {op: space.ops.index(op) for op in ops}
        scores = {op: _score(evaluate, _with(current, cell, row, columns[op], 0)) for op in ops}
        best = min(ops, key=lambda op: scores[op])
        placed[cell][row] = best
        current = _with(_with(current, cell, row, slice(None), 0), cell, row, columns[best], 1)
        removals.append(Removal(cell, row, best, scores))

    if space.kept is not None:
        nodes = [(cell, space.num_inputs + node) for cell in space.cells for node in range(space.num_nodes)]
        for cell, node in _shuffled(nodes, node_key):
            rows = sorted(row for row in placed[cell] if space.endpoints[row][1] == node)
            scores = {row: _score(evaluate, _with(current, cell, row, slice(None), 0)) for row in rows}
            ranked = sorted(rows, key=lambda row: scores[row])
            for row in ranked[space.kept :]:
                del placed[cell][row]
                current = _with(current, cell, row, slice(None), 0)
            named = {str(row): score for row, score in scores.items()}
            removals += [Removal(cell, row, "", named) for row in ranked[: space.kept]]
    return Selection(spaces.encode(space, place(space, placed)), tuple(removals))


def _shuffled(items: list, key: Key) -> list:
    return [items[int(at)] for at in jax.random.permutation(key, len(items))]


def _score(evaluate: Callable[[Mix], float], mix: Mix) -> float:
    score = float(evaluate(mix))
    if np.isnan(score):
        raise ValueError("the supernet scores no number without an operator: it diverged, take an earlier one.")
    return score


def _with(mix: Mix, cell: str, row: int, columns: int | slice, value: float) -> Mix:
    changed = mix[cell].copy()
    changed[row, columns] = value
    return {**mix, cell: changed}
