"""The order in which the edges of a cell are computed."""

import hypothesis
import pytest
from hypothesis import strategies as st

from jnas import spaces
from jnas.nets.edges import schedule
from jnas.spaces.cell import CellSpace


@st.composite
def cells(draw):
    """Cells of any size with any candidates left on each edge."""
    inputs, nodes = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    edges = sum(range(inputs, inputs + nodes))
    some = st.sets(st.sampled_from(("none", "skip_connect", "nor_conv_1x1"))).map(
        lambda names: tuple(op for op in ("none", "skip_connect", "nor_conv_1x1") if op in names)
    )
    ops = tuple(draw(st.lists(some, min_size=edges, max_size=edges)))
    space = CellSpace("any", ("cell",), inputs, nodes, ("none", "skip_connect", "nor_conv_1x1"), (ops,), None, "last")
    return space, draw(st.booleans())


@hypothesis.settings(deadline=None)
@hypothesis.given(cells())
def test_every_edge_is_computed_once_and_after_its_source(case):
    space, reduction = case
    edges = space.edges("cell")
    stacks = schedule(edges, space.num_inputs, reduction)
    order = [(stack, *item) for stack in stacks for item in zip(stack.rows, stack.sources, stack.targets, strict=True)]
    rows = [row for _, row, _, _ in order]
    wanted = {row for row, edge in enumerate(edges) if set(edge.ops) - {"none"}}
    assert sorted(rows) == sorted(wanted)
    for position, (stack, row, source, target) in enumerate(order):
        assert (source, target) == edges[row][:2]
        assert stack.ops == tuple(op for op in edges[row].ops if op != "none")
        assert stack.stride == (2 if reduction and source < space.num_inputs else 1)
        assert not any(later_target == source for *_, later_target in order[position:])
    assert len({stack.name for stack in stacks}) == len(stacks)
    assert all(stack.ops and stack.rows for stack in stacks)


@pytest.mark.parametrize(
    ("space", "counts"),
    [
        (spaces.darts(), {"normal": [14], "reduce": [8, 6]}),
        (spaces.by_name("s3"), {"normal": [14], "reduce": [8, 6]}),
        (spaces.by_name("s4"), {"normal": [14], "reduce": [8, 6]}),
        (spaces.nasbench201(), {"cell": [6]}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_spaces_with_equal_edges_need_one_stack_a_stride(space, counts):
    found = {
        kind: [len(stack.rows) for stack in schedule(space.edges(kind), space.num_inputs, kind == "reduce")]
        for kind in space.cells
    }
    assert found == counts


def test_s1_needs_fewer_stacks_than_edges():
    space = spaces.by_name("s1")
    for kind, most in (("normal", 8), ("reduce", 6)):
        assert len(schedule(space.edges(kind), space.num_inputs, kind == "reduce")) <= most
