"""No array that a kernel makes on a CPU has seven axes: jaxlib 0.10 has crashed in fused sums of products of that rank.

There XLA hands sums, and products that are summed, to a library that holds no more than eight axes and adds some of its
own. The flag `--xla_cpu_experimental_ynn_fusion_type=` switches that off, and jaxlib 0.12 is free of it. Which sums it
is handed depends on their size, so that ranks are looked at, and not which library computes them.
"""

import re

import jax
import jax.numpy as jnp
import pytest

from jnas.nets.heads import ResidualReduction
from jnas.nets.kernels.convolution import conv2d, depthwise2d
from jnas.nets.kernels.pooling import avg_pool3, max_pool3

EDGES, RUNS, CHANNELS = 2, 3, 4
KERNELS = {
    "dense": (conv2d, (3, 3, CHANNELS, 5)),
    "pointwise": (conv2d, (1, 1, CHANNELS, 5)),
    "depthwise": (depthwise2d, (3, 3, CHANNELS)),
    "max_pool": (lambda x, w, **options: max_pool3(x * w, **options), ()),
    "avg_pool": (lambda x, w, **options: avg_pool3(x * w, **options), ()),
}


def ranks(text):
    """Of all arrays of a compiled program, those inside fusions included."""
    return {len(shape.split(",")) for shape in re.findall(r"\b(?:f32|s32|pred)\[([\d,]+)\]", text)}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", KERNELS)
def test_derivatives_under_the_vmaps_of_edges_and_of_runs(name, stride):
    """Values, gradients and Hessian products, of some edges at once in some runs at once."""
    kernel, of_kernel = KERNELS[name]

    def loss(x, w):
        return jnp.sum(jnp.tanh(kernel(x, w, stride=stride)))

    def one(x, w):
        slope = jax.value_and_grad(loss, argnums=(0, 1))
        return jax.jvp(slope, (x, w), (x, w))

    shapes = [(RUNS, EDGES, *shape) for shape in ((2, 8, 8, CHANNELS), of_kernel)]
    text = jax.jit(jax.vmap(jax.vmap(one))).lower(*map(jnp.ones, shapes)).compile().as_text()
    found = ranks(text)
    assert {4, 5} & found  # the text is read: images, and edges or runs of them
    assert max(found) < 7


def test_the_average_of_a_reduction_in_several_runs():
    net = ResidualReduction(5)
    x = jnp.ones((2, 7, 8, CHANNELS))
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), x, True))

    def loss(params, x):
        return jnp.sum(net.apply(params, x, True, mutable=["batch_stats"])[0])

    one = jax.grad(loss, argnums=(0, 1))
    many = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((RUNS, *leaf.shape), leaf.dtype), (params, x))
    found = ranks(jax.jit(jax.vmap(one)).lower(*many).compile().as_text())
    assert 5 in found
    assert max(found) < 7
