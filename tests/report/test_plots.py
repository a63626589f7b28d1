import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.colors import to_hex

from jnas import spaces
from jnas.report import charts, trajectories
from jnas.report.charts import accuracy_chart, search_charts, training_charts
from jnas.report.plots import FIRST, Line, line_chart, style, thinned
from jnas.report.reading import read_run
from jnas.report.trajectories import mixtures, trajectory_chart

SVG = "{http://www.w3.org/2000/svg}"


def drawn(svg: str, colour: str, num: int) -> np.ndarray:
    """The vertices of the line of that colour with that many points, in points of the picture."""
    for path in ET.fromstring(svg).iter(f"{SVG}path"):
        numbers = re.findall(r"[ML] (\S+) (\S+)", path.get("d") or "")  # a space has no d
        if f"stroke: {colour.lower()}" in (path.get("style") or "") and len(numbers) == num:
            return np.array(numbers, dtype=float)
    raise AssertionError(f"no line of {num} points in {colour}")


def test_a_curve_is_an_affine_picture_of_its_data():
    x = np.arange(30.0)
    y = np.random.default_rng(0).normal(size=30)
    chart = line_chart([Line("noise", x, y)], title="T", xlabel="step", ylabel="y")
    line = drawn(chart.svg, FIRST, 30)
    for data, picture in ((x, line[:, 0]), (y, line[:, 1])):
        slope, offset = np.polyfit(data, picture, 1)
        np.testing.assert_allclose(slope * data + offset, picture, atol=0.02)
    assert np.polyfit(x, line[:, 0], 1)[0] > 0
    assert np.polyfit(y, line[:, 1], 1)[0] < 0  # SVG counts downwards


def test_windows_are_means_and_hide_no_value_that_is_not_finite():
    x, y = np.arange(10.0), np.arange(10.0) ** 2
    y[4] = np.inf
    short_x, short_y, window = thinned(x, y, 4)
    assert window == 3
    np.testing.assert_allclose(short_x, [1, 4, 7, 9])
    np.testing.assert_allclose(short_y, [np.mean(y[:3]), np.nan, np.mean(y[6:9]), y[9]])


def test_the_same_data_gives_the_same_text():
    charts = [line_chart([Line("a", np.arange(3.0), np.arange(3.0))], title="T", xlabel="x", ylabel="y") for _ in "ab"]
    assert charts[0] == charts[1]


def test_search_charts_show_every_metric_once(made):
    charts = search_charts(read_run(made.folder).search)
    assert [chart.title for chart in charts] == [
        "Loss",
        "Accuracy",
        "Norms of the gradients",
        "Residual of the Neumann series",
        "Step size of the Neumann series",
    ]
    for chart in charts:
        assert ET.fromstring(chart.svg).tag == f"{SVG}svg"
    assert f"inner (training) ends at {made.loss[-1]:.4g}" in charts[0].alt


def test_an_unknown_metric_gets_a_chart_of_its_own_and_no_metrics_give_none():
    charts = search_charts({"step": np.arange(3.0), "dominant_eigenvalue": np.ones(3), "time": np.arange(3.0)})
    assert [chart.title for chart in charts] == ["Dominant eigenvalue"]
    assert search_charts({}) == []


def test_found_networks_of_many_runs_look_different(made, monkeypatch):
    drawn = []
    monkeypatch.setattr(charts, "line_chart", lambda lines, **options: drawn.append(lines))
    run = read_run(made.folder)
    training_charts(run._replace(train={f"run-{n}": run.train["found"] for n in range(12)}))
    assert [len({(line.colour, line.dash) for line in lines}) for lines in drawn] == [12] * 3


def test_training_charts_name_the_random_cells_once(made):
    loss, _, accuracy = training_charts(read_run(made.folder))
    assert loss.alt.count("random cells ends") == 1
    assert "found ends at 75" in accuracy.alt
    assert drawn(accuracy.svg, FIRST, 4).shape == (4, 2)


