"""The candidate operators of DARTS, NAS-Bench-201 and the reduced spaces, as Flax modules."""

import functools
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jnas.nets.kernels.pooling import avg_pool3, max_pool3
from jnas.nets.layers import Conv, ConvNorm, DepthwiseConv, batch_norm
from jnas.spaces.cell import NOISE, NONE
from jnas.spaces.operators import Operator


class SeparableConv(nn.Module):
    """(ReLU, depthwise, 1x1, batch norm), repeated: twice it is `sep_conv`, once with dilation 2 `dil_conv`.

    Attributes:
      channels: of the output.
      size: side of the depthwise kernel in pixels.
      stride: of the first repetition, in pixels.
      dilation: of the depthwise kernel.
      repeats: number of repetitions.
      affine: whether the batch norms learn scale and bias.
      dtype: of the computation.
    """

    channels: int
    size: int
    stride: int = 1
    dilation: int = 1
    repeats: int = 2
    affine: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps `[batch, height, width, in]` to `[batch, ceil(height / stride), ceil(width / stride), channels]`."""
        for repeat in range(self.repeats):
            stride = self.stride if repeat == 0 else 1
            x = DepthwiseConv(self.size, stride, self.dilation, self.dtype)(nn.relu(x))
            x = Conv(self.channels, dtype=self.dtype)(x)
            x = batch_norm(x, train, affine=self.affine, dtype=self.dtype)
        return x


class FactorizedReduce(nn.Module):
    """Halves the resolution: ReLU, two 1x1 convolutions of stride 2, the second shifted by a pixel, joined, batch norm.

    A side of odd length is padded by one row of zeros at its end, so that both halves have `ceil(n / 2)` pixels (as
    NAS-Bench-201 does; DARTS, which never meets an odd side, would fail). For an even side nothing changes.

    Attributes:
      channels: of the output.
      affine: whether the batch norm learns scale and bias.
      dtype: of the computation.
    """

    channels: int
    affine: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps `[batch, height, width, in]` to `[batch, ceil(height / 2), ceil(width / 2), channels]`."""
        x = nn.relu(x)
        height, width = x.shape[1:3]
        shifted = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))[:, 1::2, 1::2]
        half = self.channels // 2
        x = jnp.concatenate(
            [Conv(half, dtype=self.dtype)(x[:, ::2, ::2]), Conv(self.channels - half, dtype=self.dtype)(shifted)],
            axis=-1,
        )
        return batch_norm(x, train, affine=self.affine, dtype=self.dtype)


class Pool(nn.Module):
    """3x3 pooling with padding 1; padded pixels are neither chosen nor counted.

    Attributes:
      kind: "max" or "avg".
      stride: in pixels.
      normalise: append a batch norm without scale and bias, as the supernet of DARTS does: pooled values are
        otherwise not on the scale of the other candidates' normalised ones.
      dtype: of the computation.
    """

    kind: Literal["max", "avg"]
    stride: int = 1
    normalise: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Pools `[batch, height, width, channels]`; a side of `n` pixels becomes `ceil(n / stride)`."""
        x = max_pool3(x, stride=self.stride) if self.kind == "max" else avg_pool3(x, stride=self.stride)
        return batch_norm(x, train, affine=False, dtype=self.dtype) if self.normalise else x


class Identity(nn.Module):
    """Returns its input: `skip_connect` where the resolution stays."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns `x` `[batch, height, width, channels]`."""
        return x


class Zero(nn.Module):
    """Returns zeros: `none`. Cells leave it out of their sums; it exists for whoever wants the operator by itself.

    Attributes:
      stride: in pixels.
    """

    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Zeros of the shape of `x` `[batch, height, width, channels]` at the stride."""
        return jnp.zeros_like(x[:, :: self.stride, :: self.stride])


def noise_key(module: nn.Module, train: bool) -> jax.Array:
    """The key of noise inside a module: of the stream "drop_path", or of the module's place where there is none."""
    if train or module.has_rng("drop_path"):
        return module.make_rng("drop_path")
    return jax.random.key(zlib.crc32("/".join(map(str, module.path)).encode()))


