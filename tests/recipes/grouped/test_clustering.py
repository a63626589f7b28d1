"""Feature maps against operators applied by hand, and clusters of similarities that are made for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas import nets, spaces
from jnas.nets.stacking import per_edge
from jnas.recipes.grouped import clustering as c

OPS = ("none", "skip_connect", "nor_conv_1x1", "avg_pool_3x3")


@pytest.fixture(scope="module")
def supernet():
    """Two cells of two nodes; the last edge of a cell lacks the convolution."""
    edge_ops = ((OPS, OPS, OPS[:2] + OPS[3:]),)
    space = spaces.CellSpace("tiny", ("cell",), 1, 2, OPS, edge_ops, None, "last")
    net = nets.Network(space, ("cell", "cell"), 2, 3, stem_multiplier=1, project_inputs=False, affine=False)
    params, stats = nets.initialise(net, jax.random.key(0), (5, 5, 1))
    image = jax.random.normal(jax.random.key(1), (3, 5, 5, 1))
    return net, params, stats, spaces.init_alpha(space, jax.random.key(2), 1.0), image


def by_hand(supernet):
    """`[block][edge] -> {op: feature map}`, state after state, every operator applied on its own."""
    net, params, stats, alpha, image = supernet
    mix = np.asarray(spaces.mixture(net.space, alpha)["cell"])
    params, stats = per_edge(net, params), per_edge(net, stats)
    stem = lambda module, _: module.name == "stem"
    variables = {"params": supernet[1], "batch_stats": supernet[2]}
    _, seen = net.apply(
        variables, image, spaces.mixture(net.space, alpha), train=True,
        mutable=["batch_stats", "intermediates"], capture_intermediates=stem,
    )  # fmt: skip
    x, result = seen["intermediates"]["stem"]["__call__"][0][0], []
    for block in ("block_0", "block_1"):
        states, maps = [x, jnp.zeros_like(x), jnp.zeros_like(x)], []
        for row, edge in enumerate(net.space.edges("cell")):
            maps.append({})
            for op in edge.ops:
                module, name = nets.operator(op, channels=2, affine=False), f"{edge.source}_{edge.target}_{op}"
                mine = {kind: tree[block].get(name, {}) for kind, tree in
                        (("params", params), ("batch_stats", stats))}  # fmt: skip
                y, _ = module.apply(mine, states[edge.source], True, mutable=["batch_stats"])
                maps[-1][op] = y
                states[edge.target] = states[edge.target] + mix[row, OPS.index(op)] * y
        result.append(maps)
        x = states[-1]
    return result


def test_what_rounding_leaves_of_a_constant_output_is_no_direction():
    """The mean of equal numbers is often another one: of .1 the deviation is 7e-9, and would correlate perfectly."""
    ramp = jnp.linspace(-1.0, 2.0, 90)
    found = c.correlation(jnp.stack([ramp, jnp.full(90, 0.1), -ramp, jnp.full(90, 0.1)]).reshape(4, 5, 3, 3, 2))
    assert np.isnan(found).tolist() == [[False, True, False, True], [True] * 4] * 2
    np.testing.assert_allclose(found[::2, ::2], [[1, -1], [-1, 1]], rtol=1e-5)


@pytest.mark.parametrize("strategy", ["scan", "merge"])
def test_the_maps_are_what_the_operators_make_of_the_states_of_the_running_supernet(supernet, strategy):
    net, *rest = supernet
    found = c.feature_maps(net.clone(edge_strategy=strategy), *rest)
    for maps_of, wanted in zip(found.values(), by_hand(supernet), strict=True):
        for maps, by_op in zip(maps_of(), wanted, strict=True):
            assert maps.shape == (4, 3, 5, 5, 2)
            for op, y in zip(OPS, maps, strict=True):
                want = by_op.get(op, jnp.zeros_like(y))
                np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4, err_msg=op)


def test_the_similarity_is_the_mean_over_the_edges_that_have_both_operators(supernet):
    found = c.correlations(*supernet)
    wanted = by_hand(supernet)
    for a in range(4):
        for b in range(4):
            pairs = [(edge[OPS[a]], edge[OPS[b]]) for block in wanted for edge in block
                     if OPS[a] in edge and OPS[b] in edge]  # fmt: skip
            if "none" in (OPS[a], OPS[b]):
                assert np.isnan(found[a, b])
                continue
            each = [np.corrcoef(np.ravel(x), np.ravel(y))[0, 1] for x, y in pairs]
            assert len(each) == (4 if "nor_conv_1x1" in (OPS[a], OPS[b]) else 6)
            assert found[a, b] == pytest.approx(np.mean(each), abs=1e-4)


def similar(blocks, within=0.9, between=0.1):
    """Of DARTS' operators in the given groups."""
    ops = spaces.darts().ops
    table = np.full((8, 8), between)
    for group in blocks:
        at = [ops.index(op) for op in group]
        table[np.ix_(at, at)] = within
    np.fill_diagonal(table, 1)
    table[0] = table[:, 0] = np.nan
    return table


@pytest.mark.parametrize("num_groups", [None, 4])
def test_the_four_groups_of_the_literature_come_out_of_similarities_that_hold_them(num_groups):
    wanted = spaces.grouped.stacnas_groups()
    found = c.cluster(spaces.darts(), similar(wanted.members), num_groups=num_groups)
    assert found.groups == wanted
    assert found.linkage.shape == (6, 4)
    assert max(found.silhouettes, key=found.silhouettes.get) == 4
    assert set(found.silhouettes) == {2, 3, 4, 5}
    assert "none" not in found.ops


def test_the_number_of_groups_is_given_or_chosen():
    two = [spaces.darts().ops[1:3], spaces.darts().ops[3:]]
    assert c.cluster(spaces.darts(), similar(two)).groups.members == tuple(two)
    for count in range(1, 8):
        found = c.cluster(spaces.darts(), similar(two), num_groups=count)
        assert len(found.groups.members) == count
        assert sorted(op for group in found.groups.members for op in group) == sorted(spaces.darts().ops[1:])


def test_noise_stands_alone():
    assert c.cluster(spaces.s1(), np.eye(6), num_groups=3).groups
    mixed = spaces.CellSpace("x", ("cell",), 1, 1, ("noise", "skip_connect", "sep_conv_3x3"),
                             ((("noise", "skip_connect", "sep_conv_3x3"),),), None, "last")  # fmt: skip
    found = c.cluster(mixed, np.eye(3), num_groups=1)
    assert found.groups.members == (("noise",), ("skip_connect", "sep_conv_3x3"))


def test_bad_use_is_refused():
    with pytest.raises(ValueError, match="cluster at least two"):
        c.cluster(spaces.s4(), np.eye(2))
    with pytest.raises(ValueError, match="num_groups is 9 for 7 operators"):
        c.cluster(spaces.darts(), np.eye(8), num_groups=9)
