"""The mixture against a plain softmax; the derivation against slow transcriptions of the published rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas import spaces


def random_alpha(space, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        cell: scale * rng.standard_normal((space.num_edges, len(space.ops))).astype(np.float32) for cell in space.cells
    }


def softmax(values):
    powers = np.exp(np.asarray(values, np.float64) - max(values))
    return powers / powers.sum()


def parse_rule(names, logits, num_nodes=4):
    """DARTS' derivation, written down from the paper on lists: `names` and `logits` hold one list an edge."""
    pairs, start = [], 0
    for node in range(num_nodes):
        ranking = []
        for source in range(node + 2):
            weights = softmax(logits[start + source])
            real = [(weight, -order) for order, weight in enumerate(weights) if names[start + source][order] != "none"]
            weight, order = max(real)
            ranking.append((weight, -source, names[start + source][-order]))
        kept = sorted(ranking, reverse=True)[:2]
        pairs.append({(op, -source) for _, source, op in kept})
        start += node + 2
    return pairs


def by_node(pairs):
    return [set(pairs[start : start + 2]) for start in range(0, len(pairs), 2)]


@pytest.mark.parametrize("name", ["darts", "s1", "s2", "s3", "s4"])
@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_discretise_is_the_rule_of_darts(name, scale):
    space = spaces.by_name(name)
    for seed in range(15):
        alpha = random_alpha(space, seed, scale)
        genotype = spaces.to_genotype(space, spaces.discretise(space, alpha))
        for cell, pairs in (("normal", genotype.normal), ("reduce", genotype.reduce)):
            names = [edge.ops for edge in space.edges(cell)]
            logits = [[alpha[cell][row, space.ops.index(op)] for op in ops] for row, ops in enumerate(names)]
            assert by_node(pairs) == parse_rule(names, logits)


def test_none_takes_part_in_the_softmax_and_so_decides_which_edges_stay():
    space = spaces.s3()
    alpha = {cell: np.zeros((14, 3), np.float32) for cell in space.cells}
    alpha["normal"][2:5, 2] = [2.0, 1.0, 1.0]  # node 3: the first edge has the largest entry ...
    alpha["normal"][2, 0] = 5.0  # ... and the smallest weight, because of its `none`
    genotype = spaces.to_genotype(space, spaces.discretise(space, alpha))
    assert genotype.normal[2:4] == [("sep_conv_3x3", 1), ("sep_conv_3x3", 2)]
    raw = spaces.to_genotype(space, spaces.derive(space, alpha))
    assert raw.normal[2:4] == [("sep_conv_3x3", 0), ("sep_conv_3x3", 1)]


def test_nasbench201_takes_the_largest_entry_of_each_edge():
    space = spaces.nasbench201()
    for seed in range(10):
        alpha = random_alpha(space, seed)
        np.testing.assert_array_equal(spaces.discretise(space, alpha), alpha["cell"].argmax(1))
        alpha["cell"][:, 0] += 500.0  # the other weights are 0 in single precision, and still ranked
        without = spaces.discretise(space, alpha, without=("none",))
        np.testing.assert_array_equal(without, 1 + alpha["cell"][:, 1:].argmax(1))
        assert spaces.is_connected(space, without)


def test_ties_go_to_the_first_operator_and_edge():
    zeros = {cell: jnp.zeros((14, 8)) for cell in ("normal", "reduce")}
    genotype = spaces.to_genotype(spaces.darts(), spaces.discretise(spaces.darts(), zeros))
    assert genotype.normal == genotype.reduce == [("max_pool_3x3", 0), ("max_pool_3x3", 1)] * 4
    bench = spaces.nasbench201()
    np.testing.assert_array_equal(spaces.discretise(bench, {"cell": jnp.zeros((6, 5))}), 0)
    np.testing.assert_array_equal(spaces.discretise(bench, {"cell": jnp.zeros((6, 5))}, without=("none",)), 1)


def test_without_excludes_an_operator_from_kept_edges():
    alpha = random_alpha(spaces.darts(), 0)
    alpha["normal"][:, 3] += 9.0
    everything = spaces.to_genotype(spaces.darts(), spaces.discretise(spaces.darts(), alpha))
    assert {op for op, _ in everything.normal} == {"skip_connect"}
    fewer = spaces.to_genotype(spaces.darts(), spaces.discretise(spaces.darts(), alpha, without=("skip_connect",)))
    assert "skip_connect" not in {op for op, _ in fewer.normal}
    with pytest.raises(ValueError, match="exclude fewer"):
        spaces.discretise(spaces.s2(), random_alpha(spaces.s2(), 0), without=spaces.s2().ops)


