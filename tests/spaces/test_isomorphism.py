"""Which codes are one network, against a network that says so itself."""

import itertools

import jax
import numpy as np
import pytest

from jnas import spaces
from jnas.spaces.genotypes import PUBLISHED
from jnas.spaces.isomorphism import canonical, isomorphic


def value_of(space, arch, seed):
    """What a random network of this shape computes, with one fixed random map for each operator name.

    Nodes are sums over edges and the output is the last node or the MULTISET of all nodes: the order is left open.
    """
    rng = np.random.default_rng(seed)
    scale = {op: rng.normal(size=(3, 3)) for op in space.ops}
    scale["none"] = np.zeros((3, 3))
    fixed, result = spaces.fix(space, arch), []
    for cell in space.cells:
        states = [rng.normal(size=3) for _ in range(space.num_inputs)]
        for node in range(space.num_inputs, space.num_inputs + space.num_nodes):
            inside = [edge for edge in fixed.edges(cell) if edge.target == node and edge.ops]
            states.append(np.tanh(sum((scale[edge.ops[0]] @ states[edge.source] for edge in inside), np.zeros(3))))
        nodes = [tuple(np.round(state, 9) + 0.0) for state in states[space.num_inputs :]]
        result.append(nodes[-1:] if space.output == "last" else sorted(nodes))
    return result


@pytest.mark.parametrize("name", ["nasbench201", "darts"])
def test_the_same_text_exactly_where_a_generic_network_computes_the_same(name):
    space = spaces.by_name(name)
    if name == "nasbench201":  # few operators make many equals
        ops = ("none", "nor_conv_1x1", "nor_conv_3x3")
        space = spaces.narrow(space, {"cell": [ops] * space.num_edges})
    else:
        ops = ("none", "max_pool_3x3", "skip_connect")
        space = spaces.narrow(space, {cell: [ops] * space.num_edges for cell in space.cells})
    archs = list(np.asarray(spaces.sample(space, jax.random.key(0), 60)))
    texts, values = zip(*((canonical(space, a), value_of(space, a, 1)) for a in archs), strict=True)
    equal = 0
    for i, j in itertools.combinations(range(len(archs)), 2):
        assert (texts[i] == texts[j]) == (values[i] == values[j]), (i, j)
        equal += texts[i] == texts[j]
    assert equal or name == "darts"


def test_renamed_nodes_of_a_darts_cell_are_the_same_cell():
    space = spaces.darts()
    genotype = PUBLISHED["DARTS_V2"]
    arch = spaces.encode(space, genotype)
    # Nodes 2 and 3 read the inputs only, so that they may change places: so must every edge that leaves them.
    swap = {0: 0, 1: 1, 2: 3, 3: 2, 4: 4, 5: 5}
    pairs = [list(genotype.normal[2 * n : 2 * n + 2]) for n in range(4)]
    assert all(source < 2 for _, source in pairs[0] + pairs[1])
    pairs[0], pairs[1] = pairs[1], pairs[0]
    renamed = [sorted(((op, swap[source]) for op, source in pair), key=lambda each: each[1]) for pair in pairs]
    other = spaces.encode(space, genotype._replace(normal=[edge for pair in renamed for edge in pair]))
    assert not np.array_equal(arch, other)
    assert isomorphic(space, arch, other)
    changed = spaces.encode(space, genotype._replace(normal=[("max_pool_3x3", 0), *genotype.normal[1:]]))
    assert not isomorphic(space, arch, changed)
