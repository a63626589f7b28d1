import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jnas import spaces
from jnas.nets import Network, initialise, network_for
from jnas.nets.heads import AuxiliaryHead
from jnas.nets.stacking import per_edge
from jnas.spaces import Operator
from jnas.spaces.cell import CellSpace, fix

OPS = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
CELLS = ("normal", "reduce")
# DARTS in miniature: 2 inputs, 1 node, both edges kept.
SMALL = CellSpace("small", CELLS, 2, 1, OPS, ((OPS,) * 2,) * 2, 2, "concat")
FOUND = dataclasses.replace(
    SMALL, edge_ops=((("max_pool_3x3",), ("sep_conv_3x3",)), (("dil_conv_3x3",), ("skip_connect",)))
)
SUPERNET = Network(SMALL, CELLS, 4, 3, affine=False, normalise_pools=True)
NETWORK = dataclasses.replace(SUPERNET, space=FOUND)
SIDE = 6


def shapes(net, image_shape=(32, 32, 3)):
    return jax.eval_shape(lambda key: initialise(net, key, image_shape), jax.random.key(0))[0]


@functools.cache
def applied(net, train):
    """`apply` of a network, compiled once for the whole module."""

    def apply(variables, image, mix, rate, key):
        return net.apply(
            variables,
            image,
            mix,
            train=train,
            drop_path=0.0 if rate is None else rate,
            rngs=None if key is None else {"drop_path": key},
            mutable=["batch_stats"],
        )

    return jax.jit(apply)


@pytest.fixture(scope="module")
def image():
    return jax.random.normal(jax.random.key(7), (4, SIDE, SIDE, 2))


@pytest.fixture(scope="module")
def variables():
    params, stats = initialise(SUPERNET, jax.random.key(0), (SIDE, SIDE, 2))
    return {"params": params, "batch_stats": stats}


def shared(tree, like):
    """The part of a tree, edge by edge, that a found network has."""
    return {name: shared(tree[name], leaf) if isinstance(leaf, dict) else tree[name] for name, leaf in like.items()}


def inherited(variables):
    like = jax.eval_shape(lambda key: initialise(NETWORK, key, (SIDE, SIDE, 2)), jax.random.key(0))
    return {
        name: shared(per_edge(SUPERNET, variables[name]), leaves)
        for name, leaves in zip(("params", "batch_stats"), like, strict=True)
    }


# --- supernet and found network --------------------------------------------------------------------------------------


def test_supernet_with_a_one_hot_mix_is_the_found_network(variables, image):
    columns = {cell: [OPS.index(edge.ops[0]) for edge in FOUND.edges(cell)] for cell in CELLS}
    mix = {cell: jnp.eye(len(OPS))[jnp.array(columns[cell])] for cell in CELLS}
    mixed, mixed_stats = applied(SUPERNET, True)(variables, image, mix, None, None)
    found, found_stats = applied(NETWORK, True)(inherited(variables), image, None, None, None)
    assert found.main.shape == (4, 3)
    np.testing.assert_allclose(mixed.main, found.main, rtol=2e-5, atol=2e-6)
    edges = per_edge(SUPERNET, mixed_stats["batch_stats"])
    new = shared(edges, found_stats["batch_stats"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), new, found_stats["batch_stats"])
    assert len(jax.tree.leaves(new)) < len(jax.tree.leaves(edges))


def test_drop_path_needs_no_key_in_evaluation_and_does_not_recompile(variables, image):
    weights = inherited(variables)
    step = applied(NETWORK, True)
    outputs = [step(weights, image, None, jnp.float32(rate), jax.random.key(0))[0].main for rate in (0.0, 0.4, 0.4)]
    np.testing.assert_array_equal(outputs[1], outputs[2])
    assert (outputs[0] != outputs[1]).any()
    np.testing.assert_allclose(outputs[0], step(weights, image, None, None, None)[0].main, rtol=1e-5, atol=1e-6)
    compiled = step._cache_size()
    step(weights, image + 1, None, jnp.float32(0.2), jax.random.key(1))
    assert step._cache_size() == compiled
    evaluate = applied(NETWORK, False)
    plain, unchanged = evaluate(weights, image, None, None, None)
    np.testing.assert_array_equal(plain.main, evaluate(weights, image, None, 0.4, None)[0].main)
    jax.tree.map(np.testing.assert_array_equal, unchanged["batch_stats"], weights["batch_stats"])


