"""Groups of operators: the spaces of both stages on constructed alphas, and networks over uneven edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas import nets, spaces
from jnas.nets.stacking import per_edge
from jnas.spaces import grouped as g

DARTS = spaces.darts()
GROUPS = g.stacnas_groups()
OPS = DARTS.ops


def alpha_with(wanted):
    """Alpha 0 but 1 where `wanted[cell][row]` names an operator, and 9 for `none` everywhere: it must not win."""
    alpha = {cell: np.zeros((14, 8), np.float32) for cell in DARTS.cells}
    for cell, ops in wanted.items():
        alpha[cell][:, 0] = 9
        for row, op in enumerate(ops):
            alpha[cell][row, OPS.index(op)] = 1
    return alpha


def test_stage_one_has_one_operator_a_group_and_none():
    first = g.representatives(DARTS, GROUPS)
    assert {ops for cell in first.edge_ops for ops in cell} == {
        ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
    }
    assert first.ops == DARTS.ops  # the columns keep their meaning


def test_stage_two_is_exactly_the_winner_groups_edge_by_edge_and_cell_by_cell():
    first = g.representatives(DARTS, GROUPS)
    reps = GROUPS.representatives
    wanted = {"normal": [reps[row % 4] for row in range(14)], "reduce": [reps[(row + 1) % 4] for row in range(14)]}
    alpha = alpha_with(wanted)
    alpha["normal"][:, OPS.index("sep_conv_5x5")] = 50  # not a candidate of stage 1: it has no say
    won = g.winners(first, alpha, GROUPS)
    assert won == {"normal": tuple(row % 4 for row in range(14)), "reduce": tuple((row + 1) % 4 for row in range(14))}
    second = g.stage_two(DARTS, GROUPS, won)
    sets = [("max_pool_3x3", "avg_pool_3x3"), ("skip_connect",), ("sep_conv_3x3", "sep_conv_5x5"),
            ("dil_conv_3x3", "dil_conv_5x5")]  # fmt: skip
    for cell, shift in (("normal", 0), ("reduce", 1)):
        assert [edge.ops for edge in second.edges(cell)] == [("none", *sets[(row + shift) % 4]) for row in range(14)]


def test_the_derivation_by_raw_alpha_differs_from_softmax_where_edges_have_other_numbers_of_candidates():
    """Node 3 of three in-edges: a skip edge's softmax is the largest although its raw alpha is the smallest."""
    won = {"normal": (2, 2, 1) + (2,) * 11, "reduce": (2,) * 14}
    second = g.stage_two(DARTS, GROUPS, won)
    alpha = {cell: np.full((14, 8), -9.0, np.float32) for cell in DARTS.cells}
    sep3, sep5, skip = (OPS.index(op) for op in ("sep_conv_3x3", "sep_conv_5x5", "skip_connect"))
    for cell in DARTS.cells:
        alpha[cell][:, [sep3, sep5]] = [1.0, 0.9]
    alpha["normal"][2] = -9
    alpha["normal"][2, skip] = 0.5  # softmax with none at -9: 1.00, against 0.52 of sep_conv_3x3 with its twin
    raw = spaces.to_genotype(second, spaces.derive(second, alpha))
    soft = spaces.to_genotype(second, spaces.discretise(second, jax.tree.map(jnp.asarray, alpha)))
    assert raw.normal[2:4] == [("sep_conv_3x3", 1), ("sep_conv_3x3", 2)]
    assert soft.normal[2:4] == [("skip_connect", 0), ("sep_conv_3x3", 1)]
    # the genotype is one of the whole space
    assert spaces.to_genotype(DARTS, spaces.encode(DARTS, raw)) == raw


def test_a_reduced_space_uses_what_an_edge_has():
    """S1: edges lack most representatives; an edge without the skip or a pool has nothing of that group."""
    space = spaces.s1()
    first = g.representatives(space, GROUPS)
    for cell in space.cells:
        for before, after in zip(space.edges(cell), first.edges(cell), strict=True):
            assert {GROUPS.of(op) for op in after.ops} == {GROUPS.of(op) for op in before.ops}
            assert len({GROUPS.of(op) for op in after.ops}) == len(after.ops)
    assert first.edges("reduce")[0].ops == ("max_pool_3x3",)  # the space has both pools there
    assert ("skip_connect", "dil_conv_5x5") in {edge.ops for edge in first.edges("normal")}


def test_an_absent_edge_stays_absent():
    space = spaces.narrow(DARTS, {"normal": [()] + [OPS] * 13})
    first = g.representatives(space, GROUPS)
    won = g.winners(first, spaces.init_alpha(first, jax.random.key(0)), GROUPS)
    assert won["normal"][0] is None
    assert None not in won["normal"][1:]
    assert g.stage_two(space, GROUPS, won).edges("normal")[0].ops == ()