def test_every_random_cell_is_a_dot(made):
    chart = accuracy_chart(read_run(made.folder))
    root = ET.fromstring(chart.svg)
    dots = [
        len(list(g.iter(f"{SVG}use"))) for g in root.iter(f"{SVG}g") if g.get("id", "").startswith("PathCollection")
    ]
    assert sorted(dots) == [1, 3]
    assert chart.alt.endswith("found 75.00 %; random 72.00 ± 2.00 (n = 3) %.")


def test_no_trained_network_no_accuracies(tmp_path, write_run):
    assert accuracy_chart(read_run(write_run(tmp_path, finished=False, steps=10).folder)) is None


@pytest.mark.parametrize("name", ["darts", "nasbench201"])
def test_mixtures_are_softmaxes_and_every_edge_has_a_panel_with_every_operator(tmp_path, write_run, name):
    run = read_run(write_run(tmp_path, space=name).folder)
    space = spaces.by_name(name)
    cell = space.cells[-1]
    broken = [
        {"step": 1, "epoch": 9, "alpha": None},
        {"step": 1, "epoch": 9, "alpha": {c: [[1.0]] for c in space.cells}},
    ]
    epochs, weights = mixtures(space, [*run.genotypes, *broken])
    np.testing.assert_array_equal(epochs, [1, 2, 3, 4])
    alpha = np.array([row["alpha"][cell] for row in run.genotypes])
    expected = np.exp(alpha) / np.exp(alpha).sum(-1, keepdims=True)
    np.testing.assert_allclose(weights[cell], expected, rtol=1e-5)

    found = spaces.fix(space, spaces.from_string(space, run.genotypes[-1]["genotype"]))
    chart = trajectory_chart(space, cell, epochs, weights[cell], found)
    root = ET.fromstring(chart.svg)
    panels = [g for g in root.iter(f"{SVG}g") if g.get("id", "").startswith("axes_")]
    assert len(panels) == space.num_edges
    for row, panel in enumerate(panels):
        looks = [path.get("style") for path in panel.iter(f"{SVG}path") if "stroke" in (path.get("style") or "")]
        for op in space.ops:
            assert any(f"stroke: {style(op).colour.lower()}" in look for look in looks), (row, op)
        bold = [look for look in looks if "stroke-width: 2.4" in look]
        kept = found.edges(cell)[row].ops
        assert [style(op).colour.lower() in look for op, look in zip(kept, bold, strict=True)] == [True] * len(kept)
        best = int(np.argmax(expected[-1, row]))
        source, target = space.endpoints[row]
        assert f"{source} to {target}: {space.ops[best]} {expected[-1, row, best]:.2f}" in chart.alt


def test_an_absent_edge_has_no_panel():
    space = spaces.nasbench201()
    narrow = spaces.narrow(space, {"cell": [(), *[space.ops[:2]] * 5]})
    weights = np.full((2, 6, 5), 0.5)
    root = ET.fromstring(trajectory_chart(narrow, "cell", np.arange(2.0), weights).svg)
    assert sum(g.get("id", "").startswith("axes_") for g in root.iter(f"{SVG}g")) == 5


def test_a_single_epoch_is_drawn_as_bars_with_the_kept_operator_framed(monkeypatch):
    space, kept = spaces.nasbench201(), []
    monkeypatch.setattr(trajectories, "to_svg", lambda figure: kept.append(figure) or "")
    weights = np.random.default_rng(0).dirichlet(np.ones(5), size=(1, 6))
    trajectory_chart(space, "cell", np.ones(1), weights, spaces.fix(space, [3] * 6))
    panels = [axes for axes in kept[0].axes if axes.patches]
    for row, axes in enumerate(panels):
        assert not axes.lines
        np.testing.assert_allclose([bar.get_height() for bar in axes.patches], weights[0, row])
        assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == [style(op).colour.lower() for op in space.ops]
        assert [bar.get_linewidth() > 0 for bar in axes.patches] == [op == space.ops[3] for op in space.ops]
    assert len(panels) == 6
