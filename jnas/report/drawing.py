"""Pictures of a found cell, from left to right: SVG that stands alone, and text for those who have Graphviz."""

import html
import itertools
from typing import NamedTuple

from jnas.report import layout
from jnas.report.plots import INK, QUIET, style
from jnas.spaces.cell import NONE, CellSpace, Edge

_STATE_WIDTH, _STATE_HEIGHT = 46.0, 36.0
_LABEL_HEIGHT, _CHARACTER = 24.0, 7.3  # pixels; a character of the monospaced 12 px label, which textLength enforces
_MONO = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_SANS = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
_LANE, _GAP, _MARGIN, _PORT, _ARROW = 6.0, 12.0, 14.0, 11.0, 9.0


class _Wire(NamedTuple):
    """An edge as it is drawn: the vertices it passes, from state to state."""

    source: int
    target: int
    op: str | None  # None: a line into the output, which carries no operator
    vertices: tuple[int, ...]


class _Graph(NamedTuple):
    columns: layout.Columns
    wires: tuple[_Wire, ...]
    labels: dict[int, str]  # vertex -> operator
    output: int  # states are 0 .. output - 1


def draw_cell(space_fixed: CellSpace, cell: str) -> str:
    """Draw a found cell as an SVG picture that needs nothing else.

    Inputs stand at the left, every edge runs to the right and carries the name of its operator, the output `c_k` stands
    at the right. An edge with the operator `none` is dashed: it passes nothing.

    Args:
      space_fixed: a space with at most one operator on every edge, such as `spaces.fix(space, arch)`.
      cell: which of `space_fixed.cells` to draw.

    Returns:
      The text of an `<svg>` element. Edges are `<g class="edge">` with `data-source`, `data-target` and `data-op`,
      states are `<g class="state">` with `data-state`.

    Raises:
      ValueError: if the cell is unknown, or an edge has several candidates left.
    """
    edges = _present(space_fixed, cell)
    graph = _graph(space_fixed, edges)
    size = {v: _size(v, graph) for column in graph.columns for v in column}
    links = [link for wire in graph.wires for link in itertools.pairwise(wire.vertices)]
    columns = layout.ordered(graph.columns, links)
    # Between states a line should run straight: those links pull nine times as hard.
    pulls = links + 8 * [link for link in links if min(link) > graph.output]
    y = layout.heights(columns, pulls, {v: s[1] for v, s in size.items()}, gap=_GAP)
    y = {v: centre + _MARGIN for v, centre in y.items()}
    spans, right = _spans(columns, links, size, y)
    bottom = max(y[v] + size[v][1] / 2 for v in y)
    # Wires first, so that a label covers the line it belongs to.
    body = [_wire(wire, graph, spans, y) for wire in graph.wires]
    body += [_label(op, sum(spans[v]) / 2, y[v]) for v, op in graph.labels.items()]
    body += [_state(v, space_fixed, graph, sum(spans[v]) / 2, y[v], size[v]) for v in range(graph.output + 1)]
    title = html.escape(
        f"Cell of {space_fixed.name}" if cell == "cell" else f"{cell.capitalize()} cell of {space_fixed.name}"
    )
    parts = [f"{_name(e.source, space_fixed)} to {_name(e.target, space_fixed)}: {e.ops[0]}" for e in edges]
    width, height = right + _MARGIN, bottom + _MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{title}" '
            f'viewBox="0 0 {width:.1f} {height:.1f}" width="{width:.0f}" height="{height:.0f}" font-size="12">',
            f"<title>{title}</title>",
            f"<desc>{html.escape('; '.join(parts))}</desc>",
            f'<rect width="{width:.1f}" height="{height:.1f}" fill="#ffffff"/>',
            *body,
            "</svg>",
        ]
    )


def _present(space: CellSpace, cell: str) -> list[Edge]:
    if cell not in space.cells:
        raise ValueError(f"cell {cell!r} is not in space {space.name!r}; it has {', '.join(space.cells)}.")
    for edge in space.edges(cell):
        if len(edge.ops) > 1:
            raise ValueError(
                f"edge {edge.source}->{edge.target} of cell {cell!r} has {len(edge.ops)} operators left; "
                "derive an architecture first: spaces.fix(space, arch)."
            )
    return [edge for edge in space.edges(cell) if edge.ops]


def _leaves(space: CellSpace) -> range:
    """The states that the output reads."""
    end = space.num_inputs + space.num_nodes
    return range(space.num_inputs, end) if space.output == "concat" else range(end - 1, end)


def _name(state: int, space: CellSpace) -> str:
    if state < space.num_inputs:
        return f"c_{{k-{space.num_inputs - state}}}"
    return "c_{k}" if state == space.num_inputs + space.num_nodes else str(state)


