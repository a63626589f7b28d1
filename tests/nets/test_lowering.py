"""What programs of a supernet consist of on each platform: this makes them fast, and a new JAX may change it."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

from jnas import spaces
from jnas.nets import Network, initialise
from jnas.spaces.cell import CellSpace

OPS = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3", "dil_conv_5x5")
SPACE = CellSpace("darts", ("normal", "reduce"), 2, 2, OPS, ((OPS,) * 5,) * 2, 2, "concat")
SMALLEST = CellSpace("darts", ("normal",), 1, 2, OPS[:-1], ((OPS[:-1],) * 3,), 2, "concat")


def steps(space, strategy):
    """The first-order gradient in weights and alpha, the Hessian-vector product, and where they are taken."""
    net = Network(space, space.cells, 4, 3, affine=False, normalise_pools=True, edge_strategy=strategy)
    params, stats = jax.eval_shape(lambda key: initialise(net, key, (8, 8, 1)), jax.random.key(0))
    alpha = jax.eval_shape(lambda key: spaces.init_alpha(space, key), jax.random.key(0))
    image = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)

    def loss(params, alpha, stats, image):
        variables = {"params": params, "batch_stats": stats}
        mix = spaces.mixture(space, alpha)
        logits, changed = net.apply(variables, image, mix, train=True, mutable=["batch_stats"])
        return -jnp.mean(jax.nn.log_softmax(logits.main)[:, 0]), changed

    gradient = jax.grad(loss, (0, 1), has_aux=True)

    def product(params, alpha, stats, image):
        along = lambda params: gradient(params, alpha, stats, image)[0]
        return jax.jvp(along, (params,), (params,))

    return {"gradient": gradient, "product": product}, (params, alpha, stats, image)


@functools.cache
def traced(space, strategy, step):
    functions, arguments = steps(space, strategy)
    return jax.jit(functions[step]).trace(*arguments)


def lowered(space, strategy, step, platform):
    return traced(space, strategy, step).lower(lowering_platforms=(platform,))


@pytest.mark.parametrize("step", ["gradient", "product"])
@pytest.mark.parametrize(
    ("strategy", "platform"), [("merge", "cuda"), ("merge", "tpu"), ("scan", "cuda"), ("scan", "tpu")]
)
def test_accelerators_get_ordinary_convolutions_and_no_calls_to_the_host(strategy, platform, step):
    text = lowered(SPACE, strategy, step, platform).as_text()
    assert len(re.findall(r"stablehlo\.convolution", text)) > 10
    assert set(re.findall(r"custom_call @(\w+)", text)) == set()
    assert "inlineable" not in text
    assert ("stablehlo.while" in text) == (strategy == "scan")


def test_merged_edges_are_wider_convolutions_on_accelerators():
    """The depthwise kernels of all edges that leave one input, 2 here, side by side: 2 times 4 groups."""
    text = lowered(SPACE, "merge", "gradient", "cuda").as_text()
    groups = {int(count) for count in re.findall(r"feature_group_count = (\d+)", text)}
    assert 8 in groups


@pytest.mark.parametrize("strategy", ["scan", "merge"])
def test_cpus_get_stencils_in_calls_that_may_not_be_inlined(strategy):
    text = lowered(SMALLEST, strategy, "gradient", "cpu").as_text()
    assert len(re.findall(r'inlineable = "false"', text)) > 5
    convolutions = re.findall(r"feature_group_count = (\d+)", text)
    assert set(convolutions) == {"1"}  # the dense ones of the stem
    assert "custom_call" not in text
    assert "select_and_scatter" not in text
    assert "reduce_window" not in text


def test_compiled_for_a_cpu_the_calls_are_still_there_in_loops():
    text = lowered(SMALLEST, "scan", "gradient", "cpu").compile().as_text()
    called = set(re.findall(r" call\(.*to_apply=%?([\w.-]+)", text))
    stencils = {
        name for name in called if re.match(r"_?(read_taps|write_taps|tap_products|largest|placed|read_box)", name)
    }
    assert len(stencils) >= 5, called
    assert len(re.findall(r" while\(", text)) >= 2  # forward and backward
