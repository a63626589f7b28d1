"""Fake quantisation against NumPy, its derivatives, and networks under policies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas import nets, spaces
from jnas.nets.chain import ChainNetwork
from jnas.nets.quant import fake, sizes, units
from jnas.nets.stacking import per_edge
from jnas.spaces import networks
from jnas.spaces.policy import EIGHT, UNQUANTISED, Method, method_of

WIDTHS = (2, 3, 4, 5, 6, 7, 8)
INSIDE = np.array([0, 1, 1, 1, 1, 0], np.float32)
METHODS = tuple(map(method_of, ("w2a4", "w8a8", "w4a8-pow2", "w32a32")))
SPACE = spaces.narrow(spaces.nasbench201(), {"cell": [["none", "skip_connect", "nor_conv_1x1"]] * 6})
ROUND = jax.jit(functools.partial(fake.quantise, axes=(0,)))
AFFINE = jax.jit(fake.quantise_affine)


CODE = np.array([2, 0, 2, 1, 0, 1])


def network(space, layout=("cell",)):
    return nets.Network(space, layout, 4, 3, stem_multiplier=1, project_inputs=False)


def values(shape=(37, 3), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def nearest(x, levels):
    """The nearest of the levels, by looking at all of them."""
    return levels[np.argmin(np.abs(x[..., None] - levels), -1)]


def symmetric(x, bits, mapping):
    """One range a column, each level computed in double precision."""
    columns = []
    for column in x.T.astype(np.float64):
        reach = min(np.abs(column).max(), fake.NORMAL_RANGE[mapping][bits - 2] * np.sqrt(np.mean(column**2)))
        count = 2 ** (bits - 1) - 1
        positive = np.arange(1, count + 1) / count if mapping == 0 else 2.0 ** -np.arange(count)
        columns.append(nearest(column, reach * np.concatenate([-positive, [0], positive])))
    return np.stack(columns, -1)


@pytest.mark.parametrize("mapping", [0, 1])
@pytest.mark.parametrize("bits", WIDTHS)
def test_symmetric_levels_are_the_nearest_ones(bits, mapping):
    x = values()
    found = ROUND(x, jnp.float32(bits), jnp.int32(mapping))
    np.testing.assert_allclose(found, symmetric(x, bits, mapping), rtol=2e-6, atol=1e-7)
    assert len(np.unique(np.asarray(found)[:, 0])) <= 2**bits - 1


@pytest.mark.parametrize("bits", WIDTHS)
def test_affine_levels_are_the_nearest_ones(bits):
    x = values() + 0.5
    low, high = float(x.min()), float(x.max())
    step = (high - low) / (2**bits - 1)
    levels = step * (np.arange(2**bits) - round(-low / step))
    found = np.asarray(AFFINE(x, jnp.float32(bits)))
    np.testing.assert_allclose(found, nearest(x.astype(np.float64), levels), atol=2e-6)
    assert AFFINE(np.zeros(3, np.float32), jnp.float32(bits)).tolist() == [0, 0, 0]
    limits = jnp.array([0.0, 1.0])
    cut = np.asarray(AFFINE(x, jnp.float32(bits), limits=limits))
    assert (cut.min(), cut.max()) == (0, 1)


def test_32_bits_are_the_identity_bit_for_bit_and_no_width_compiles_again():
    x = values((64,)) * np.float32(1e3)
    for bits in (*WIDTHS, 32):
        for mapping in (0, 1):
            found = ROUND(x[:, None], jnp.float32(bits), jnp.int32(mapping))
    np.testing.assert_array_equal(np.asarray(found).view(np.int32), x[:, None].view(np.int32))
    np.testing.assert_array_equal(np.asarray(AFFINE(x, jnp.float32(32))).view(np.int32), x.view(np.int32))
    assert ROUND._cache_size() <= 2  # of [37, 3] and of [64, 1]


def test_the_table_of_ranges_has_the_least_error_for_a_normal_variable(monkeypatch):
    x = np.linspace(-6, 6, 6001)

    @jax.jit
    def cut_at(x, bits, mapping, reach):
        monkeypatch.setattr(fake, "normal_range", lambda *_: reach[None])
        return fake.quantise(x, bits, mapping)

    density = np.exp(-x * x / 2) / np.exp(-x * x / 2).sum()
    for bits in (2, 4):
        for mapping in (0, 1):
            best = fake.NORMAL_RANGE[mapping][bits - 2]
            error = [
                np.sum(density * (cut_at(np.float32(x), np.float32(bits), mapping, np.float32(factor * best)) - x) ** 2)
                for factor in (0.9, 1, 1.1)
            ]
            assert error[1] < min(error[0], error[2]), (bits, mapping)


@pytest.mark.parametrize("mapping", [0, 1])
def test_derivatives_pass_straight_through_inside_the_range(mapping, monkeypatch):
    x = jnp.array([-2.0, -0.6, 0.05, 0.4, 1.0, 3.0])
    monkeypatch.setattr(fake, "normal_range", lambda *_: jnp.full((1,), 1.0))
    rounded = functools.partial(fake.quantise, bits=jnp.float32(3), mapping=mapping)
    weight = jnp.arange(1.0, 7.0)

    @jax.jit
    def derivatives(x):
        slope = jax.grad(lambda v: jnp.sum(weight * rounded(v)))(x)
        product = jax.jvp(jax.grad(lambda v: jnp.sum(rounded(v) ** 3)), (x,), (weight,))[1]
        whole = jax.grad(lambda v: jnp.sum(weight * fake.quantise(v, jnp.float32(32), mapping)))(x)
        return slope, product, whole, rounded(x)

    slope, product, whole, found = derivatives(x)
    np.testing.assert_allclose(slope, weight * INSIDE, rtol=1e-6)
    # A Hessian-vector product sees the identity inside: that of sum(q(x)^3) is 6 q(x) v.
    np.testing.assert_allclose(product, 6 * found * weight * INSIDE, rtol=1e-5)
    np.testing.assert_array_equal(whole, weight)


def test_affine_derivative_at_the_largest_value_is_whole():
    x = jnp.array([0.0, 0.2, 1.0])
    slope = jax.jit(jax.grad(lambda v: jnp.sum(fake.quantise_affine(v, jnp.float32(4)))))(x)
    np.testing.assert_allclose(slope, 1, rtol=1e-6)


@pytest.fixture(scope="module")
def found_network():
    net = network(spaces.fix(SPACE, CODE))
    params, stats = nets.initialise(net, jax.random.key(0), (8, 8, 1))
    of = units.units(net, params)
    images = values((6, 8, 8, 1), 1)

    @jax.jit
    def logits(columns):
        variables = {"params": params, "batch_stats": stats, "quant": units.rules(of, METHODS, columns)}
        return net.apply(variables, images, train=False).main

    return net, params, stats, of, images, logits


def test_units_are_edges_and_residual_blocks(found_network):
    assert found_network[3].names == ("block_0/0_1", "block_0/1_2")
    net = network(spaces.fix(SPACE, CODE), ("cell", "residual", "cell"))
    params, _ = jax.eval_shape(lambda key: nets.initialise(net, key, (8, 8, 1)), jax.random.key(0))
    of = units.units(net, params)
    assert of.names == ("block_0/0_1", "block_0/1_2", "block_1", "block_2/0_1", "block_2/1_2")
    fixed = [layer.path for layer in of.layers if layer.units == (-1,)]
    assert fixed == [("classifier", "Linear_0"), ("stem", "ConvNorm_0", "Conv_0")]
    assert units.units(net, params, units.shared).names == ("cell/0_1", "cell/1_2", "residual")
    assert units.units(net, params, units.per_operator).names[0] == "block_0/0_1/nor_conv_1x1"


def test_one_program_serves_every_policy_and_a_population_equals_one_at_a_time(found_network):
    net, params, stats, of, images, logits = found_network
    rng = np.random.default_rng(0)
    policies = rng.integers(0, len(METHODS), (5, len(of.names))).astype(np.int32)
    one_by_one = np.stack([logits(policy) for policy in policies])
    assert logits._cache_size() == 1
    np.testing.assert_allclose(jax.jit(jax.vmap(logits))(policies), one_by_one, rtol=1e-5, atol=1e-6)
    assert len(np.unique(one_by_one[:, 0, 0])) == 5
    whole = units.rules(of, METHODS, np.full(len(of.names), 3, np.int32), fixed=UNQUANTISED)
    apply = jax.jit(functools.partial(net.apply, train=False))
    plain = apply({"params": params, "batch_stats": stats}, images).main
    np.testing.assert_array_equal(plain, apply({"params": params, "batch_stats": stats, "quant": whole}, images).main)


def test_a_supernet_s_edge_is_quantised_as_that_of_the_found_network(found_network):
    net, _, _, of, images, _ = found_network
    supernet = network(SPACE)
    params, stats = nets.initialise(supernet, jax.random.key(3), (8, 8, 1))
    wide = units.units(supernet, params)
    assert len(wide.names) == 6
    rng = np.random.default_rng(1)
    policy = dict(zip(wide.names, rng.integers(0, 4, len(wide.names)).astype(np.int32), strict=True))
    mix = spaces.one_hot_alpha(SPACE, CODE)
    collection = units.rules(wide, METHODS, np.array([policy[name] for name in wide.names]))
    variables = {"params": params, "batch_stats": stats, "quant": collection}
    left = jax.jit(functools.partial(supernet.apply, train=False))(variables, images, mix).main
    edges = {name: per_edge(supernet, tree) for name, tree in (("params", params), ("batch_stats", stats))}
    shapes = jax.eval_shape(lambda key: nets.initialise(net, key, (8, 8, 1)), jax.random.key(0))

    def part(shape, tree):
        return {k: part(v, tree[k]) if isinstance(v, dict) else tree[k] for k, v in shape.items()}

    own = {name: part(shape, edges[name]) for name, shape in zip(("params", "batch_stats"), shapes, strict=True)}
    own["quant"] = units.rules(of, METHODS, np.array([policy[name] for name in of.names]))
    right = jax.jit(functools.partial(net.apply, train=False))(own, images).main
    np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


def test_a_supernet_s_layer_is_quantised_as_that_of_the_found_chain():
    space = networks.network_space("chain-2:conv_3x3-g2,conv_1x1-e2")  # of one width, so that kernels are not cut
    supernet, arch = ChainNetwork(space, 2, 3), np.array([0, 1])
    net = ChainNetwork(networks.fix(space, arch), 2, 3)
    params, stats = nets.initialise(supernet, jax.random.key(0), (6, 6, 1))
    wide, names = units.units(supernet, params), ("layer_0", "layer_1", "reduce_1", "reduce_2")
    columns = np.array([0, 2, 1, 0])
    of = units.units(net, nets.shapes(net, (6, 6, 1))["params"])
    assert wide.names == of.names == names
    each = ("conv_1x1-e2", "conv_3x3-g2")
    fine = [f"{layer}/{word}" for layer in names[:2] for word in each]
    assert units.units(supernet, params, units.per_operator).names == (*fine, *names[2:])
    renamed = {"layer_0": "layer_0_conv_3x3-g2", "layer_1": "layer_1_conv_1x1-e2"}
    own = nets.shapes(net, (6, 6, 1))
    cut = lambda tree, part: {name: tree[renamed.get(name, name)] for name in own[part]}

    def logits(net, of, params, stats, *mix):
        variables = {"params": params, "batch_stats": stats, "quant": units.rules(of, METHODS, columns)}
        apply = jax.jit(functools.partial(net.apply, train=True, mutable=["batch_stats"]))
        return apply(variables, values((4, 6, 6, 1), 1), *mix)[0].main

    left = logits(supernet, wide, params, stats, networks.one_hot(space, arch))
    right = logits(net, of, cut(params, "params"), cut(stats, "batch_stats"))
    np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


def test_sizes_of_a_found_network_are_the_sum_of_its_candidates(found_network):
    net, params, _, _, _, _ = found_network
    layers = sizes.layer_sizes(net, (8, 8, 1))
    kernels = sum(leaf.size for path, leaf in jax.tree.leaves_with_path(params) if path[-1].key == "kernel")
    assert sum(size.weights for size in layers.values()) == kernels
    assert layers[("block_0", "0_1_nor_conv_1x1", "Conv_0")] == (16, 16 * 64, 4)
    assert layers[("classifier", "Linear_0")] == (4 * 3, 4 * 3, 3)
    chosen = {"0_1": "nor_conv_1x1", "1_2": "nor_conv_1x1"}
    table = sizes.candidate_sizes(network(SPACE), (8, 8, 1))
    total = np.sum([sums for where, sums in table.items() if where.op == chosen.get(where.edge, "")], 0)
    np.testing.assert_array_equal(total, np.sum(list(layers.values()), 0))


def test_calibrated_ranges_make_a_network_of_their_own(found_network):
    net, params, stats, of, images, _ = found_network
    variables = {"params": params, "batch_stats": stats}
    seen = units.calibrate(net, variables, jnp.asarray(images), of)
    assert set(seen) == {layer.path for layer in of.layers}
    np.testing.assert_allclose(seen[("stem", "ConvNorm_0", "Conv_0")], [images.min(), images.max()], rtol=1e-6)
    columns = np.ones(len(of.names), np.int32)
    ranges = {path: {"activation_range": row} for path, row in seen.items()}
    static = units.rules(of, METHODS, columns, extra=ranges)
    apply = jax.jit(functools.partial(net.apply, train=False))
    whole = apply({**variables, "quant": static}, images).main
    alone = apply({**variables, "quant": static}, images[:1]).main
    np.testing.assert_allclose(whole[:1], alone, atol=1e-5)  # no batch mate changes an image's levels


def test_methods_are_read_and_refused():
    assert str(Method(4, 8, "power_of_two")) == "w4a8-pow2"
    assert method_of(str(EIGHT)) == EIGHT
    for text in ("w1a8", "w17a4", "8", "w4a8-log"):
        with pytest.raises(ValueError, match="is no method: write w4a8"):
            method_of(text)
