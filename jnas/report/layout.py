"""A layered layout of a small directed acyclic graph: longest-path layers, few crossings, exact separations.

Vertices are integers, a link joins vertices of neighbouring columns, and whatever must not overlap (a box, a label, the
lane of a long edge) is a vertex with a size. So the absence of overlap is a constraint here and not a hope.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

Links = Sequence[tuple[int, int]]
Columns = list[list[int]]


def layers(num_vertices: int, links: Links) -> list[int]:
    """Return the longest-path layer of each vertex: 0 without predecessors, else one more than the last of them.

    Args:
      num_vertices: vertices are 0 .. num_vertices - 1.
      links: `(source, target)` with source < target, in any order.

    Returns:
      One layer a vertex.

    >>> layers(4, [(0, 1), (1, 2), (0, 2), (0, 3)])
    [0, 1, 2, 1]
    """
    layer = [0] * num_vertices
    for source, target in sorted(links, key=lambda link: link[1]):
        layer[target] = max(layer[target], layer[source] + 1)
    return layer


def crossings(columns: Columns, links: Links) -> int:
    """Count the pairs of links that cross when every column is drawn from top to bottom in the given order.

    Args:
      columns: the vertices of each column, top first.
      links: `(left, right)`, between neighbouring columns.

    Returns:
      The number of crossings; links that share an end do not cross there.

    >>> crossings([[0, 1], [2, 3]], [(0, 3), (1, 2)])
    1
    """
    place = {vertex: (c, row) for c, column in enumerate(columns) for row, vertex in enumerate(column)}
    rows = [(place[a][0], place[a][1], place[b][1]) for a, b in links]
    return sum(p[0] == q[0] and (p[1] - q[1]) * (p[2] - q[2]) < 0 for p, q in itertools.combinations(rows, 2))


def ordered(columns: Columns, links: Links, *, sweeps: int = 12) -> Columns:
    """Reorder every column so that few links cross: swaps of neighbours while they help, then barycentre sweeps.

    Args:
      columns: the vertices of each column, in the order that wins a tie.
      links: `(left, right)`, between neighbouring columns.
      sweeps: passes over the columns, to the right and to the left in turn.

    Returns:
      The same columns with the fewest crossings that were met, the given order included.

    >>> ordered([[0, 1], [2, 3]], [(0, 3), (1, 2)])
    [[1, 0], [2, 3]]

    Reference: K. Sugiyama, S. Tagawa, M. Toda, "Methods for visual understanding of hierarchical system structures",
    IEEE Transactions on Systems, Man, and Cybernetics 11(2), 1981.
    """
    before, after = _neighbours(links)
    best = _swapped(columns, links)
    current = columns
    for sweep in range(sweeps):
        rightwards = sweep % 2 == 0
        current = [list(column) for column in current]
        for column in current if rightwards else reversed(current):
            row = {vertex: i for other in current for i, vertex in enumerate(other)}
            side = before if rightwards else after
            centre = {v: float(np.mean([row[u] for u in side.get(v, [v])])) for v in column}
            column.sort(key=centre.__getitem__)
        best = min(best, current, key=lambda candidate: crossings(candidate, links))
    return best


def _swapped(columns: Columns, links: Links) -> Columns:
    columns, fewest, improved = [list(column) for column in columns], crossings(columns, links), True
    while improved:
        improved = False
        for column in columns:
            for i in range(len(column) - 1):
                column[i], column[i + 1] = column[i + 1], column[i]
                count = crossings(columns, links)
                if count < fewest:
                    fewest, improved = count, True
                else:
                    column[i], column[i + 1] = column[i + 1], column[i]
    return columns


def heights(columns: Columns, links: Links, height: Mapping[int, float], *, gap: float, sweeps: int = 60) -> dict:
    """Return the vertical centre of each vertex: near the mean of its neighbours, never nearer than the boxes allow.

    Every sweep solves for each column, exactly,

        minimise sum_i (y_i - d_i)^2   subject to   y_{i+1} - y_i >= (h_i + h_{i+1}) / 2 + gap

    where d_i is the mean height of the neighbours of vertex i: an isotonic regression after a shift.

    Args:
      columns: the vertices of each column, top first.
      links: `(left, right)`, between neighbouring columns; one that is listed twice pulls twice as hard.
      height: of each vertex's box, in pixels.
      gap: least free space between two boxes of a column, in pixels.
      sweeps: passes over the columns, to the right and to the left in turn.

    Returns:
      The centre of each vertex in pixels, growing downwards; the top edge of the highest box is 0.
    """
    from scipy.optimize import isotonic_regression

    before, after = _neighbours(links)
    offsets = [_offsets([height[v] for v in column], gap) for column in columns]
    y = {
        v: float(o)
        for column, offset in zip(columns, offsets, strict=True)
        for v, o in zip(column, offset, strict=True)
    }
    for sweep in range(sweeps):
        pairs = list(zip(columns, offsets, strict=True))
        for column, offset in pairs if sweep % 2 == 0 else reversed(pairs):
            wanted = [np.mean([y[u] for u in [*before.get(v, []), *after.get(v, [])]] or [y[v]]) for v in column]
            y.update(zip(column, (isotonic_regression(np.asarray(wanted) - offset).x + offset).tolist(), strict=True))
    top = min(y[v] - height[v] / 2 for v in y)
    return {v: centre - top for v, centre in y.items()}


def _offsets(sizes: Sequence[float], gap: float) -> np.ndarray:
    steps = [(a + b) / 2 + gap for a, b in itertools.pairwise(sizes)]
    return np.cumsum([0.0, *steps])


def _neighbours(links: Links) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    before: dict[int, list[int]] = {}
    after: dict[int, list[int]] = {}
    for source, target in links:
        before.setdefault(target, []).append(source)
        after.setdefault(source, []).append(target)
    return before, after
