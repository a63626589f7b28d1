import dataclasses
import itertools
import re
import xml.etree.ElementTree as ET

import jax
import numpy as np
import pytest

from jnas import spaces
from jnas.report.drawing import draw_cell
from jnas.spaces import networks

SVG = "{http://www.w3.org/2000/svg}"
BARS = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"


def fixed(name: str, text: str):
    space = spaces.by_name(name)
    return spaces.fix(space, networks.from_string(space, text))


def every_edge():
    """No derived DARTS cell is as crowded: all 14 edges stay."""
    space = spaces.darts()
    ops = tuple((space.ops[i % 8],) for i in range(14))
    return dataclasses.replace(space, edge_ops=(ops, ops))


def sampled(seed: int):
    space = spaces.darts()
    return spaces.fix(space, np.asarray(spaces.sample(space, jax.random.key(seed), 1))[0])


CASES = [
    pytest.param(fixed("darts", "DARTS_V2"), "normal", id="darts-v2-normal"),
    pytest.param(fixed("darts", "DARTS_V2"), "reduce", id="darts-v2-reduce"),
    pytest.param(fixed("nasbench201", BARS), "cell", id="nasbench201"),
    pytest.param(every_edge(), "normal", id="every-edge"),
    *[pytest.param(sampled(seed), "normal", id=f"sampled-{seed}") for seed in range(6)],
]


def group(root, kind):
    return [g for g in root.iter(f"{SVG}g") if g.get("class") == kind]


def box(element):
    rect = element.find(f"{SVG}rect")
    x, y, width, height = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def points(element, num=40):
    """Points along the line of an edge, from its path."""
    path = element.find(f"{SVG}path").get("d")
    x, y = map(float, re.match(r"M(\S+) (\S+)", path).groups())
    found = [(x, y)]
    for letter, numbers in re.findall(r"([CH])([^CH]*)", path):
        values = list(map(float, numbers.split()))
        t = np.linspace(0, 1, num)
        if letter == "H":
            found += [(x + s * (values[0] - x), y) for s in t]
            x = values[0]
            continue
        knots = np.array([(x, y), values[0:2], values[2:4], values[4:6]])
        weights = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], 1)
        found += [tuple(point) for point in weights @ knots]
        x, y = values[4:6]
    return np.array(found)


def inside(place, around):
    return (
        (around[0] + 0.2 < place[:, 0])
        & (place[:, 0] < around[2] - 0.2)
        & (around[1] < place[:, 1])
        & (place[:, 1] < around[3])
    )


@pytest.mark.parametrize(("space", "cell"), CASES)
def test_every_edge_and_every_line_to_the_output_is_drawn_once(space, cell):
    root = ET.fromstring(draw_cell(space, cell))
    drawn = [(int(g.get("data-source")), int(g.get("data-target")), g.get("data-op")) for g in group(root, "edge")]
    assert sorted(drawn) == sorted((e.source, e.target, e.ops[0]) for e in space.edges(cell) if e.ops)
    last = space.num_inputs + space.num_nodes
    leaves = range(space.num_inputs, last) if space.output == "concat" else [last - 1]
    outputs = [(int(g.get("data-source")), int(g.get("data-target"))) for g in group(root, "output")]
    assert sorted(outputs) == [(leaf, last) for leaf in leaves]
    assert sorted(g.find(f"{SVG}text").text for g in group(root, "label")) == sorted(op for _, _, op in drawn)


@pytest.mark.parametrize(("space", "cell"), CASES)
def test_edges_run_from_left_to_right_and_join_the_states_they_name(space, cell):
    root = ET.fromstring(draw_cell(space, cell))
    states = {int(g.get("data-state")): box(g) for g in group(root, "state")}
    assert sorted(states) == list(range(space.num_inputs + space.num_nodes + 1))
    for edge in [*group(root, "edge"), *group(root, "output")]:
        source, target = states[int(edge.get("data-source"))], states[int(edge.get("data-target"))]
        assert source[2] < target[0]
        line = points(edge)
        assert np.all(np.diff(line[:, 0]) >= -1e-9)
        assert line[0, 0] == pytest.approx(source[2], abs=0.2)
        assert source[1] < line[0, 1] < source[3]
        assert line[-1, 0] == pytest.approx(target[0] - 9, abs=0.2)  # an arrow head of 9 pixels follows
        assert target[1] < line[-1, 1] < target[3]


@pytest.mark.parametrize(("space", "cell"), CASES)
def test_no_label_touches_another_box_and_no_line_runs_through_a_foreign_one(space, cell):
    root = ET.fromstring(draw_cell(space, cell))
    width, height = map(float, root.get("viewBox").split()[2:])
    labels = [(box(g), g.find(f"{SVG}text").text) for g in group(root, "label")]
    states = [box(g) for g in group(root, "state")]
    for a, b in itertools.combinations([*(label for label, _ in labels), *states], 2):
        assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]
    for a in [*(label for label, _ in labels), *states]:
        assert a[0] > 0
        assert a[1] > 0
        assert a[2] < width
        assert a[3] < height
    passed = [0] * len(labels)
    for edge in [*group(root, "edge"), *group(root, "output")]:
        line = points(edge)
        through = [i for i, (label, _) in enumerate(labels) if inside(line, label).any()]
        assert [labels[i][1] for i in through] == [edge.get("data-op")] * (edge.get("class") == "edge")
        assert not any(inside(line, state).any() for state in states)
        for i in through:
            passed[i] += 1
    assert passed == [1] * len(labels)


def test_none_is_dashed_and_nothing_else_is():
    root = ET.fromstring(draw_cell(fixed("nasbench201", BARS), "cell"))
    dashed = {g.get("data-op"): g.find(f"{SVG}path").get("stroke-dasharray") is not None for g in group(root, "edge")}
    assert [op for op, yes in dashed.items() if yes] == ["none"]


def test_the_picture_says_in_words_what_it_shows():
    root = ET.fromstring(draw_cell(fixed("nasbench201", BARS), "cell"))
    assert root.get("role") == "img"
    assert root.find(f"{SVG}title").text == "Cell of nasbench201"
    assert root.find(f"{SVG}desc").text.startswith("c_{k-1} to 1: nor_conv_3x3; ")
    assert root.find(f"{SVG}desc").text.count(";") == 5


def test_names_are_escaped():
    space = dataclasses.replace(
        fixed("nasbench201", BARS), name="<b>&", ops=('a"<',), edge_ops=(tuple(('a"<',) for _ in range(6)),)
    )
    root = ET.fromstring(draw_cell(space, "cell"))
    assert {g.get("data-op") for g in group(root, "edge")} == {'a"<'}


def test_a_space_that_is_not_fixed_and_an_unknown_cell_are_refused():
    with pytest.raises(ValueError, match="edge 0->2 of cell 'normal' has 8 operators left; derive an architecture"):
        draw_cell(spaces.darts(), "normal")
    with pytest.raises(ValueError, match="cell 'middle' is not in space 'darts'; it has normal, reduce"):
        draw_cell(fixed("darts", "DARTS_V2"), "middle")
