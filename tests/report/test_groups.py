"""The charts of a clustering: what they say and show, and that a damaged file draws nothing."""

import numpy as np
import pytest
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from jnas.report import groups as g

OPS = ["max_pool_3x3", "sep_conv_3x3", "avg_pool_3x3"]
MATRIX = np.array([[1, 0.1, 0.8], [0.1, 1, -0.2], [0.8, -0.2, 1]])
FOUND = {
    "ops": OPS,
    "correlation": MATRIX.tolist(),
    "linkage": hierarchy.linkage(squareform(1 - MATRIX), method="average").tolist(),
    "groups": [["max_pool_3x3", "avg_pool_3x3"], ["sep_conv_3x3"]],
}


def test_the_charts_say_what_is_alike_and_which_groups_there_are():
    matrix, tree = g.group_charts(FOUND)
    assert "avg_pool_3x3" in matrix.alt
    assert "max_pool_3x3, 0.80" in matrix.alt or "and avg_pool_3x3, 0.80" in matrix.alt
    assert tree.alt.endswith("Groups: max_pool_3x3, avg_pool_3x3; sep_conv_3x3.")
    for chart in (matrix, tree):
        assert chart.svg.startswith("<svg")
    assert g.group_charts(FOUND) == [matrix, tree]  # the same run, the same page


def drawn(monkeypatch):
    """The figure instead of its text."""
    figures = []
    monkeypatch.setattr(g, "to_svg", lambda figure: figures.append(figure) or "<svg")
    return figures


def test_rows_and_columns_stand_in_the_order_of_the_tree_and_groups_are_framed(monkeypatch):
    figures = drawn(monkeypatch)
    g.group_charts(FOUND)
    axes = figures[0].axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    at = [OPS.index(name) for name in names]
    np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), MATRIX[np.ix_(at, at)])
    frames = sorted((patch.get_x(), patch.get_width()) for patch in axes.patches)
    single = names.index("sep_conv_3x3") - 0.5
    assert (single, 1) in frames
    assert sorted(width for _, width in frames) == [1, 2]  # the pools stand side by side


def test_the_cut_is_between_the_joins_that_it_separates(monkeypatch):
    figures = drawn(monkeypatch)
    g.group_charts(FOUND)
    axes = figures[1].axes[0]
    (cut,) = [line.get_xdata()[0] for line in axes.lines if str(line.get_label()).startswith("cut")]
    heights = np.asarray(FOUND["linkage"])[:, 2]
    assert heights[0] < cut < heights[1]


@pytest.mark.parametrize("damage", [{"ops": OPS[:2]}, {"linkage": [[0, 1]]}, {"correlation": "x"}, {"groups": None}])
def test_a_damaged_file_draws_nothing(damage):
    assert g.group_charts({**FOUND, **damage}) == []
    assert g.group_charts({}) == []
