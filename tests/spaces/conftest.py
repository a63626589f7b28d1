"""The spaces that the invariants are checked on: the named ones, and small ones with every awkward feature."""

import dataclasses

import numpy as np
import pytest

from jnas import spaces
from jnas.spaces.products import product


def toy() -> spaces.CellSpace:
    """Two cells without `kept`, an absent edge, an edge with one operator, `none` on some edges only."""
    edge_ops = (
        (("none", "a"), (), ("a", "b"), ("b",), ("none", "b"), ("none", "a", "b")),
        (("a", "b"), ("a",), (), (), ("none",), ("a", "b")),
    )
    return spaces.CellSpace("toy", ("left", "right"), 1, 3, ("none", "a", "b"), edge_ops, None, "last")


def sparse() -> spaces.CellSpace:
    """DARTS' graph where a node has fewer edges than it would keep, and `none` alone does not count as one."""
    darts = spaces.darts()
    lists = [list(names) for names in darts.edge_ops[0]]
    lists[0], lists[1], lists[2], lists[5] = [], ["sep_conv_3x3"], ["none"], ["none", "skip_connect"]
    return dataclasses.replace(spaces.narrow(darts, {"normal": lists}), name="sparse")


def found() -> spaces.CellSpace:
    """A fixed space: one architecture."""
    return dataclasses.replace(spaces.fix(spaces.s3(), np.arange(8) // 2), name="found")


CELL_SPACES = {
    space.name: space
    for space in (
        *(spaces.by_name(name) for name in ("darts", "nasbench201", "s1", "s2", "s3", "s4")),
        toy(),
        sparse(),
        found(),
    )
}
SPACES = CELL_SPACES | {"product": product(spaces.nasbench201(), toy())}


@pytest.fixture(params=CELL_SPACES)
def cell_space(request) -> spaces.CellSpace:
    return CELL_SPACES[request.param]


@pytest.fixture(params=SPACES)
def space(request) -> spaces.Space:
    return SPACES[request.param]


@pytest.fixture(scope="session")
def draw():
    """A few uniform architectures of a space, drawn with NumPy so that they do not depend on `sample`."""

    def architectures(space, num=5, seed=0):
        bounds = [len(choice.options) for choice in space.choices]
        return np.random.default_rng(seed).integers(0, bounds, (num, len(bounds))).astype(np.int32)

    return architectures