def test_networks_built_alike_are_equal_and_can_be_static_arguments():
    build = lambda depth: network_for(spaces.darts(), channels=2, depth=depth, num_classes=2)
    assert build(3) == build(3)
    assert hash(build(3)) == hash(build(3))
    assert build(3) != build(4)


class Times(nn.Module):
    """An operator of a user's own with a parameter of its own kind."""

    factor: float

    @nn.compact
    def __call__(self, x, train):
        return self.param("power", lambda key: jnp.full((), 3.0)) * self.factor * x


def test_networks_of_equal_spaces_with_other_operators_share_no_program(image):
    def build(factor):
        own = Operator("times", lambda channels, stride: Times(factor))
        space = spaces.extend(spaces.branched(("none", "skip_connect"), 1), own)
        return network_for(fix(space, [2]), channels=2, depth=1, num_classes=2)

    first, second = build(1.0), build(2.0)
    assert first.space == second.space
    assert first != second
    assert first.clone(channels=2) == first
    assert first.clone(space=second.space) == second
    params, stats = initialise(first, jax.random.key(0), (SIDE, SIDE, 2))
    assert params["block_0"]["0_1_times"]["power"] == 3.0  # as its initialiser says
    variables = {"params": params, "batch_stats": stats}
    apply = jax.jit(lambda net: net.apply(variables, image, train=False).main, static_argnums=0)
    assert not np.array_equal(apply(first), apply(second))
    np.testing.assert_array_equal(apply(first.clone()), apply(first))
    assert apply._cache_size() == 2


def test_own_operators_of_a_supernet_start_as_they_say():
    draws = lambda key, shape, dtype: 5 + jax.random.uniform(key, shape, dtype)
    make = lambda channels, stride: Own(channels)

    class Own(nn.Module):
        channels: int

        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(self.channels, kernel_init=draws, use_bias=False)(x)

    space = spaces.extend(spaces.branched(("none", "nor_conv_1x1"), 2), Operator("own", make))
    params, _ = initialise(network_for(space, channels=2, depth=1, num_classes=2), jax.random.key(0), (SIDE, SIDE, 2))
    kernels = params["block_0"]["edges_0"]["own"]["Dense_0"]["kernel"]
    assert (kernels.shape, float(kernels.min()) >= 5, len(np.unique(kernels))) == ((3, 2, 2), True, 12)
    assert float(jnp.abs(params["block_0"]["edges_0"]["nor_conv_1x1"]["Conv_0"]["kernel"]).max()) < 1


def test_remat_changes_neither_values_nor_gradients(image):
    net = dataclasses.replace(NETWORK, layout=("reduce",))
    params, stats = initialise(net, jax.random.key(0), (SIDE, SIDE, 2))

    def loss(params, net):
        logits, changed = net.apply(
            {"params": params, "batch_stats": stats},
            image,
            train=True,
            drop_path=0.3,
            rngs={"drop_path": jax.random.key(3)},
            mutable=["batch_stats"],
        )
        return jnp.sum(logits.main**2), changed

    nets = net, dataclasses.replace(net, remat=True)
    assert ["remat" in str(jax.make_jaxpr(loss, static_argnums=1)(params, net)) for net in nets] == [False, True]
    plain, remat = jax.jit(lambda params: [jax.value_and_grad(loss, has_aux=True)(params, net) for net in nets])(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, remat)


