"""Networks of chains: parameters counted by hand, shapes, and equality with the layers they are made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jnas import nets
from jnas.nets.chain import ChainNetwork, GroupedConv, check_groups
from jnas.nets.kernels.convolution import conv2d
from jnas.spaces import networks
from jnas.spaces.chain import chain, layer_of

STEM, HEAD = 9 * 1 * 4 + 2 * 4, 2 * 16 + 16 * 10 + 10  # of 4 channels on grey images; of 16 and 10 classes
REDUCE = (9 * 4 * 8 + 2 * 8) + (9 * 8 * 16 + 2 * 16)


def shapes_of(text, *, channels=4, **options):
    net = ChainNetwork(networks.network_space(text), channels=channels, num_classes=10, **options)
    return net, *jax.eval_shape(lambda key: nets.initialise(net, key, (8, 8, 1)), jax.random.key(0))


@pytest.mark.parametrize(
    ("layer", "parameters"),  # of the layer alone, at 16 channels: it is the only one, behind both reductions
    [
        ("skip_connect", 0),
        ("max_pool_3x3", 0),
        ("nor_conv_5x5", 25 * 16 * 16 + 2 * 16),
        ("conv_3x3", 9 * 16 * 16 + 2 * 16),
        ("conv_3x3-d2", 9 * 16 * 16 + 2 * 16),
        ("conv_3x3-g4", 4 * 9 * 4 * 4 + 2 * 16),
        ("conv_5x5-dw", 25 * 16 + 16 * 16 + 2 * 16),
        ("conv_3x3-e3", 16 * 48 + 2 * 48 + 9 * 48 * 48 + 2 * 48 + 48 * 16 + 2 * 16),
        ("conv_3x3-e3-dw", 16 * 48 + 2 * 48 + 9 * 48 + 2 * 48 + 48 * 16 + 2 * 16),
        ("sep_conv_3x3", 2 * (9 * 16 + 16 * 16 + 2 * 16)),
        ("fc_7", 16 * 7 + 7 - (16 - 7) * (2 + 10)),  # the classifier reads 7 channels
    ],
)
def test_parameters_are_those_counted_by_hand(layer, parameters):
    _, params, _ = shapes_of(f"chain:{layer}")
    assert nets.count_parameters(params) == STEM + REDUCE + parameters + HEAD


def test_width_changes_the_channels_between_layers_and_stages_double_them():
    net, params, _ = shapes_of("chain:conv_3x3-w0.5+conv_1x1+skip_connect+conv_1x1-w2+conv_3x3+conv_1x1")
    conv = {
        name: jax.tree.leaves(layer["filter"])[0].shape
        for name, layer in params.items()
        if name.startswith("layer") and "filter" in layer
    }
    assert conv["layer_0"] == (3, 3, 4, 2)
    assert conv["layer_1"] == (1, 1, 2, 4)
    assert conv["layer_3"] == (1, 1, 8, 16)  # the second stage
    assert conv["layer_4"] == (3, 3, 16, 16)  # the third, behind a reduction that makes 16 of 16
    assert "layer_2" not in params
    assert params["reduce_1"]["Conv_0"]["kernel"].shape == (3, 3, 4, 8)
    assert params["reduce_2"]["Conv_0"]["kernel"].shape == (3, 3, 16, 16)
    assert net.strides == (1, 2, 4)


def test_a_chain_of_one_layer_offers_no_resolution_between():
    net, *_ = shapes_of("chain:conv_3x3")
    apply = functools.partial(net.init_with_output, jax.random.key(0), train=False, features=True)
    states, _ = jax.eval_shape(apply, jnp.zeros((1, 16, 16, 3)))
    assert tuple(states) == net.strides == (1, 4)
    assert states[4].shape[1:3] == (4, 4)


def test_depth_repeats_every_layer():
    _, once, _ = shapes_of("chain:conv_3x3")
    _, twice, _ = shapes_of("chain:conv_3x3", depth=2)
    extra = nets.count_parameters(twice) - nets.count_parameters(once)
    assert extra == 9 * 16 * 16 + 2 * 16
    assert {"layer_0_0", "layer_0_1"} <= set(twice)


@pytest.fixture(scope="module")
def network():
    net = ChainNetwork(networks.network_space("chain:conv_3x3-g2+conv_3x3-e2-dw"), channels=4, num_classes=3)
    params, stats = nets.initialise(net, jax.random.key(0), (8, 8, 1))
    return net, {"params": params, "batch_stats": stats}, jax.random.normal(jax.random.key(1), (4, 8, 8, 1))


def test_a_chain_has_the_interface_of_a_network(network):
    net, variables, image = network
    logits, changed = net.apply(variables, image, train=True, mutable=["batch_stats"])
    assert logits.main.shape == (4, 3)
    assert logits.auxiliary is None
    assert jax.tree.structure(changed["batch_stats"]) == jax.tree.structure(variables["batch_stats"])
    features = net.apply(variables, image, train=False, features=True)
    assert {stride: x.shape for stride, x in features.items()} == {1: (4, 8, 8, 4), 2: (4, 4, 4, 8), 4: (4, 2, 2, 16)}


def test_features_are_those_before_fully_connected_layers():
    net = ChainNetwork(networks.network_space("chain:conv_3x3+fc_3"), channels=4, num_classes=3)
    image = jnp.zeros((1, 8, 8, 1))
    start = lambda key: net.init_with_output(key, image, train=False, features=True)
    found, variables = jax.eval_shape(start, jax.random.key(0))
    assert found[4].shape == (1, 2, 2, 16)
    assert "layer_1" not in variables["params"]


def test_groups_are_a_dense_convolution_with_blocks_of_zeros():
    x = jax.random.normal(jax.random.key(3), (2, 5, 5, 4))
    module = GroupedConv(6, 3, groups=2)
    variables = module.init(jax.random.key(4), x)
    parts = [variables["params"][f"Conv_{at}"]["kernel"] for at in range(2)]
    dense = jnp.zeros((3, 3, 4, 6)).at[:, :, :2, :3].set(parts[0]).at[:, :, 2:, 3:].set(parts[1])
    np.testing.assert_allclose(module.apply(variables, x), conv2d(x, dense), rtol=1e-5, atol=1e-6)


def test_dropping_every_branch_leaves_the_input(network):
    """At a rate that drops all, the expanded layer is the identity: the same as a network without it."""
    net, variables, image = network
    without = ChainNetwork(networks.network_space("chain:conv_3x3-g2+skip_connect"), channels=4, num_classes=3)
    dropped, _ = net.apply(
        variables, image, train=True, drop_path=jnp.float32(1 - 1e-6), rngs={"drop_path": jax.random.key(2)},
        mutable=["batch_stats"],
    )  # fmt: skip
    plain, _ = without.apply(variables, image, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(dropped.main, plain.main, rtol=1e-5)
    kept, _ = net.apply(variables, image, train=True, mutable=["batch_stats"])
    assert float(jnp.abs(kept.main - plain.main).max()) > 1e-3


def test_bad_networks_are_refused():
    image, supernet = jnp.zeros((1, 4, 4, 1)), ChainNetwork(chain(("conv_1x1", "skip_connect"), 1), 4, num_classes=2)
    variables = supernet.init(jax.random.key(0), image, train=False)
    with pytest.raises(ValueError, match=r"the mix has the rows {}: chain-1:.* needs {'layer_0': \(2,\)}"):
        supernet.apply(variables, image, train=False)
    with pytest.raises(ValueError, match="2 channels, which 4 groups do not divide"):
        check_groups(networks.network_space("chain-2:conv_3x3-g4,conv_3x3-w0.5"), 4)
    check_groups(networks.network_space("chain-2:conv_3x3-g4,conv_3x3-w0.5"), 8)
    with pytest.raises(ValueError, match="channels is 0"):
        ChainNetwork(networks.network_space("chain:conv_3x3"), channels=0, num_classes=2)


def cut(tree, net, image_shape):
    """The weights of a supernet that a network of it has, cut to its channels: the first, inside of groups of each."""
    found, given = {}, flatten_dict(tree)
    for path, leaf in flatten_dict(nets.shapes(net, image_shape)["params"]).items():
        name, groups = path[0], [1] * len(leaf.shape)
        if name.startswith("layer_"):
            (word,) = net.space.layers[int(name.split("_")[1])]
            name = f"{name}_{word}"
            if layer_of(word).expansion > 1 and path[1] in ("expand", "BatchNorm_0"):
                groups[-1] = layer_of(word).groups or 1
            if path[1:] == ("project", "Conv_0", "kernel"):
                groups[-2] = layer_of(word).groups or 1
        whole = given[name, *path[1:]]
        for axis, (count, parts) in enumerate(zip(leaf.shape, groups, strict=True)):
            starts = np.arange(parts)[:, None] * (whole.shape[axis] // parts)
            whole = jnp.take(whole, (starts + np.arange(count // parts)).reshape(-1), axis=axis)
        found[path] = whole
    return unflatten_dict(found)


@pytest.mark.parametrize(
    ("words", "depth", "archs"),
    [
        (  # widths before all kinds of layers, and before the classifier
            "chain:conv_3x3-w1.5,conv_1x1-w0.5,skip_connect"
            "+conv_3x3-g2,conv_3x3-e2-g2,conv_3x3-e3-dw,sep_conv_3x3,conv_1x1-dw-w0.5,max_pool_3x3"
            "+conv_1x1-w1.5,skip_connect+conv_3x3-e2-g2-w1.5,dil_conv_3x3+fc_5,fc_2,skip_connect+skip_connect,fc_3",
            1,
            [[1, 0, 0, 0, 0, 0], [2, 1, 1, 0, 1, 1], [1, 2, 1, 1, 2, 0], [1, 4, 0, 1, 2, 1]],
        ),
        ("chain-1:conv_3x3-w1.5,conv_1x1-e2,conv_1x1-w0.5", 2, [[1], [2]]),
    ],
    ids=["widths", "depth"],
)
def test_a_supernet_computes_what_each_of_its_networks_does(words, depth, archs):
    space, shape, rng = networks.network_space(words), (6, 6, 1), np.random.default_rng(0)
    net = ChainNetwork(space, 4, 3, depth)
    params, stats = nets.initialise(net, jax.random.key(0), shape)
    params = jax.tree.map(lambda x: x + 0.3 * jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
    image = jnp.asarray(rng.normal(size=(4, *shape)), jnp.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def logits(net, params, stats, mix=None):
        variables = {"params": params, "batch_stats": stats}
        return net.apply(variables, image, mix, train=True, mutable=["batch_stats"])[0].main

    mixes = jax.vmap(lambda arch: networks.one_hot(space, arch))(np.array(archs))
    together = jax.vmap(lambda mix: logits(net, params, stats, mix))(mixes)
    for arch, found in zip(archs, together, strict=True):
        fixed = ChainNetwork(networks.fix(space, np.array(arch)), 4, 3, depth)
        _, stats = nets.initialise(fixed, jax.random.key(0), shape)
        np.testing.assert_allclose(found, logits(fixed, cut(params, fixed, shape), stats), rtol=1e-4, atol=1e-5)
