"""The found network in integers: batch norms folded into kernels, products of int8 summed in int32."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax

from jnas.nets.chain import FoundNetwork
from jnas.nets.layers import Conv, DepthwiseConv, Linear
from jnas.nets.quant.fake import affine_levels, normal_range, power_through
from jnas.nets.quant.units import Path, Units, methods_of
from jnas.spaces.policy import FLOAT, Method
from jnas.types import Array, PyTree

EPSILON = 1e-5  # of `layers.batch_norm`


def fold(params: PyTree, batch_stats: PyTree) -> tuple[dict[str, Any], dict[str, Any]]:
    r"""Folds every batch norm that follows a convolution into its kernel.

        g = scale / sqrt(var + eps),   kernel <- g kernel,   what is left of the batch norm adds  bias - g mean

    The same network module reads the result; in evaluation it computes what it did. Symmetric levels a channel scale
    with the kernel, so that quantising before or after makes no difference but for rounding of ties.

    Args:
      params: of a found network.
      batch_stats: its running statistics.

    Returns:
      Both, changed: a folded batch norm has scale 1, bias 0, variance 1 - eps and the mean that makes it add a bias;
      one that follows no convolution has mean 0 and that variance, and scale and bias of what it did.
    """
    leaves: dict[Path, Any] = flatten_dict(params)
    stats: dict[Path, Any] = flatten_dict(batch_stats)
    for norm in [path[:-1] for path in stats if path[-1] == "mean"]:
        mean, var, own = stats[*norm, "mean"], stats[*norm, "var"], (*norm, "scale") in leaves
        kernels = _kernels_before(norm, leaves, stats)
        gain = (leaves[*norm, "scale"] if own else jnp.ones_like(var)) / jnp.sqrt(var + EPSILON)
        shift = (leaves[*norm, "bias"] if own else jnp.zeros_like(var)) - gain * mean
        ones, zeros, start = jnp.ones_like(gain), jnp.zeros_like(gain), 0
        if not kernels and not own:
            continue
        stats[*norm, "mean"], stats[*norm, "var"] = -shift if kernels else zeros, jnp.full_like(gain, 1 - EPSILON)
        if own:
            leaves[*norm, "scale"], leaves[*norm, "bias"] = (ones, zeros) if kernels else (gain, shift)
        for path in kernels:
            kernel = leaves[path]
            part = gain[start : start + kernel.shape[-1]]
            leaves[path] = kernel * part.reshape((1,) * (kernel.ndim - 1) + (-1,))
            start += kernel.shape[-1]
    return unflatten_dict(leaves), unflatten_dict(stats)


def _kernels_before(norm: Path, leaves: Mapping[Path, Any], stats: Mapping[Path, Any]) -> list[Path]:
    """The kernels whose outputs, side by side, a batch norm reads."""
    around, number = norm[:-1], norm[-1].removeprefix("BatchNorm_")
    groups = sum(path[:-2] == (*around, "filter") for path in leaves)
    ways = [
        [("mix",)],  # of a convolution with attributes, as are the next two
        [("filter",)],
        [("filter", f"Conv_{group}") for group in range(groups)],
        [("Conv_0",), ("Conv_1",)] if (*around, "BatchNorm_1", "mean") not in stats else [],  # a factorised reduction
        [(f"Conv_{number}",)],
    ]
    kernels = ([(*around, *conv, "kernel") for conv in convs] for convs in ways)
    return next((paths for paths in kernels if paths and leaves.keys() >= set(paths)), [])


class IntegerLayer(NamedTuple):
    """A layer as integers: y = step scale sum over (x - zero) w."""

    weights: np.ndarray  # [..., out] int8
    scale: np.ndarray  # [out] float32
    step: np.float32  # of the inputs
    zero: int  # the int8 that stands for an input of 0
    first: int  # the least int8 of an input
    last: int  # the largest one


def integer_layers(
    params: PyTree, of: Units, methods: Sequence[Method], columns: np.ndarray, seen: Mapping[Path, Array]
) -> dict[Path, IntegerLayer]:
    """The layers of a found network under a policy, as integers with fixed ranges.

    Args:
      params: with the batch norms folded.
      of: the units of the network.
      methods: what the policy indexes.
      columns: `[num_units]`, concrete.
      seen: the ranges of all inputs, from `units.calibrate`.

    Returns:
      For the path of each layer its integers; a layer of 32 and 32 bits is left out and stays in floating point.

    Raises:
      ValueError: for a method that has no int8 product: more than 8 bits on one side, or powers of two of more than 4.
    """
    kernels: dict[Path, Any] = flatten_dict(params)
    found, chosen = {}, methods_of(of, methods, columns)
    for layer in of.layers:
        method = chosen[layer.path]
        if layer.path not in seen or (method.weight_bits, method.activation_bits) == (FLOAT, FLOAT):
            continue
        powers = method.mapping == "power_of_two"
        if max(method.weight_bits, method.activation_bits) > 8 or (powers and method.weight_bits > 4):
            raise ValueError(
                f"layer {'/'.join(layer.path)} is {method}, which has no product of int8: choose uniform widths of at "
                "most 8 bits, powers of two of at most 4, or 32 on both sides."
            )
        codes, scale = weight_codes(kernels[layer.kernel], method)
        if powers:
            most = 2 ** (method.weight_bits - 1) - 1
            magnitude = codes & most
            codes = np.where(magnitude > 0, 1 << np.maximum(magnitude - 1, 0), 0) * np.where(codes > most, -1, 1)
            scale = scale * np.float32(2.0 ** (1 - most))
        weights = codes.astype(np.int8)
        low, high = seen[layer.path]
        step, zero, most = affine_levels(low, high, jnp.float32(method.activation_bits))
        shift = 128 if method.activation_bits == 8 else 0
        found[layer.path] = IntegerLayer(weights, scale, np.float32(step), int(zero) - shift, -shift, int(most) - shift)
    return found


def integer_apply(
    net: FoundNetwork, params: PyTree, batch_stats: PyTree, layers: Mapping[Path, IntegerLayer]
) -> Callable[[Array], Array]:
    """The found network as a function from images to logits that multiplies integers.

    Args:
      net: a network of a fixed space.
      params: with the batch norms folded.
      batch_stats: that belong to them.
      layers: from `integer_layers`.

    Returns:
      `images [batch, height, width, channels] -> logits [batch, num_classes]`, for `jax.jit` or `jax.export`.
    """

    def replace(call, args, kwargs, context):
        module = context.module
        if context.method_name != "__call__" or not isinstance(module, (Conv, DepthwiseConv, Linear)):
            return call(*args, **kwargs)
        layer = layers.get(module.path)
        if layer is None:
            return call(*args, **kwargs)
        y = multiplied(module, layer, *args)
        return y + module.variables["params"]["Dense_0"]["bias"][None] if isinstance(module, Linear) else y

    def apply(images: Array) -> Array:
        with nn.intercept_methods(replace):
            logits: Any = net.apply({"params": params, "batch_stats": batch_stats}, images, train=False)
        return logits.main

    return apply


def multiplied(module: Conv | DepthwiseConv | Linear, layer: IntegerLayer, x: Array) -> Array:
    """What a layer makes of `[batch, ..., in]` in integers, without a bias: `[batch, ..., out]` float32."""
    levels = jnp.clip(jnp.round(x.astype(jnp.float32) / layer.step) + layer.zero, layer.first, layer.last)
    levels = levels.astype(jnp.int8)
    if isinstance(module, Linear):
        summed = lax.dot_general(levels, layer.weights, (((1,), (0,)), ((), ())), preferred_element_type=jnp.int32)
    else:
        summed = _convolve(levels, layer, module)
    offset = layer.zero * layer.weights.astype(np.int32).sum(tuple(range(layer.weights.ndim - 1)))
    offset = offset.reshape((1,) * (summed.ndim - 1) + (-1,)).astype(np.int32)
    factor = (layer.scale * layer.step).reshape(offset.shape)
    return (summed - offset).astype(jnp.float32) * factor


def _convolve(levels: Array, layer: IntegerLayer, module: Conv | DepthwiseConv) -> Array:
    deep = isinstance(module, DepthwiseConv)
    border = (module.size - 1) * module.dilation // 2
    padding = ((0, 0, 0), (border, border, 0), (border, border, 0), (0, 0, 0))
    return lax.conv_general_dilated(
        lax.pad(levels, jnp.int8(layer.zero), padding),  # an input of 0 is `zero` here
        jnp.asarray(layer.weights[:, :, None] if deep else layer.weights),
        (module.stride,) * 2,
        "VALID",
        rhs_dilation=(module.dilation,) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=levels.shape[-1] if deep else 1,
        preferred_element_type=jnp.int32,
    )


def weight_codes(kernel: Array | np.ndarray, method: Method) -> tuple[np.ndarray, np.ndarray]:
    """The levels of a kernel, those of `fake.quantise`, as integers of as many bits as the method has.

    Args:
      kernel: `[..., out]`.
      method: with at most 16 bits of weights.

    Returns:
      Of uniform levels signed integers, whose products with the scales are the levels. Of powers of two sign (the
      highest bit) and magnitude m, 0 for 0 and else for 2^(m - q) times the scale, q being the largest. And the scales,
      `[out]` float32.
    """
    kernel = jnp.asarray(kernel, jnp.float32)
    axes, most = tuple(range(kernel.ndim - 1)), 2 ** (method.weight_bits - 1) - 1
    powers = method.mapping == "power_of_two"
    reach = normal_range(kernel, jnp.float32(method.weight_bits), jnp.int32(powers), axes)
    reach = jnp.where(reach > 0, reach, jnp.ones_like(reach))
    if not powers:
        scale = reach / most
        codes = np.asarray(jnp.round(jnp.clip(kernel / scale, -most, most))).astype(np.int32)
        return codes, np.asarray(scale).reshape(-1)
    levels = np.asarray(power_through(jnp.clip(kernel / reach, -1, 1), jnp.float32(2.0 ** (1 - most))))
    magnitude = np.where(levels != 0, most - 1 + np.frexp(levels)[1], 0)
    return magnitude + (levels < 0) * (most + 1), np.asarray(reach).reshape(-1)
