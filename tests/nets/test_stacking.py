"""Weights stacked for loops, and the same weights edge by edge."""

import functools

import jax
import numpy as np
import pytest

from jnas import spaces
from jnas.nets import Network, count_parameters, initialise, network_for
from jnas.nets.stacking import per_edge

SPACES = [spaces.darts(), spaces.nasbench201(), spaces.by_name("s1"), spaces.by_name("s4")]
named = pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)


def build(space, **options):
    return network_for(space, channels=4, depth=1, num_classes=3, affine=True, **options)


@functools.cache
def shapes(net):
    """Of parameters and statistics, without an array."""
    return jax.eval_shape(lambda key: initialise(net, key, (8, 8, 1)), jax.random.key(0))


def numbered(like):
    """A tree in which no number occurs twice."""
    leaves, treedef = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])
    values = [np.arange(end - leaf.size, end).reshape(leaf.shape) for leaf, end in zip(leaves, ends, strict=True)]
    return jax.tree.unflatten(treedef, values)


def names(tree):
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}


@named
def test_every_parameter_has_an_edge_of_its_own(space):
    net = build(space)
    params = numbered(shapes(net)[0])
    edges = per_edge(net, params)
    assert not any("edges_" in name for name in names(edges))
    total = sum(leaf.size for leaf in jax.tree.leaves(edges))
    assert len(np.unique(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(edges)]))) == total
    assert count_parameters(edges) == count_parameters(params)


@named
def test_statistics_of_pools_appear_once_a_state(space):
    net = build(space)
    edges = per_edge(net, numbered(shapes(net)[1]))
    pools = [key for key in edges["block_0"] if "pool" in key]
    assert all(len(key.split("_pool")[0].split("_")) == 2 for key in pools)  # "0_max", and not "0_2_max"
    assert bool(pools) == (space.name in ("darts", "s1"))


@named
@pytest.mark.parametrize("seed", [0, 1])
def test_weights_of_a_found_network_are_among_those_of_its_supernet(space, seed):
    net = build(space)
    arch = spaces.sample(space, jax.random.key(seed), 1)[0]
    found = build(spaces.fix(space, arch))
    for ours, whole in zip(shapes(found), shapes(net), strict=True):
        edges = names(jax.eval_shape(functools.partial(per_edge, net), whole))
        assert names(ours).items() <= edges.items()


def test_rows_of_a_stack_go_to_the_edges_they_belong_to():
    """Against what the cell's own convention says: edges by target, then by source."""
    net = build(spaces.nasbench201())
    params = numbered(shapes(net)[0])
    kernels = params["block_0"]["edges_0"]["nor_conv_3x3"]["Conv_0"]["kernel"]
    edges = per_edge(net, params)["block_0"]
    for row, (source, target) in enumerate([(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]):
        np.testing.assert_array_equal(edges[f"{source}_{target}_nor_conv_3x3"]["Conv_0"]["kernel"], kernels[row])


def test_a_fixed_network_has_nothing_to_unstack():
    space = spaces.nasbench201()
    net = build(spaces.fix(space, np.full(6, 3)))
    params = numbered(shapes(net)[0])
    assert names(per_edge(net, params)) == names(params)


def test_blocks_that_are_not_in_the_tree_are_left_alone():
    space = spaces.nasbench201()
    net = Network(space, ("cell", "cell"), 4, 3, stem_multiplier=1, project_inputs=False)
    part = {"block_1": numbered(shapes(net)[0]["block_1"]), "other": np.ones(2)}
    edges = per_edge(net, part)
    assert set(edges) == {"block_1", "other"}
    np.testing.assert_array_equal(edges["other"], part["other"])