def test_bfloat16_computes_in_half_precision_and_keeps_the_rest(variables, image):
    net = dataclasses.replace(NETWORK, dtype=jnp.bfloat16)
    weights = inherited(variables)
    logits, changed = applied(net, True)(weights, image, None, None, None)
    exact = applied(NETWORK, True)(weights, image, None, None, None)[0].main
    assert logits.main.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(changed)} == {jnp.dtype(jnp.float32)}
    difference = float(jnp.abs(logits.main - exact).max() / jnp.abs(exact).max())
    assert 1e-5 < difference < 0.1


# --- layout ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "reductions"), [(8, {2, 5}), (20, {6, 13}), (5, {1, 3}), (2, {0, 1}), (1, {0})])
def test_reduction_cells_of_darts(depth, reductions):
    layout = network_for(spaces.darts(), channels=4, depth=depth, num_classes=2).layout
    assert {index for index, block in enumerate(layout) if block == "reduce"} == reductions
    assert len(layout) == depth


def test_only_the_darts_supernet_normalises_its_pools():
    found = fix(SMALL, np.zeros(2, int))  # two max pools in either cell
    for space, normalised in ((SMALL, True), (found, False), (spaces.nasbench201(), False)):
        net = network_for(space, channels=2, depth=1, num_classes=2)
        stats = jax.eval_shape(lambda key, net=net: initialise(net, key, (4, 4, 1)), jax.random.key(0))[1]
        assert any("pool" in jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(stats)) == normalised


def test_resolution_and_channels_follow_the_reductions():
    net = network_for(fix(spaces.darts(), np.zeros(8, int)), channels=4, depth=3, num_classes=10, auxiliary=True)
    _, state = jax.eval_shape(
        lambda: net.init_with_output(
            jax.random.key(0), jnp.zeros((2, 28, 28, 1)), train=True, capture_intermediates=True, mutable=True
        )
    )
    outputs = {name: state["intermediates"][name]["__call__"][0] for name in ("block_0", "block_1", "block_2")}
    assert {name: output.shape for name, output in outputs.items()} == {
        "block_0": (2, 28, 28, 16),
        "block_1": (2, 14, 14, 32),
        "block_2": (2, 7, 7, 64),
    }
    assert state["intermediates"]["auxiliary_head"]["__call__"][0].shape == (2, 10)
    assert state["params"]["auxiliary_head"]["ConvNorm_0"]["Conv_0"]["kernel"].shape == (1, 1, 64, 128)  # after block 2


@pytest.mark.parametrize("image_shape", [(28, 28, 1), (7, 9, 3)])
@pytest.mark.parametrize("space", [spaces.darts(), spaces.nasbench201()], ids=lambda space: space.name)
def test_odd_sides_and_any_input_channels(space, image_shape):
    net = network_for(fix(space, np.full(len(space.choices), 3)), channels=4, depth=3, num_classes=7)
    params = shapes(net, image_shape)
    assert params["stem"]["ConvNorm_0"]["Conv_0"]["kernel"].shape[2] == image_shape[2]


@pytest.mark.parametrize(("side", "stride"), [(8, 3), (7, 2)])
def test_auxiliary_head_pools_as_the_two_heads_of_darts(x64, side, stride):
    x = np.random.default_rng(0).normal(size=(2, side, side, 3))
    head = AuxiliaryHead(5, dtype=jnp.float64)
    at = lambda i, j: np.maximum(x, 0)[:, i : i + 5, j : j + 5].mean((1, 2))
    pooled = np.stack([np.stack([at(i, j) for j in (0, stride)], 1) for i in (0, stride)], 1)

    def first_convolution(image):
        variables = head.init(jax.random.key(0), image, True)
        found = head.apply(variables, image, True, capture_intermediates=True, mutable=True)[1]
        kernel = variables["params"]["ConvNorm_0"]["Conv_0"]["kernel"][0, 0].astype(jnp.float64)
        return found["intermediates"]["ConvNorm_0"]["Conv_0"]["__call__"][0], kernel

    output, kernel = jax.jit(first_convolution)(jnp.asarray(x))
    np.testing.assert_allclose(output, pooled @ np.asarray(kernel), rtol=1e-10)


