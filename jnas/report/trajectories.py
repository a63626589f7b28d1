"""How the mixture on every edge moved during a search."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnas import spaces
from jnas.report.plots import INK, QUIET, STYLE, Chart, style, thinned, to_svg
from jnas.spaces import CellSpace, Edge

_MAX_POINTS = 120


def mixtures(space: CellSpace, genotypes: Sequence[dict[str, Any]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the mixture weights of every logged epoch.

    Args:
      space: the searched space.
      genotypes: `Run.genotypes`; rows without an alpha of this space's shape are left out.

    Returns:
      `(epochs, weights)`: epochs [num_rows], and for each cell its weights [num_rows, num_edges, num_ops].
    """
    shape = (space.num_edges, len(space.ops))
    epochs, rows = [], []
    for row in genotypes:
        try:
            values = {cell: np.asarray(row["alpha"][cell], dtype=np.float32) for cell in space.cells}
            epoch = float(row.get("epoch", row["step"]))
        except (KeyError, TypeError, ValueError):
            continue
        if all(value.shape == shape for value in values.values()):
            epochs.append(epoch)
            rows.append(values)
    stacked = {
        cell: jnp.asarray(np.array([row[cell] for row in rows], np.float32).reshape(-1, *shape)) for cell in space.cells
    }
    weights = jax.jit(jax.vmap(lambda alpha: spaces.mixture(space, alpha)))(stacked) if rows else stacked
    return np.array(epochs), {cell: np.asarray(value, dtype=float) for cell, value in weights.items()}


def trajectory_chart(
    space: CellSpace, cell: str, epochs: np.ndarray, weights: np.ndarray, found: CellSpace | None = None
) -> Chart:
    """Draw the weight of each operator over the epochs, a panel an edge: rows are target nodes, columns are sources.

    Args:
      space: the searched space.
      cell: one of `space.cells`.
      epochs: [num_rows].
      weights: [num_rows, num_edges, num_ops] of this cell, from `mixtures`.
      found: the cell that the search derived; its edges are named and drawn bold, the dropped ones are pale.

    Returns:
      The chart; edges without candidates have no panel.
    """
    import matplotlib
    from matplotlib.figure import Figure

    columns, rows = space.num_inputs + space.num_nodes - 1, space.num_nodes
    # The panels are a triangle: from three nodes on, its free upper right corner holds the legend.
    beside = 0.0 if rows > 2 else 1.6
    width, height = 0.75 + 2.02 * columns + beside, 1.05 + 1.45 * rows  # inches
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        grid = figure.add_gridspec(
            rows,
            columns,
            left=0.7 / width,
            right=1 - (0.12 + beside) / width,
            bottom=0.52 / height,
            top=1 - 0.78 / height,
            wspace=0.12,
            hspace=0.62,
        )
        highest = 1.05 * float(np.nanmax(weights, initial=1e-3))
        edges = space.edges(cell)
        lowest = {edge.source: edge.target for edge in edges if edge.ops}  # the last panel of each column
        for row, edge in enumerate(edges):
            if not edge.ops:
                continue
            axes = figure.add_subplot(grid[edge.target - space.num_inputs, edge.source])
            kept = found.edges(cell)[row].ops if found else None
            _panel(axes, space, edge, kept, epochs, weights[:, row])
            axes.set_ylim(0, highest)
            axes.tick_params(labelsize=7.5, length=2.5, labelleft=edge.source == 0)
            axes.tick_params(labelbottom=edge.target == lowest[edge.source])
            axes.locator_params(nbins=4)
            axes.locator_params(axis="x", integer=True)
            if len(epochs) == 1:
                axes.set_xticks([])
        title = "Mixture on the edges of the " + (cell if cell == "cell" else f"{cell} cell")
        window = thinned(epochs, epochs, _MAX_POINTS)[2]
        note = f" (means of {window} epochs)" if window > 1 else ""
        text = {"color": INK, "fontsize": 9}
        figure.text(0.12 / width, 1 - 0.1 / height, title, color=INK, fontsize=11, weight="bold", va="top")
        below = f"operators, after epoch {epochs[0]:g}" if len(epochs) == 1 else f"epoch{note}"
        figure.text(0.5, 0.1 / height, below, ha="center", **text)
        figure.text(0.12 / width, 0.5, "weight in the mixture", va="center", rotation=90, **text)
        _legend(figure, space, (1 - 0.1 / width, 1 - 0.5 / height))
        return Chart(title, _words(title, space, cell, weights), to_svg(figure))


def _panel(axes, space: CellSpace, edge: Edge, kept: tuple[str, ...] | None, epochs: np.ndarray, weights: np.ndarray):
    """Draw one edge; `kept` is None while nothing is derived and empty where the found cell drops the edge."""
    if len(epochs) == 1:  # no line: how high the weights stand
        at = [space.ops.index(op) for op in edge.ops]
        frames = [1.4 if kept is not None and op in kept else 0 for op in edge.ops]
        colours = [style(op).colour for op in edge.ops]
        axes.bar(at, weights[0, at], color=colours, edgecolor=INK, linewidth=frames, alpha=0.35 if kept == () else 1)
    for op in edge.ops if len(epochs) > 1 else ():
        x, y, _ = thinned(epochs, weights[:, space.ops.index(op)], _MAX_POINTS)
        wide, pale = kept is not None and op in kept, kept == ()
        axes.plot(x, y, **_look(op), linewidth=2.4 if wide else 1.1, alpha=0.35 if pale else 1)
    source = str(edge.source)
    if edge.source < space.num_inputs:
        source = f"$c_{{k-{space.num_inputs - edge.source}}}$"
    what = "" if kept is None else "\n" + (kept[0] if kept else "dropped")
    title = f"{source} → {edge.target}{what}"
    axes.set_title(title, fontsize=8.5, color=QUIET if kept == () else INK, weight="normal", pad=3)


def _look(op: str) -> dict[str, Any]:
    _, colour, dash = style(op)
    return {"color": colour, "linestyle": (0, dash) if dash else "-"}


def _legend(figure, space: CellSpace, corner: tuple[float, float]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=op, **_look(op)) for op in space.ops]
    columns = 2 if len(handles) > 5 and space.num_nodes > 2 else 1
    figure.legend(handles=handles, title="operator", ncols=columns, loc="upper right", bbox_to_anchor=corner)


def _words(title: str, space: CellSpace, cell: str, weights: np.ndarray) -> str:
    parts = []
    for row, edge in enumerate(space.edges(cell)):
        if edge.ops and len(weights):
            best = int(np.argmax(weights[-1, row]))
            parts.append(f"{edge.source} to {edge.target}: {space.ops[best]} {weights[-1, row, best]:.2f}")
    return f"{title}. Largest weight at the end: {'; '.join(parts)}."
