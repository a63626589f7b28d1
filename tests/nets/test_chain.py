"""Networks of chains: parameters counted by hand, shapes, and equality with the layers they are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas import nets
from jnas.nets.chain import ChainNetwork, GroupedConv, check_groups
from jnas.nets.kernels.convolution import conv2d
from jnas.spaces import networks
from jnas.spaces.chain import chain

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
    with pytest.raises(ValueError, match="leaves something to choose"):
        ChainNetwork(chain(("conv_1x1", "skip_connect"), 2), channels=4, num_classes=2)
    with pytest.raises(ValueError, match="2 channels, which 4 groups do not divide"):
        check_groups(networks.network_space("chain-2:conv_3x3-g4,conv_3x3-w0.5"), 4)
    check_groups(networks.network_space("chain-2:conv_3x3-g4,conv_3x3-w0.5"), 8)
    with pytest.raises(ValueError, match="channels is 0"):
        ChainNetwork(networks.network_space("chain:conv_3x3"), channels=0, num_classes=2)