def test_auxiliary_logits_exist_in_training_only(image):
    net = dataclasses.replace(NETWORK, auxiliary=True)
    look = lambda train: jax.eval_shape(
        lambda: net.init_with_output(jax.random.key(0), image, train=train)[0].auxiliary
    )
    assert look(True).shape == (4, 3)
    assert look(False) is None


# --- initialisation --------------------------------------------------------------------------------------------------


def test_initialise_draws_what_init_draws(variables):
    image, mix = jnp.zeros((1, SIDE, SIDE, 2)), {cell: jnp.zeros((2, len(OPS))) for cell in CELLS}
    reference = jax.eval_shape(lambda: SUPERNET.init(jax.random.key(0), image, mix, train=True))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), dict(reference)
    )
    edges = {name: per_edge(SUPERNET, tree) for name, tree in variables.items()}
    for path, leaf in jax.tree.leaves_with_path(edges):
        name = jax.tree_util.keystr(path)
        if "Dense_0" in name:
            bound = edges["params"]["classifier"]["Linear_0"]["Dense_0"]["kernel"].shape[0] ** -0.5
        elif "kernel" in name:
            bound = np.prod(leaf.shape[: 2 if leaf.ndim == 3 else 3]) ** -0.5
        else:
            np.testing.assert_array_equal(leaf, 1.0 if name.endswith(("['scale']", "['var']")) else 0.0)
            continue
        assert float(jnp.abs(leaf).max()) <= bound * 1.000001
        assert leaf.size < 30 or abs(float(leaf.std()) / bound - 3**-0.5) < 0.2, name


def test_initialise_uses_every_number_once(variables):
    drawn = [
        np.asarray(leaf).ravel()
        for path, leaf in jax.tree.leaves_with_path(variables["params"])
        if "kernel" in str(path)
    ]
    kernels = np.concatenate([leaf / np.abs(leaf).max() for leaf in drawn if leaf.size > 1])
    assert np.unique(kernels.round(6)).size > 0.98 * kernels.size
    again = initialise(SUPERNET, jax.random.key(0), (SIDE, SIDE, 2))[0]
    jax.tree.map(np.testing.assert_array_equal, variables["params"], again)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: network_for(SMALL, channels=0, depth=2, num_classes=2), "channels is 0"),
        (lambda: network_for(SMALL, channels=4, depth=0, num_classes=2), "depth is 0"),
        (lambda: network_for(SMALL, channels=4, depth=2, num_classes=0), "num_classes is 0"),
        (lambda: network_for(SMALL, channels=4, depth=2, num_classes=2, stem="vit"), "'vit'"),
        (lambda: dataclasses.replace(NETWORK, layout=("normal", "cell")), "'cell'"),
        (lambda: dataclasses.replace(NETWORK, space=dataclasses.replace(FOUND, ops=("conv",))), "'conv'"),
        (
            lambda: network_for(dataclasses.replace(SMALL, cells=("a", "b")), channels=4, depth=2, num_classes=2),
            "layout",
        ),
    ],
)
def test_bad_arguments_are_named_when_a_network_is_built(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_bad_calls_are_named(image):
    call = lambda net, *args, **options: jax.eval_shape(
        lambda: net.init(jax.random.key(0), image, *args, train=True, **options)
    )
    with pytest.raises(ValueError, match=r"no mix"):
        call(SUPERNET)
    with pytest.raises(ValueError, match=r"'reduce'.*None"):
        call(SUPERNET, {"normal": jnp.zeros((2, 6))})
    with pytest.raises(ValueError, match=r"\(2, 5\).*\(2, 6\)"):
        call(SUPERNET, {cell: jnp.zeros((2, 5)) for cell in CELLS})
    with pytest.raises(ValueError, match=r"drop_path is 1"):
        call(NETWORK, drop_path=1)
    with pytest.raises(ValueError, match=r"1x1 pixels"):
        jax.eval_shape(lambda: AuxiliaryHead(2).init(jax.random.key(0), jnp.zeros((1, 1, 1, 3)), True))