def test_diverged_and_foreign_alpha_are_rejected():
    alpha = random_alpha(spaces.s2(), 0)
    with pytest.raises(ValueError, match="not of space 'darts'"):
        spaces.discretise(spaces.darts(), alpha)
    with pytest.raises(ValueError, match="not of space 's2'"):
        spaces.derive(spaces.s2(), {"normal": alpha["normal"]})
    for bad in (np.nan, np.inf):
        alpha["reduce"][3, 1] = bad
        with pytest.raises(ValueError, match="cell 'reduce' is not a number"):
            spaces.discretise(spaces.s2(), alpha)


def test_an_entry_off_the_mask_has_no_effect():
    space = spaces.s1()
    alpha = random_alpha(space, 0)
    spoilt = {cell: np.where(mask, alpha[cell], np.nan) for cell, mask in spaces.op_mask(space).items()}
    np.testing.assert_array_equal(spaces.discretise(space, spoilt), spaces.discretise(space, alpha))


@pytest.mark.parametrize("cell_space", ["darts", "s1", "toy", "sparse", "found"], indirect=True)
def test_mixture_is_the_softmax_over_what_is_left(cell_space):
    space = cell_space
    alpha = random_alpha(space, 1, scale=100.0)  # large enough to overflow exp without the shift by the maximum
    mix = spaces.mixture(space, alpha)
    for cell in space.cells:
        for row, edge in enumerate(space.edges(cell)):
            columns = [space.ops.index(op) for op in edge.ops]
            expected = np.zeros(len(space.ops))
            if columns:
                expected[columns] = softmax(alpha[cell][row, columns])
            np.testing.assert_allclose(mix[cell][row], expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("cell_space", ["s1", "toy"], indirect=True)
def test_mixture_has_the_derivatives_of_a_softmax(cell_space):
    # dp_i / da_j = p_i (delta_ij - p_j), once more under forward over reverse; exactly zero off the mask.
    space = cell_space
    # An entry off the mask may be anything: its exponential must not even enter a product with zero.
    alpha = {cell: np.where(mask, random_alpha(space, 2)[cell], 1e3) for cell, mask in spaces.op_mask(space).items()}
    alpha, tangent = jax.tree.map(np.float32, alpha), random_alpha(space, 3)
    weight = random_alpha(space, 4)

    def value(alpha):
        return sum((weight[cell] * mix**2).sum() for cell, mix in spaces.mixture(space, alpha).items())

    gradient, hvp = jax.jit(lambda a, v: jax.jvp(jax.grad(value), (a,), (v,)))(alpha, tangent)
    mix = {cell: np.asarray(rows, np.float64) for cell, rows in spaces.mixture(space, alpha).items()}
    for cell, mask in spaces.op_mask(space).items():
        p, w, v = mix[cell], weight[cell].astype(np.float64), np.where(mask, tangent[cell], 0).astype(np.float64)
        centred = lambda z, p=p: p * (z - (p * z).sum(1, keepdims=True))
        np.testing.assert_allclose(gradient[cell], centred(2 * w * p), atol=1e-6)
        dp = centred(v)
        z = 2 * w * p
        change = dp * (z - (p * z).sum(1, keepdims=True)) + p * (
            2 * w * dp - (dp * z + p * 2 * w * dp).sum(1, keepdims=True)
        )
        np.testing.assert_allclose(hvp[cell], change, atol=1e-5)
        assert (np.asarray(gradient[cell])[~mask] == 0).all()
        assert (np.asarray(hvp[cell])[~mask] == 0).all()


def test_types_under_double_precision(x64):
    space, key, arch = spaces.s2(), jax.random.key(0), np.zeros(8, np.int64)
    alpha = {cell: jax.ShapeDtypeStruct((14, 2), jnp.float64) for cell in space.cells}
    assert jax.eval_shape(lambda alpha: spaces.mixture(space, alpha), alpha)["normal"].dtype == jnp.float64
    assert jax.eval_shape(lambda: spaces.init_alpha(space, key))["normal"].dtype == jnp.float32
    assert jax.eval_shape(lambda arch: spaces.one_hot_alpha(space, arch), arch)["normal"].dtype == jnp.float32
    assert jax.eval_shape(lambda key: spaces.sample(space, key, 2), key) == jax.ShapeDtypeStruct((2, 8), jnp.int32)
    for step in (lambda arch: spaces.mutate(space, key, arch), lambda arch: spaces.neighbours(space, arch)[0]):
        assert jax.eval_shape(step, arch) == jax.ShapeDtypeStruct((8,), jnp.int32)


def test_init_alpha_has_the_scale_asked_for():
    values = np.concatenate(
        [np.ravel(rows) for rows in spaces.init_alpha(spaces.darts(), jax.random.key(0), 0.5).values()]
    )
    assert abs(values.std() - 0.5) < 0.08
    assert len(np.unique(values)) == 2 * 14 * 8
