"""Latencies of layers, measured on the device that is there and kept in the run."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jnas.nets.layers import Conv, DepthwiseConv, Linear
from jnas.nets.quant.integer import IntegerLayer, multiplied
from jnas.nets.quant.sizes import LayerShape
from jnas.recipes import costs
from jnas.spaces.policy import Method

MEASURED = "measured"  # in the place of a table's path
REPEATS = 50


def measured(path: pathlib.Path) -> costs.Latency:
    """Milliseconds of a layer for one image, compiled at its shape and called alone: the median of 50 calls.

    A layer with at most 8 bits on both sides is one of int8, its inputs rounded and its sums scaled as
    `integer.integer_apply` does it, whatever its widths are: this device has no narrower product. Any other is one of
    float32. Each is measured once, see `costs.measured_once`.

    Args:
      path: of the run.

    Returns:
      The function for `costs.cost_model`.
    """
    number = costs.measured_once(path)

    def latency(layer: LayerShape, method: Method) -> float:
        narrow = max(method.weight_bits, method.activation_bits) <= 8
        sizes = "x".join(map(str, layer.inputs)), "x".join(map(str, layer.outputs))
        name = f"{layer.kind.__name__} {layer.size} {layer.stride} {layer.dilation} {'-'.join(sizes)} " + (
            "int8" if narrow else "float32"
        )
        return number(name, lambda: 1e3 * _seconds(layer, narrow))  # a layer of a chain is met in the search, too

    return latency


def _seconds(layer: LayerShape, narrow: bool) -> float:
    channels, size = layer.outputs[-1], layer.size
    module: Conv | DepthwiseConv | Linear
    if layer.kind is Linear:
        module, shape = Linear(channels), (layer.inputs[-1], channels)
    elif layer.kind is DepthwiseConv:
        module, shape = DepthwiseConv(size, layer.stride, layer.dilation), (size, size, channels)
    else:
        module, shape = Conv(channels, size, layer.stride, layer.dilation), (size, size, layer.inputs[-1], channels)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, *layer.inputs)), jnp.float32)
    if narrow:
        weights = np.random.default_rng(1).integers(-127, 128, shape).astype(np.int8)
        whole = IntegerLayer(weights, np.full(channels, 1e-3, np.float32), np.float32(0.02), 0, -128, 127)
        run = jax.jit(lambda x: multiplied(module, whole, x))
    else:
        params = module.init(jax.random.key(0), x)
        run = jax.jit(lambda x: module.apply(params, x))
    return costs.median_seconds(lambda: run(x), REPEATS)