def _graph(space: CellSpace, edges: list[Edge]) -> _Graph:
    """Give every state an even column and every label an odd one, and every long edge a vertex in what it passes."""
    output = space.num_inputs + space.num_nodes
    layer = layout.layers(output, [(e.source, e.target) for e in edges])
    layer = [0 if v < space.num_inputs else max(1, layer[v]) for v in range(output)]
    last = 2 * max(layer) + 1  # lines into the output carry no label, so it needs no column of labels
    columns: layout.Columns = [[] for _ in range(last + 1)]
    for state in range(output):
        columns[2 * layer[state]].append(state)
    columns[last].append(output)
    wires, labels, fresh = [], {}, itertools.count(output + 1)
    full = [0] * last  # labels in each column so far
    for edge in sorted(edges, key=lambda e: layer[e.target] - layer[e.source]):  # short edges have no choice of column
        start, stop = 2 * layer[edge.source], 2 * layer[edge.target]
        chosen = min(range(start + 1, stop, 2), key=full.__getitem__)
        full[chosen] += 1
        between = []
        for column in range(start + 1, stop):
            between.append(next(fresh))
            columns[column].append(between[-1])
            if column == chosen:
                labels[between[-1]] = edge.ops[0]
        wires.append(_Wire(edge.source, edge.target, edge.ops[0], (edge.source, *between, edge.target)))
    for state in _leaves(space):
        between = []
        for column in range(2 * layer[state] + 1, last):
            between.append(next(fresh))
            columns[column].append(between[-1])
        wires.append(_Wire(state, output, None, (state, *between, output)))
    return _Graph(columns, tuple(wires), labels, output)


def _size(vertex: int, graph: _Graph) -> tuple[float, float]:
    if vertex in graph.labels:
        return len(graph.labels[vertex]) * _CHARACTER + 18, _LABEL_HEIGHT
    if vertex > graph.output:
        return 0.0, _LANE
    ends = max(sum(wire.source == vertex for wire in graph.wires), sum(wire.target == vertex for wire in graph.wires))
    return _STATE_WIDTH, max(_STATE_HEIGHT, ends * _PORT + 10)


def _spans(columns, links, size, y):
    """The left and right end of every vertex's column, and the right end of the last: steeper lines get more room."""
    left, spans = _MARGIN, {}
    for column in columns:
        right = left + max(size[v][0] for v in column)
        spans.update(dict.fromkeys(column, (left, right)))
        rise = max([abs(y[a] - y[b]) for a, b in links if a in column], default=0.0)
        left = right + min(84.0, max(34.0, 24 + 0.35 * rise))
    return spans, right


def _port(wire: _Wire, end: int, graph: _Graph, y) -> float:
    """Where a wire meets a state: the wires of one side are spread in the order in which they arrive."""
    state, side = (wire.source, 1) if end == 0 else (wire.target, -2)
    others = [w for w in graph.wires if (w.source, w.target)[end] == state]
    others.sort(key=lambda w: y[w.vertices[side]])
    return y[state] + (others.index(wire) - (len(others) - 1) / 2) * _PORT


def _wire(wire: _Wire, graph: _Graph, spans, y) -> str:
    x0, y0 = spans[wire.source][1], _port(wire, 0, graph, y)
    path = [f"M{x0:.1f} {y0:.1f}"]
    for vertex in wire.vertices[1:]:
        final = vertex == wire.target
        x1, y1 = spans[vertex][0], _port(wire, 1, graph, y) if final else y[vertex]
        stop = x1 - (_ARROW if final else 0)
        middle = (x0 + stop) / 2
        path.append(f"C{middle:.1f} {y0:.1f} {middle:.1f} {y1:.1f} {stop:.1f} {y1:.1f}")
        if not final:
            path.append(f"H{spans[vertex][1]:.1f}")
        x0, y0 = spans[vertex][1], y1
    tip, height = spans[wire.target][0], y0
    colour = style(wire.op).colour if wire.op else QUIET
    dash = ' stroke-dasharray="4 4"' if wire.op == NONE else ""
    data = f' data-op="{html.escape(wire.op)}"' if wire.op else ""
    kind = "edge" if wire.op else "output"
    return (
        f'<g class="{kind}" data-source="{wire.source}" data-target="{wire.target}"{data}>'
        f'<path d="{" ".join(path)}" fill="none" stroke="{colour}" stroke-width="{2 if wire.op else 1.4}"{dash}/>'
        f'<path d="M{tip:.1f} {height:.1f} l{-_ARROW} -4 v8 z" fill="{colour}"/></g>'
    )


def _label(op: str, x: float, y: float) -> str:
    width, colour = len(op) * _CHARACTER, style(op).colour
    box = (
        f'x="{x - width / 2 - 9:.1f}" y="{y - _LABEL_HEIGHT / 2:.1f}" width="{width + 18:.1f}" height="{_LABEL_HEIGHT}"'
    )
    return (
        f'<g class="label"><rect {box} rx="12" fill="#ffffff"/>'
        f'<rect {box} rx="12" fill="{colour}" fill-opacity="0.13" stroke="{colour}" stroke-width="1.6"/>'
        f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" textLength="{width:.1f}" '
        f'lengthAdjust="spacingAndGlyphs" font-family="{_MONO}" fill="{INK}">{html.escape(op)}</text></g>'
    )


def _state(vertex: int, space: CellSpace, graph: _Graph, x: float, y: float, size: tuple[float, float]) -> str:
    outside = vertex < space.num_inputs or vertex == graph.output
    name = _name(vertex, space)
    if outside:
        name = (
            f'<tspan font-style="italic">c</tspan><tspan dy="4" font-size="10">{name[3:-1].replace("-", "−")}</tspan>'
        )
    return (
        f'<g class="state" data-state="{vertex}">'
        f'<rect x="{x - size[0] / 2:.1f}" y="{y - size[1] / 2:.1f}" width="{size[0]}" height="{size[1]}" rx="9" '
        f'fill="{"#eef1f4" if outside else "#ffffff"}" stroke="{INK}" stroke-width="1.4"/>'
        f'<text x="{x:.1f}" y="{y + 5:.1f}" text-anchor="middle" font-size="15" '
        f'font-family="{_SANS}" fill="{INK}">{name}</text></g>'
    )
