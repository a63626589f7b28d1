"""What stands before and behind the cells: stems, the residual reduction, the classifier and the auxiliary head."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jnas.nets.layers import Conv, ConvNorm, Linear, at_least_float32, batch_norm


class SmallImageStem(nn.Module):
    """3x3 convolution and batch norm, the stem for CIFAR-sized images.

    Attributes:
      channels: of the output.
      dtype: of the computation.
    """

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        """Returns one state `[batch, height, width, channels]` from images `[batch, height, width, any]`."""
        return (ConvNorm(self.channels, 3, activate=False, dtype=self.dtype)(x, train),)


class ImageNetStem(nn.Module):
    """The two-step stem of DARTS for ImageNet: three 3x3 convolutions of stride 2, a state after the second and third.

    Attributes:
      channels: of both outputs.
      dtype: of the computation.
    """

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        """Returns states at 1/4 and 1/8 of the side of the images `[batch, height, width, any]`."""
        x = ConvNorm(self.channels // 2, 3, 2, activate=False, dtype=self.dtype)(x, train)
        first = ConvNorm(self.channels, 3, 2, dtype=self.dtype)(x, train)
        return first, ConvNorm(self.channels, 3, 2, dtype=self.dtype)(first, train)


class ResidualReduction(nn.Module):
    """The basic block of a ResNet at stride 2, which halves the resolution between the stages of NAS-Bench-201.

    ```
    y = ConvNorm3x3(ConvNorm3x3 stride 2(x)) + Conv1x1(average of 2x2 pixels of x)
    ```

    Attributes:
      channels: of the output.
      dtype: of the computation.
    """

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps `[batch, height, width, any]` to `[batch, ceil(height / 2), ceil(width / 2), channels]`."""
        y = ConvNorm(self.channels, 3, 2, dtype=self.dtype)(x, train)
        y = ConvNorm(self.channels, 3, dtype=self.dtype)(y, train)
        # A window that hangs over the edge averages the pixels it has, which is what repeating them comes to.
        batch, height, width, channels = x.shape
        x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        rows, columns = -(-height // 2), -(-width // 2)
        # Images and rows as one axis: apart, several runs at once have seven, at which jaxlib 0.10 has crashed on CPUs.
        shortcut = x.reshape(batch * rows, 2, columns, 2, channels).mean((1, 3)).reshape(batch, rows, columns, channels)
        return y + Conv(self.channels, dtype=self.dtype)(shortcut)


class Classifier(nn.Module):
    """Global average pooling and a linear layer.

    Attributes:
      num_classes: length of the output.
      normalise: put batch norm and ReLU first, as NAS-Bench-201 does.
      dtype: of the batch norm; average and logits are at least float32.
    """

    num_classes: int
    normalise: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, there: jax.Array | None = None) -> jax.Array:
        """Maps `[batch, height, width, channels]` to logits `[batch, num_classes]`; after ReLU times `there`."""
        if self.normalise:
            x = nn.relu(batch_norm(x, train, affine=True, dtype=self.dtype))
        x = x if there is None else x * there
        return Linear(self.num_classes)(_average(x))


class AuxiliaryHead(nn.Module):
    """The second classifier of DARTS, at two thirds of the depth, whose loss is added in retraining.

    ```
    ReLU, average pool to 2x2, 1x1 conv to 128, batch norm, ReLU, 2x2 conv to 768, batch norm, ReLU, linear
    ```
    The pool has windows of `ceil(5n/8)` pixels (at most `n - 1`) on a side of `n`, one at each end. For n = 8 these are
    the 5x5 windows at stride 3 of the head for CIFAR-10, for n = 7 those at stride 2 of the head for ImageNet.

    Attributes:
      num_classes: length of the output.
      normalise: whether the 2x2 convolution has a batch norm: yes for CIFAR-10; the head for ImageNet has none.
      dtype: of the computation; logits are at least float32.
    """

    num_classes: int
    normalise: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps `[batch, height, width, channels]`, sides of at least 2 pixels, to logits `[batch, num_classes]`."""
        if min(x.shape[1:3]) < 2:
            raise ValueError(f"the auxiliary head got {x.shape[1]}x{x.shape[2]} pixels and needs 2x2: turn it off.")
        rows, columns = map(_windows, x.shape[1:3])
        x = nn.relu(x)
        x = jnp.stack([jnp.stack([x[:, r, c].mean((1, 2)) for c in columns], axis=1) for r in rows], axis=1)
        x = ConvNorm(128, activate=False, dtype=self.dtype)(x, train)
        # On 2x2 pixels the 2x2 convolution is a 1x1 one whose input channels are the four pixels' together.
        x = Conv(768, dtype=self.dtype)(nn.relu(x).reshape(x.shape[0], 1, 1, -1))
        x = batch_norm(x, train, affine=True, dtype=self.dtype) if self.normalise else x
        return Linear(self.num_classes)(_average(nn.relu(x)))


def _average(x: jax.Array) -> jax.Array:
    """Mean over pixels, `[batch, channels]`, in at least float32."""
    return jnp.mean(x.astype(at_least_float32(x.dtype)), axis=(1, 2))


def _windows(side: int) -> tuple[slice, slice]:
    """The two windows of the auxiliary head's pool on a side of that many pixels."""
    size = min(-(-5 * side // 8), side - 1)
    return slice(size), slice(side - size, side)
