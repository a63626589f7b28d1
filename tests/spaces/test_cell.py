"""The named spaces have their published sizes; narrowing, validation and connectivity."""

import dataclasses
import itertools

import numpy as np
import pytest

from jnas import spaces


def test_published_sizes():
    assert spaces.size(spaces.nasbench201()) == 15625
    assert spaces.size(spaces.darts()) == (180 * 49**4) ** 2
    assert spaces.size(spaces.s1()) == spaces.size(spaces.s2()) == spaces.size(spaces.s3()) == (180 * 4**4) ** 2
    assert spaces.size(spaces.s4()) == (180 * 4**4) ** 2


def test_a_space_prints_in_one_line():
    assert repr(spaces.darts()) == "CellSpace('darts', normal, reduce, 14 edges, 8 operators)"


def test_edges_come_by_target_then_source():
    assert spaces.darts().endpoints[:5] == ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    assert spaces.darts().num_edges == 14
    assert spaces.nasbench201().endpoints == ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    edge = spaces.s1().edges("normal")[5]
    assert edge == spaces.Edge(0, 4, ("max_pool_3x3", "skip_connect"))


def test_fixed_darts_cell_has_two_edges_a_node(draw):
    for arch in draw(spaces.darts(), 20):
        fixed = spaces.fix(spaces.darts(), arch)
        for cell in fixed.cells:
            targets = [edge.target for edge in fixed.edges(cell) if edge.ops]
            assert targets == [2, 2, 3, 3, 4, 4, 5, 5]
            assert all(edge.ops[:1] != ("none",) for edge in fixed.edges(cell))


def test_narrow_keeps_order_and_columns():
    space = spaces.narrow(spaces.nasbench201(), {"cell": [["avg_pool_3x3", "none"], [], *[["skip_connect"]] * 4]})
    assert space.edge_ops[0][0] == ("none", "avg_pool_3x3")
    assert space.ops == spaces.nasbench201().ops
    assert [choice.name for choice in space.choices][:2] == ["cell/0->1", "cell/1->2"]
    assert spaces.size(space) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": [["sep_conv_3x3"]] + [[]] * 5}, "'sep_conv_3x3' is not on edge 0->1"),
        ({"cell": [[]] * 5}, "5 edges are given"),
        ({"normal": [[]] * 6}, "no cell 'normal'"),
    ],
)
def test_narrow_rejects_what_was_not_there(change, message):
    with pytest.raises(ValueError, match=message):
        spaces.narrow(spaces.nasbench201(), change)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kept", 0, "at least 1"),
        ("output", "sum", "choose 'concat' or 'last'"),
        ("edge_ops", ((("none",),) * 5,), "list 6 for each"),
        ("edge_ops", ((("skip_connect", "none"),) * 6,), "in that order"),
        ("edge_ops", ((("conv",),) * 6,), r"must be some of"),
    ],
)
def test_a_space_is_checked_when_it_is_built(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(spaces.nasbench201(), **{field: value})


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ([0] * 5, "vector of 6 integers"),
        ([0.0] * 6, "integers"),
        ([0, 5, 0, 0, 0, 0], "'cell/0->2' is 5"),
        ([-1] * 6, "-1"),
    ],
)
def test_an_architecture_is_checked_on_the_host(arch, message):
    with pytest.raises(ValueError, match=message):
        spaces.fix(spaces.nasbench201(), np.array(arch))


def test_connected_cells_of_nasbench201_are_those_with_a_path_of_real_operators(draw):
    paths = [((0, 3),), ((0, 1), (1, 3)), ((0, 2), (2, 3)), ((0, 1), (1, 2), (2, 3))]
    space = spaces.nasbench201()
    # Half of the entries `none`, or most cells would be connected.
    archs = draw(space, 200) * np.random.default_rng(1).integers(0, 2, (200, 6), np.int32)
    expected = [any(all(arch[space.endpoints.index(edge)] for edge in path) for path in paths) for arch in archs]
    assert 40 < sum(expected) < 160
    assert [spaces.is_connected(space, arch) for arch in archs] == expected


def test_darts_cells_are_connected(draw):
    assert all(spaces.is_connected(spaces.darts(), arch) for arch in draw(spaces.darts(), 50))


def test_noise_passes_nothing_on():
    space = spaces.s4()
    all_noise = [choice.options.index(((0, "noise"), (1, "noise"))) for choice in space.choices]
    assert not spaces.is_connected(space, all_noise)
    one_path = list(all_noise)
    one_path[1] = space.choices[1].options.index(((0, "noise"), (1, "sep_conv_3x3")))
    assert not spaces.is_connected(space, one_path)  # the reduction cell is noise still
    one_path[6] = space.choices[6].options.index(((1, "sep_conv_3x3"), (2, "noise")))
    assert spaces.is_connected(space, one_path)


def test_every_architecture_of_nasbench201_has_its_own_string():
    space = spaces.nasbench201()
    texts = {spaces.to_string(space, arch) for arch in itertools.product(range(5), repeat=6)}
    assert len(texts) == 15625
    assert "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|" in texts
