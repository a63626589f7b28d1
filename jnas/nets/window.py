"""Windows that slide over images: their geometry, their shifted views, and primitives lowered per platform."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Operation = Callable[..., jax.Array]
Shape = Callable[..., tuple[int, ...]]


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


def reads(x: jax.Array, geometry: Geometry, *, fill: float = 0.0) -> list[jax.Array]:
    """What each tap of the window sees as the window visits every output.

    Args:
        x: Images, [batch, height, width, channels].
        geometry: Of the window.
        fill: The value of the padding.

    Returns:
        One array [batch, output height, output width, channels] a tap, in the order of `geometry.taps`.

    >>> import numpy as np
    >>> x = jnp.arange(3.0).reshape(1, 1, 3, 1)
    >>> [np.asarray(view).ravel().tolist() for view in reads(x, Geometry(3, 1, 1, 1, 3))[3:6]]
    [[0.0, 0.0, 1.0], [0.0, 1.0, 2.0], [1.0, 2.0, 0.0]]
    """
    padded, step = pad(x, fill, geometry.border), geometry.dilation
    return [_view(padded, i * step, j * step, geometry.outputs, geometry.stride) for i, j in geometry.taps]


def writes(g: jax.Array, geometry: Geometry, *, fill: float = 0.0) -> list[jax.Array]:
    """What each input pixel receives through each tap: the transpose of `reads`, tap by tap.

    Args:
        g: Cotangents of the outputs, [batch, output height, output width, channels].
        geometry: Of the window.
        fill: The value where no window puts that tap on the pixel.

    Returns:
        One array [batch, height, width, channels] a tap, in the order of `geometry.taps`.
    """
    padded = pad(g, fill, geometry.transposed_border, geometry.stride - 1)
    last, step = geometry.size - 1, geometry.dilation
    return [_view(padded, (last - i) * step, (last - j) * step, geometry.inputs, 1) for i, j in geometry.taps]


def widened(x: jax.Array) -> jax.Array:
    """Half-precision values as float32, in which sums of many terms are formed."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def platform_primitive(name: str, shape: Shape, cpu: Operation, other: Operation) -> Primitive:
    """Makes a primitive that has one lowering for CPU and another for all other platforms.

    Use it for a linear or bilinear operation whose derivatives are primitives again: JAX asks the primitive, not its
    lowering, for derivatives and batching rules, and the caller registers both.

    Args:
        name: What a jaxpr prints.
        shape: From the abstract operands and `geometry` to the shape of the result, which has the dtype of the first.
        cpu: The operation on arrays, with `geometry` as a keyword.
        other: The same, for CUDA, TPU and the rest.

    Returns:
        The primitive; bind it as `primitive.bind(*operands, geometry=...)`.
    """
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(primitive.bind, static_argnames="geometry"))
    primitive.def_abstract_eval(lambda *avals, geometry: ShapedArray(shape(*avals, geometry=geometry), avals[0].dtype))
    mlir.register_lowering(primitive, mlir.lower_fun(other, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(cpu, multiple_results=False), platform="cpu")
    return primitive


def bilinear_triad(
    name: str,
    forward: Operation,
    shapes: tuple[Shape, ...],
    cpu: tuple[Operation, ...],
    batchers: tuple[Callable[..., tuple[jax.Array, int]], ...],
) -> Primitive:
    """Builds y(x, w), dx(g, w) and dw(x, g), each with its transposes in the other two, and returns y.

    Args:
        name: Of y.
        forward: y as an ordinary convolution; its transposes serve the platforms other than CPU.
        shapes: Of the results of the three.
        cpu: The three on CPU.
        batchers: The batching rules of the three, with the primitive as first argument.
    """

    def other_dx(g: jax.Array, w: jax.Array, *, geometry: Geometry) -> jax.Array:
        like = jax.ShapeDtypeStruct(shapes[1](g, w, geometry=geometry), g.dtype)
        return jax.linear_transpose(lambda x: forward(x, w, geometry=geometry), like)(g)[0]

    def other_dw(x: jax.Array, g: jax.Array, *, geometry: Geometry) -> jax.Array:
        like = jax.ShapeDtypeStruct(shapes[2](x, g, geometry=geometry), g.dtype)
        return jax.linear_transpose(lambda w: forward(x, w, geometry=geometry), like)(g)[0]

    names, others = (name, f"{name}_dx", f"{name}_dw"), (forward, other_dx, other_dw)
    y, dx, dw = map(platform_primitive, names, shapes, cpu, others)
    ad.defbilinear(y, lambda ct, x, w, **p: dx.bind(ct, w, **p), lambda ct, x, w, **p: dw.bind(x, ct, **p))
    ad.defbilinear(dx, lambda ct, g, w, **p: y.bind(ct, w, **p), lambda ct, g, w, **p: dw.bind(ct, g, **p))
    ad.defbilinear(dw, lambda ct, x, g, **p: dx.bind(g, ct, **p), lambda ct, x, g, **p: y.bind(x, ct, **p))
    for primitive, batcher in zip((y, dx, dw), batchers, strict=True):
        batching.primitive_batchers[primitive] = functools.partial(batcher, primitive)
    return y


def fold(x: jax.Array, dim: int | None, axis: int, size: int) -> jax.Array:
    """Merges the batched dimension `dim` of `x` into `axis` of the unbatched array, as its minor part.

    Minor, so that a sharding of `axis` survives. With `dim=None` every entry is repeated `size` times.
    """
    if dim is None:
        x = jnp.expand_dims(x, axis + 1)
        x = jnp.broadcast_to(x, (*x.shape[: axis + 1], size, *x.shape[axis + 2 :]))
    else:
        x = jnp.moveaxis(x, dim, axis + 1)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def unfold(y: jax.Array, axis: int, size: int) -> tuple[jax.Array, int]:
    """Undoes `fold`: returns the array and the place of its batched dimension."""
    return y.reshape(*y.shape[:axis], -1, size, *y.shape[axis + 1 :]), axis + 1
