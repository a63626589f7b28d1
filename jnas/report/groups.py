"""The groups of operators that a clustering found: how alike the feature maps are, and where the tree was cut."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jnas.report.plots import FIRST, INK, QUIET, Chart, axes_of, draw_matrix, style, to_svg


def group_charts(found: dict[str, Any]) -> list[Chart]:
    """The charts of a clustering as it stands in a run folder.

    Args:
      found: `cluster/found.json` of a run: `ops` [n], `correlation` [n, n], `linkage` [n - 1, 4] and `groups`.

    Returns:
      The matrix and the tree; nothing if one of these is missing or of another shape.
    """
    try:
        ops, groups = [str(op) for op in found["ops"]], [list(map(str, group)) for group in found["groups"]]
        matrix, linkage = (np.asarray(found[name], dtype=float) for name in ("correlation", "linkage"))
    except (KeyError, TypeError, ValueError):
        return []
    if len(ops) < 2 or matrix.shape != (len(ops),) * 2 or linkage.shape != (len(ops) - 1, 4):
        return []
    return [similarity_chart(ops, matrix, linkage, groups), dendrogram_chart(ops, linkage, groups)]


def similarity_chart(
    ops: Sequence[str], matrix: np.ndarray, linkage: np.ndarray, groups: Sequence[Sequence[str]]
) -> Chart:
    """Draw how alike every two operators' feature maps are, groups framed.

    Args:
      ops: [n] names.
      matrix: [n, n] in [-1, 1].
      linkage: [n - 1, 4], of scipy.cluster.hierarchy; its leaves give the order of rows and columns.
      groups: the operators of each group.

    Returns:
      The chart, with the numbers written into the cells.
    """
    from matplotlib.patches import Rectangle

    order = _tree(linkage)["leaves"]
    names = [ops[int(at)] for at in order]
    with axes_of(4.6, grid=False) as axes:
        shown = matrix[np.ix_(order, order)]
        image = draw_matrix(axes, shown, 1, 2)
        axes.set_xticks(range(len(ops)), names, rotation=40, ha="right", fontsize=7.5)
        axes.set_yticks(range(len(ops)), names, fontsize=7.5)
        for group in groups:
            at = [names.index(op) for op in group if op in names]
            if at:
                corner, size = min(at) - 0.5, max(at) - min(at) + 1
                axes.add_patch(Rectangle((corner, corner), size, size, fill=False, edgecolor=INK, linewidth=1.8))
        axes.set_title("Correlation of the operators' feature maps")
        axes.figure.colorbar(image, ax=axes, shrink=0.8)
        pairs = [(shown[i, j], names[i], names[j]) for i in range(len(ops)) for j in range(i)]
        value, one, other = max(pairs)
        alt = f"Correlation of the feature maps of every two operators. Most alike: {one} and {other}, {value:.2f}."
        return Chart("Correlation of the operators' feature maps", alt, to_svg(axes.figure))


def dendrogram_chart(ops: Sequence[str], linkage: np.ndarray, groups: Sequence[Sequence[str]]) -> Chart:
    """Draw the tree of the clustering and the height at which it was cut into the groups.

    Args:
      ops: [n] names.
      linkage: [n - 1, 4], of scipy.cluster.hierarchy.
      groups: the operators of each group.

    Returns:
      The chart.
    """
    tree = _tree(linkage)
    names = [ops[int(at)] for at in tree["leaves"]]
    number = sum(any(op in ops for op in group) for group in groups)
    heights = np.concatenate([[0.0], np.sort(linkage[:, 2])])
    joins = len(ops) - number  # of the n - 1 joins, those below the cut
    cut = heights[joins : joins + 2].mean()
    with axes_of(grid=False) as axes:
        for across, up in zip(tree["dcoord"], tree["icoord"], strict=True):
            axes.plot(across, up, color=FIRST, linewidth=1.6)
        axes.axvline(cut, color=QUIET, linewidth=1.2, linestyle=(0, (4, 3)), label=f"cut: {number} groups")
        axes.set_yticks([5 + 10 * at for at in range(len(ops))], names, fontsize=8)
        for label in axes.get_yticklabels():
            label.set_color(style(label.get_text()).colour)
        axes.set(title="Clusters of operators", xlabel="distance, 1 - correlation")
        axes.set_xlim(left=0)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.legend(loc="best")
        listed = "; ".join(", ".join(group) for group in groups)
        return Chart(
            "Clusters of operators", f"Tree of operators by average linkage. Groups: {listed}.", to_svg(axes.figure)
        )


def _tree(linkage: np.ndarray) -> dict[str, Any]:
    from scipy.cluster import hierarchy

    return hierarchy.dendrogram(linkage, no_plot=True)
