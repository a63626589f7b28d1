"""Layers the operators are made of: convolutions, batch norm and the linear layer, initialised as PyTorch does."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from jnas.nets.kernels.convolution import conv2d, depthwise2d


def fan_in(shape: tuple[int, ...]) -> int:
    """Number of inputs that one output of a kernel sums over.

    Args:
      shape: `(size, size, in, out)` of a convolution, `(size, size, channels)` of a depthwise one, `(in, out)` of a
        linear layer.

    Returns:
      The number.

    Example:
      >>> fan_in((3, 3, 16, 32)), fan_in((5, 5, 16)), fan_in((64, 10))
      (144, 25, 64)
    """
    return math.prod(shape[:2]) if len(shape) == 3 else math.prod(shape[:-1])


def fan_in_uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """PyTorch's default for kernels, which the published networks got: uniform on +-1/sqrt(fan_in).

    Args:
      key: a typed PRNG key.
      shape: of the kernel, see `fan_in`.
      dtype: of the kernel.

    Returns:
      A kernel of that shape and dtype.
    """
    bound = fan_in(shape) ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def at_least_float32(dtype: Any) -> Any:
    """The dtype for statistics, averages and logits of a computation in `dtype`.

    Args:
      dtype: a floating-point dtype.

    Returns:
      `dtype`, or float32 where that is narrower.

    Example:
      >>> at_least_float32(jnp.bfloat16).__name__
      'float32'
    """
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def batch_norm(x: jax.Array, train: bool, *, affine: bool, dtype: Any = jnp.float32) -> jax.Array:
    """Batch normalisation over examples and pixels; call it inside a compact method.

    Running statistics (collection `batch_stats`) follow `s <- 0.9 s + 0.1 batch`, epsilon is 1e-5. As everywhere in
    Flax the running variance averages the BIASED batch variance, the one that normalises; PyTorch's running average
    takes the unbiased one, n/(n-1) larger, n = batch * height * width.

    Where the mesh of the context spreads the examples over devices (`distributed.sharding.across`), a batch's mean and
    variance are taken around the running mean: equal but for rounding, which grows with the square of the distance of
    the two means in standard deviations.

    Args:
      x: `[batch, height, width, channels]`.
      train: normalise with the statistics of the batch and update the running ones, or else use the running ones.
      affine: learn a scale and a bias per channel. A search does without: they would rescale the operators whose
        weights alpha is to compare.
      dtype: of the result; statistics are at least float32.

    Returns:
      Normalised array of the shape of `x`.
    """
    return BatchNorm(affine, dtype)(x, train)


class BatchNorm(nn.Module):
    """The module of `batch_norm`."""

    affine: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises `[batch, height, width, channels]`."""
        wide, shape = at_least_float32(self.dtype), x.shape[-1:]
        running = self.variable("batch_stats", "mean", jnp.zeros, shape, wide)
        spread = self.variable("batch_stats", "var", jnp.ones, shape, wide)
        x, mean, variance = x.astype(wide), running.value, spread.value
        if train:
            # Named, so that a backward pass does not compute again what took a sum over all devices.
            mean, variance = checkpoint_name(moments(x, running.value), "statistics")
            if not self.is_initializing():
                running.value = 0.9 * running.value + 0.1 * mean
                spread.value = 0.9 * spread.value + 0.1 * variance
        factor, bias = jax.lax.rsqrt(variance + 1e-5), None
        if self.affine:
            factor *= self.param("scale", nn.initializers.ones, shape, wide)
            bias = self.param("bias", nn.initializers.zeros, shape, wide)
        y = (x - mean[None, None, None]) * factor[None, None, None]
        return (y if bias is None else y + bias[None, None, None]).astype(self.dtype)