@pytest.mark.parametrize(
    ("members", "representatives", "said"),
    [
        ((), (), "none, or one is empty"),
        (((),), ("a",), "none, or one is empty"),
        ((("a", "b"), ("b",)), ("a", "b"), "'b' is in 2 groups"),
        ((("none",),), ("none",), "'none' is in 1 groups"),
        ((("a",), ("b",)), ("a",), "1 representatives are given for 2 groups"),
        ((("a",),), ("b",), "'b' cannot stand for the group"),
    ],
)
def test_bad_groups_are_refused(members, representatives, said):
    with pytest.raises(ValueError, match=said):
        g.Groups(members, representatives)


def test_bad_use_is_refused():
    with pytest.raises(ValueError, match=r"'nor_conv_1x1' is in none of the groups"):
        g.representatives(spaces.nasbench201(), GROUPS)
    first = g.representatives(DARTS, GROUPS)
    alpha = spaces.init_alpha(DARTS, jax.random.key(0))
    with pytest.raises(ValueError, match="is not a number"):
        g.winners(first, {**alpha, "reduce": alpha["reduce"] * jnp.nan}, GROUPS)
    with pytest.raises(ValueError, match=r"alpha of cell 'normal' is \(2, 8\)"):
        g.winners(first, {**alpha, "normal": alpha["normal"][:2]}, GROUPS)
    with pytest.raises(ValueError, match=r"winners are given for \['normal'\]"):
        g.stage_two(DARTS, GROUPS, {"normal": (0,) * 14})


@pytest.fixture(scope="module")
def uneven():
    """A stage-2 space on two nodes whose edges and cells differ in their candidates and in the number of them."""
    ops = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "dil_conv_3x3")
    small = spaces.CellSpace("small", ("normal", "reduce"), 2, 2, ops, ((ops,) * 5,) * 2, 2, "concat")
    groups = g.groups_of((ops[1:3], ops[3:4], ops[4:5]))
    return g.stage_two(small, groups, {"normal": (0, 2, 1, 2, 0), "reduce": (1, 0, 2, 0, 2)})


def test_a_network_over_uneven_edges_runs_by_loop_and_merged_with_equal_results_and_gradients(uneven):
    """Edges of different candidates in both cells; and an edge whose weights are one-hot is that operator alone."""
    net = nets.network_for(uneven, channels=2, depth=1, num_classes=3, remat=False).clone(layout=("normal", "reduce"))
    params, stats = nets.initialise(net, jax.random.key(0), (6, 6, 1))
    image = jax.random.normal(jax.random.key(1), (3, 6, 6, 1))
    alpha = spaces.init_alpha(uneven, jax.random.key(2), 1.0)

    def loss(net, params, alpha):
        mix = spaces.mixture(uneven, alpha)
        logits, _ = net.apply({"params": params, "batch_stats": stats}, image, mix, train=True, mutable=["batch_stats"])
        return jnp.sum(logits.main**2)

    results = [
        jax.jit(jax.value_and_grad(loss, argnums=(1, 2)), static_argnums=0)(net.clone(edge_strategy=way), params, alpha)
        for way in ("scan", "merge")
    ]
    # Merged sums run in another order; a batch norm over three small images magnifies that.
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3 * float(jnp.abs(one).max() + 1e-6))
    slopes = results[0][1][1]
    for cell, mask in spaces.op_mask(uneven).items():
        assert (np.asarray(slopes[cell])[~mask] == 0).all()
        assert (np.asarray(slopes[cell])[mask.sum(-1) > 1] != 0).any(-1).all()  # every edge is felt


def test_an_edge_left_to_one_operator_and_none_is_that_operator_scaled(uneven):
    """Against the found network: the supernet at a one-hot mixture is the fixed network with the same weights."""
    net = nets.network_for(uneven, channels=2, depth=1, num_classes=3)
    params, stats = nets.initialise(net, jax.random.key(0), (6, 6, 1))
    arch = spaces.sample(uneven, jax.random.key(3), 1)[0]
    fixed = nets.network_for(spaces.fix(uneven, arch), channels=2, depth=1, num_classes=3, affine=False)
    fixed = fixed.clone(normalise_pools=True)
    variables = {"params": per_edge(net, params), "batch_stats": per_edge(net, stats)}
    image = jax.random.normal(jax.random.key(1), (3, 6, 6, 1))
    want = jax.eval_shape(lambda: nets.initialise(fixed, jax.random.key(0), (6, 6, 1)))
    kept = jax.tree.map_with_path(lambda path, _: _at(variables["params"], path), want[0])
    kept_stats = jax.tree.map_with_path(lambda path, _: _at(variables["batch_stats"], path), want[1])
    alone = fixed.apply({"params": kept, "batch_stats": kept_stats}, image, train=False).main
    mix = spaces.one_hot_alpha(uneven, arch)
    mixed = net.apply({"params": params, "batch_stats": stats}, image, mix, train=False).main
    np.testing.assert_allclose(alone, mixed, rtol=1e-4, atol=1e-5)


def _at(tree, path):
    for key in path:
        tree = tree[key.key]
    return tree
