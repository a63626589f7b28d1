"""Windows that slide over images: their geometry and their shifted views."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata


class Geometry(NamedTuple):
    """The static description of a square window on an image with symmetric padding."""

    size: int  # of the window, odd
    stride: int
    dilation: int
    height: int  # of the input
    width: int

    @property
    def reach(self) -> int:
        """Pixels from the first tap of the window to the last."""
        return (self.size - 1) * self.dilation

    @property
    def padding(self) -> int:
        """Pixels of padding on each side."""
        return self.reach // 2

    @property
    def border(self) -> list[tuple[int, int]]:
        """Padding before and after the rows, and the columns."""
        return [(self.padding, self.padding)] * 2

    @property
    def inputs(self) -> tuple[int, int]:
        """Height and width of the input."""
        return self.height, self.width

    @property
    def outputs(self) -> tuple[int, int]:
        """Height and width of the output."""
        return -(-self.height // self.stride), -(-self.width // self.stride)

    @property
    def spans(self) -> tuple[int, int]:
        """Height and width of the output dilated by the stride: from the first window's centre to the last one's."""
        return (self.outputs[0] - 1) * self.stride + 1, (self.outputs[1] - 1) * self.stride + 1

    @property
    def transposed_border(self) -> list[tuple[int, int]]:
        """Padding of the dilated output for which a pass with stride 1 is as large as the input."""
        low = self.reach - self.padding
        return [(low, n + self.padding - span) for n, span in zip(self.inputs, self.spans, strict=True)]

    @property
    def taps(self) -> list[tuple[int, int]]:
        """The positions in the window, row by row."""
        return [(i, j) for i in range(self.size) for j in range(self.size)]


def pad(x: jax.Array, value: float, border: list[tuple[int, int]], between: int = 0) -> jax.Array:
    """Pads rows and columns of images with `border` pixels around them and `between` pixels inside."""
    rows, columns = ((*edges, between) for edges in border)
    return lax.pad(x, jnp.asarray(value, x.dtype), ((0, 0, 0), rows, columns, (0, 0, 0)))


def _view(padded: jax.Array, row: int, column: int, extent: tuple[int, int], stride: int) -> jax.Array:
    limits = (row + (extent[0] - 1) * stride + 1, column + (extent[1] - 1) * stride + 1)
    return lax.slice(padded, (0, row, column, 0), (padded.shape[0], *limits, padded.shape[3]), (1, stride, stride, 1))


def pad_reads(x: jax.Array, geometry: Geometry, *, fill: float = 0.0) -> jax.Array:
    """The images with the border that `views` wants."""
    return pad(x, fill, geometry.border)


def views(padded: jax.Array, geometry: Geometry) -> list[jax.Array]:
    """What each tap of the window sees as the window visits every output, of images that have their border.

    One array `[batch, output height, output width, channels]` a tap, in the order of `geometry.taps`.

    >>> import numpy as np
    >>> x, window = jnp.arange(3.0).reshape(1, 1, 3, 1), Geometry(3, 1, 1, 1, 3)
    >>> [np.asarray(view).ravel().tolist() for view in views(pad_reads(x, window), window)[3:6]]
    [[0.0, 0.0, 1.0], [0.0, 1.0, 2.0], [1.0, 2.0, 0.0]]
    """
    step = geometry.dilation
    return [_view(padded, i * step, j * step, geometry.outputs, geometry.stride) for i, j in geometry.taps]


def pad_writes(g: jax.Array, geometry: Geometry, *, fill: float = 0.0) -> jax.Array:
    """The cotangents with the border, and the gaps of the stride, that `back_views` wants."""
    return pad(g, fill, geometry.transposed_border, geometry.stride - 1)


def back_views(padded: jax.Array, geometry: Geometry) -> list[jax.Array]:
    """What each input pixel receives through each tap: the transpose of `views`, tap by tap."""
    last, step = geometry.size - 1, geometry.dilation
    return [_view(padded, (last - i) * step, (last - j) * step, geometry.inputs, 1) for i, j in geometry.taps]


def widened(x: jax.Array) -> jax.Array:
    """Half-precision values as float32, in which sums of many terms are formed."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def apart(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps XLA from fusing an operation on shifted views with what stands around it.

    XLA:CPU would join the stencils of all candidates of an edge, and the sums behind them, in one loop with dozens of
    operands, which LLVM does not vectorise: 5 times slower. An optimisation barrier is dropped before fusion on a CPU;
    a call that may not be inlined stays. Borders belong outside: one pass with what makes the images, one border for
    all that need it.

    Args:
      operation: of arrays, with the keyword `geometry`.

    Returns:
      The same operation.
    """
    called = jax.jit(operation, static_argnames="geometry")

    def call(*operands: jax.Array, geometry: Geometry) -> Any:
        with set_xla_metadata(inlineable="false"):
            return called(*operands, geometry=geometry)

    return call