class Noise(nn.Module):
    """Returns standard normal noise in place of its input, the harmful operator of the space S4.

    The noise comes from the random stream "drop_path", in training and in evaluation, as in RobustDARTS. An evaluation
    without that stream gets a fixed draw for each place in the network: deterministic, yet of the distribution that the
    following batch norms were trained on.

    Attributes:
      stride: in pixels.

    Reference:
      Zela et al., "Understanding and robustifying differentiable architecture search", ICLR 2020.
    """

    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Noise of the shape of `x` `[batch, height, width, channels]` at the stride."""
        key = noise_key(self, train)
        return jax.random.normal(key, x[:, :: self.stride, :: self.stride].shape, x.dtype)


def _skip(channels: int, stride: int, *, affine: bool = True, dtype: Any = jnp.float32) -> nn.Module:
    return Identity() if stride == 1 else FactorizedReduce(channels, affine, dtype)


def _pool(kind: Literal["max", "avg"]) -> Operator:
    def make(channels: int, stride: int, *, normalise_pools: bool = False, dtype: Any = jnp.float32) -> Pool:
        return Pool(kind, stride, normalise_pools, dtype)

    return Operator(f"{kind}_pool_3x3", make, ("normalise_pools", "dtype"), loops=True, shared=True)


def _convolutions(size: int) -> tuple[Operator, ...]:
    def separable(channels, stride, *, affine=True, dtype=jnp.float32, dilation=1, repeats=2) -> nn.Module:
        return SeparableConv(channels, size, stride, dilation, repeats, affine, dtype)

    def dense(channels: int, stride: int, *, affine: bool = True, dtype: Any = jnp.float32) -> nn.Module:
        return ConvNorm(channels, size, stride, affine=affine, dtype=dtype)

    made = {"sep": separable, "dil": functools.partial(separable, dilation=2, repeats=1), "nor": dense}
    return tuple(
        Operator(f"{kind}_conv_{size}x{size}", make, ("affine", "dtype"), loops=True) for kind, make in made.items()
    )


# The built-in operators by their names. `none` is the absence of an edge; one of a user's own is a value of this kind.
OPERATORS: dict[str, Operator] = {
    op.name: op
    for op in (
        Operator(NONE, lambda channels, stride: Zero(stride), loops=True, passes=False),
        Operator(NOISE, lambda channels, stride: Noise(stride), loops=True, random=True, passes=False),
        Operator("skip_connect", _skip, ("affine", "dtype"), loops=True),
        _pool("max"),
        _pool("avg"),
        *(op for size in range(1, 100, 2) for op in _convolutions(size)),
    )
}


def operator_of(name: str, own: Sequence[Operator] = ()) -> Operator:
    """The operator of a name.

    ```
    sep_conv_KxK  (ReLU, depthwise KxK, 1x1, batch norm) twice
    dil_conv_KxK   ReLU, depthwise KxK with dilation 2, 1x1, batch norm
    nor_conv_KxK   ReLU, dense KxK, batch norm
    skip_connect   identity, or FactorizedReduce where the stride is 2
    max_pool_3x3, avg_pool_3x3, none, noise
    ```

    Args:
      name: of a built-in operator, K an odd number below 100, or of one of `own`.
      own: the user's own, of `CellSpace.operators`.

    Returns:
      The operator.

    Raises:
      ValueError: if the operator is unknown, or one of the user's own has the name of a built-in one.

    Example:
      >>> operator_of("sep_conv_3x3").make(16, 1).channels
      16

    Reference:
      Liu, Simonyan, Yang, "DARTS", ICLR 2019; Dong, Yang, "NAS-Bench-201", ICLR 2020.
    """
    carried = {op.name: op for op in own}
    if name in carried and name in OPERATORS:
        raise ValueError(f"operator {name!r} is built in: give yours another name.")
    found = carried.get(name) or OPERATORS.get(name)
    if found is None:
        raise ValueError(
            f"unknown operator {name!r}: use none, noise, skip_connect, max_pool_3x3, avg_pool_3x3, or sep_conv_KxK, "
            "dil_conv_KxK, nor_conv_KxK with an odd K, or carry one of your own (spaces.extend)."
        )
    return found


def operator(
    op: str | Operator,
    *,
    channels: int,
    stride: int = 1,
    affine: bool = True,
    normalise_pools: bool = False,
    dtype: Any = jnp.float32,
    name: str | None = None,
) -> nn.Module:
    """Builds one candidate operator; call the module as `module(x, train)`.

    Args:
      op: the operator, or the name of a built-in one, see `operator_of`.
      channels: of input and output.
      stride: 1 or 2, in pixels.
      affine: whether batch norms learn scale and bias.
      normalise_pools: whether a batch norm follows a pool.
      dtype: of the computation; parameters are float32.
      name: of the module inside its parent.

    Returns:
      A module that maps `[batch, height, width, channels]` to the same shape at the stride.

    Raises:
      ValueError: if the operator is unknown.

    Example:
      >>> operator("dil_conv_5x5", channels=16).dilation
      2
      >>> operator("skip_connect", channels=16, stride=2).__class__.__name__
      'FactorizedReduce'
    """
    found = op if isinstance(op, Operator) else operator_of(op)
    values: dict[str, Any] = {"affine": affine, "normalise_pools": normalise_pools, "dtype": dtype}
    module = found.make(channels, stride, **{setting: values[setting] for setting in found.settings})
    # A copy, for modules that `make` put inside belong to this one and not to the module that is being built.
    return module if name is None else module.copy(name=name)


def apply_operator(
    around: Any, op: Operator, x: jax.Array, train: bool, *, stride: int, name: str
) -> tuple[jax.Array, nn.Module]:
    """What an operator inside a cell or an edge makes of a state, held to what operators promise.

    Args:
      around: the module that it stands in, with `channels`, `affine`, `normalise_pools` and `dtype`.
      op: the operator.
      x: `[batch, height, width, channels]`.
      train: use and update the statistics of the batch.
      stride: in pixels.
      name: of the operator's module in the one around it.

    Returns:
      `[batch, ceil(height / stride), ceil(width / stride), channels]` of the dtype around, and the operator's module.

    Raises:
      ValueError: if the module gives another shape.
    """
    module = operator(
        op, channels=around.channels, stride=stride, affine=around.affine, normalise_pools=around.normalise_pools,
        dtype=around.dtype, name=name,
    )  # fmt: skip
    y = module(x, train)
    shape = (x.shape[0], -(-x.shape[1] // stride), -(-x.shape[2] // stride), around.channels)
    if y.shape != shape:
        raise ValueError(f"operator {name!r} makes {y.shape} of {x.shape}: with stride {stride} return {shape}.")
    return y.astype(around.dtype), module
