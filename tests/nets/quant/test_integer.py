"""The network in integers against the fake-quantised one, and folded batch norms against their network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jnas import nets, spaces
from jnas.nets.chain import ChainNetwork
from jnas.nets.quant import integer, units
from jnas.spaces.networks import network_space
from jnas.spaces.policy import method_of

METHODS = tuple(map(method_of, ("w8a8", "w4a4", "w4a8-pow2", "w32a32", "w2a16", "w5a8-pow2")))
OPS = {"cell": [["nor_conv_3x3"], ["skip_connect"], ["sep_conv_3x3"]]}


def random_tree(tree, seed):
    """Statistics, scales and biases that do something: a fresh network's batch norms are nearly the identity."""
    rng = np.random.default_rng(seed)

    def leaf(path, x):
        drawn = rng.normal(size=x.shape).astype(np.float32)
        plain = {
            "var": np.exp(drawn),
            "mean": drawn,
            "scale": np.where(drawn < -0.5, drawn, 1 + drawn**2),
            "bias": drawn,
        }
        return jnp.asarray(plain.get(path[-1].key, x))

    return jax.tree_util.tree_map_with_path(leaf, tree)


def cells():
    edges = (("nor_conv_3x3",), ("skip_connect",), ("sep_conv_3x3",))
    ops = ("none", "skip_connect", "nor_conv_3x3", "sep_conv_3x3")
    space = spaces.CellSpace("small", ("cell",), 1, 2, ops, (edges,), None, "last")
    return nets.Network(space, ("cell",), 4, 3, stem_multiplier=1, project_inputs=False, normalise_features=True)


def layers():
    words = "chain:conv_3x3-g2+conv_3x3-e2-g2+conv_3x3-dw-w2+conv_3x3-e2-dw-w2+fc_5"
    return ChainNetwork(network_space(words), 2, 3)


@pytest.fixture(scope="module", params=[cells, layers])
def network(request):
    net = request.param()
    params, stats = (
        random_tree(tree, seed) for seed, tree in enumerate(nets.initialise(net, jax.random.key(0), (6, 6, 1)))
    )
    images = np.random.default_rng(5).normal(size=(8, 6, 6, 1)).astype(np.float32)
    folded = integer.fold(params, stats)
    of = units.units(net, params)
    apply = jax.jit(functools.partial(net.apply, train=False))
    seen = units.calibrate(net, {"params": folded[0], "batch_stats": folded[1]}, jnp.asarray(images), of)
    return net, params, stats, folded, of, images, apply, seen


def test_folding_changes_nothing_but_where_numbers_stand(network):
    _, params, stats, folded, _, images, apply, _ = network
    left = apply({"params": params, "batch_stats": stats}, images).main
    right = apply({"params": folded[0], "batch_stats": folded[1]}, images).main
    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)
    stem = folded[0]["stem"]["ConvNorm_0"]
    np.testing.assert_array_equal(stem["BatchNorm_0"]["scale"], 1)
    assert "Conv_0" not in params["classifier"]
    np.testing.assert_array_equal(folded[1]["classifier"]["BatchNorm_0"]["mean"], 0)


def test_a_factorised_reduction_is_folded_in_halves():
    module = nets.operator("skip_connect", channels=6, stride=2)
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 6)).astype(np.float32)
    variables = random_tree(module.init(jax.random.key(0), x, False), 3)
    params, stats = integer.fold(variables["params"], variables["batch_stats"])
    apply = jax.jit(functools.partial(module.apply, train=False))
    folded = apply({"params": params, "batch_stats": stats}, x)
    np.testing.assert_allclose(apply(variables, x), folded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", [(1, 2), (3, 0)])
def test_integers_give_what_fake_quantisation_does(network, policy):
    net, _, _, (params, stats), of, images, apply, seen = network
    ranges = {path: {"activation_range": row} for path, row in seen.items()}
    eights, policy = 3 not in policy, np.resize(np.array(policy, np.int32), len(of.names))
    rules = units.rules(of, METHODS, policy, extra=ranges)
    expected = apply({"params": params, "batch_stats": stats, "quant": rules}, images).main
    layers = integer.integer_layers(params, of, METHODS, policy, seen)
    assert all(layer.weights.dtype == np.int8 for layer in layers.values())
    assert len(of.layers) - len(layers) == sum(policy[at] == 3 for layer in of.layers for at in layer.units if at >= 0)
    run = jax.jit(integer.integer_apply(net, params, stats, layers))
    found = run(images)
    # A value at the middle of two levels may go either way in the two orders of computation: one level of one input.
    close = np.isclose(found, expected, rtol=1e-3, atol=1e-3)
    assert close.mean() > 0.95
    np.testing.assert_array_equal(np.argmax(found, 1), np.argmax(expected, 1))
    if eights:
        text = run.lower(images).as_text()
        assert text.count("xi8>") > 4
        exported = export.export(run)(jax.ShapeDtypeStruct(images.shape, jnp.float32))
        assert "xi8>" in exported.mlir_module()
        np.testing.assert_array_equal(exported.call(images), found)


def test_what_has_no_int8_product_is_refused(network):
    _, _, _, (params, _), of, _, _, seen = network
    for column in (4, 5):
        with pytest.raises(ValueError, match="which has no product of int8: choose"):
            integer.integer_layers(params, of, METHODS, np.resize([0, column], len(of.names)), seen)