def moments(x: jax.Array, near: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance [channels]; `near` is a constant not many standard deviations away from the mean."""
    mesh, axes = jax.sharding.get_abstract_mesh(), (0, 1, 2)
    if all(mesh.shape[axis] == 1 for axis in mesh.auto_axes):
        # E[(x - E x)^2], not E[x^2] - (E x)^2: no cancellation where the mean is large, no clipping at 0 with its
        # kink in second derivatives, and on XLA:CPU gradients through it take 0.66 to 0.76 of the time.
        mean = x.mean(axes)
        return mean, jnp.square(x - mean[None, None, None]).mean(axes)
    # Across devices: sums that do not wait for one another, so that one collective serves both, forwards and backwards.
    apart = x - near[None, None, None]
    first, second = apart.mean(axes), jnp.square(apart).mean(axes)
    variance = second - jnp.square(first)
    # Rounding may take the variance of a constant below 0; derivatives are those without the clip.
    return near + first, variance + jax.lax.stop_gradient(jnp.maximum(variance, 0) - variance)


def quantised(module: nn.Module, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The inputs and the kernel of a layer, as its rule makes them where the collection `quant` holds one.

    A rule is a function of both, such as `quant.fake.Rule`.

    With the collection `ranges` mutable, the least and the largest input are noted there.

    Args:
      module: the layer, in a compact method.
      x: `[..., in]`.
      kernel: `[..., out]` float32.

    Returns:
      Both, unchanged without a rule.
    """
    if module.is_mutable_collection("ranges") and not module.is_initializing():
        seen = x.astype(jnp.float32)
        module.sow("ranges", "input", jnp.stack([seen.min(), seen.max()]))
    if not module.has_variable("quant", "rule"):
        return x, kernel
    wide = at_least_float32(x.dtype)
    levels, kernel = module.get_variable("quant", "rule")(x.astype(wide), kernel)
    return levels.astype(x.dtype), kernel


class Conv(nn.Module):
    """Dense convolution with symmetric padding and no bias.

    Attributes:
      channels: of the output.
      size: side of the square kernel in pixels.
      stride: in pixels.
      dilation: distance of neighbouring taps in pixels.
      dtype: of the computation; the kernel `[size, size, in, channels]` is kept in float32.
    """

    channels: int
    size: int = 1
    stride: int = 1
    dilation: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves `[batch, height, width, in]`; a side of `n` pixels becomes `ceil(n / stride)` for odd sizes."""
        kernel = self.param("kernel", fan_in_uniform, (self.size, self.size, x.shape[-1], self.channels))
        x, kernel = quantised(self, x, kernel)
        return conv2d(x, kernel.astype(self.dtype), stride=self.stride, dilation=self.dilation)


class DepthwiseConv(nn.Module):
    """Depthwise convolution, one filter a channel, with symmetric padding and no bias.

    Attributes:
      size: side of the square kernel in pixels.
      stride: in pixels.
      dilation: distance of neighbouring taps in pixels.
      dtype: of the computation; the kernel `[size, size, channels]` is kept in float32.
    """

    size: int
    stride: int = 1
    dilation: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Filters `[batch, height, width, channels]`; a side of `n` pixels becomes `ceil(n / stride)`."""
        # Every filter sees size^2 values, which is also the fan-in that the initialiser reads off this shape.
        kernel = self.param("kernel", fan_in_uniform, (self.size, self.size, x.shape[-1]))
        x, kernel = quantised(self, x, kernel)
        return depthwise2d(x, kernel.astype(self.dtype), stride=self.stride, dilation=self.dilation)


class ConvNorm(nn.Module):
    """ReLU, convolution, batch norm: `nor_conv` of NAS-Bench-201, `ReLUConvBN` of DARTS, and the stems without ReLU.

    Attributes:
      channels: of the output.
      size: side of the square kernel in pixels.
      stride: in pixels.
      activate: whether a ReLU comes first.
      affine: whether the batch norm learns scale and bias.
      dtype: of the computation.
    """

    channels: int
    size: int = 1
    stride: int = 1
    activate: bool = True
    affine: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps `[batch, height, width, in]` to `[batch, ceil(height / stride), ceil(width / stride), channels]`."""
        x = nn.relu(x) if self.activate else x
        x = Conv(self.channels, self.size, self.stride, dtype=self.dtype)(x)
        return batch_norm(x, train, affine=self.affine, dtype=self.dtype)


class Linear(nn.Module):
    """Linear classifier with bias, both initialised uniformly on +-1/sqrt(fan_in) as PyTorch does.

    Attributes:
      num_classes: length of the output.
    """

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps features `[batch, in]` to logits `[batch, num_classes]` in at least float32."""
        bound = x.shape[-1] ** -0.5
        dtype = at_least_float32(x.dtype)

        def bias(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        def product(x, kernel, dimensions, precision=None, **_):
            return jax.lax.dot_general(*quantised(self, x, kernel), dimensions, precision)

        dense = nn.Dense(self.num_classes, True, dtype, kernel_init=fan_in_uniform, bias_init=bias, dot_general=product)
        return dense(x.astype(dtype))
