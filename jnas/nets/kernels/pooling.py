"""3x3 pooling whose derivatives of every order are sums of shifted images, fast on CPU and inside loops.

XLA:CPU differentiates a maximum over windows into a select-and-scatter, 15 times slower than the same gradient written
as nine shifted selections, and the transpose of a mean over windows is 3 times slower than nine shifted sums.
"""

import functools
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from jnas.nets.kernels.primitives import fold, platform_primitive, unfold
from jnas.nets.kernels.window import Geometry, apart, back_views, pad_reads, pad_writes, views, widened


def max_pool3(x: jax.Array, *, stride: int = 1) -> jax.Array:
    """Takes the maximum over 3x3 windows; padding is never chosen.

    The derivative of a window goes to the first of its largest pixels, row by row, as in PyTorch. Derivatives of every
    order are exact where no window has a tie.

    Args:
        x: Images, [batch, height, width, channels], floating point.
        stride: Pixels from one window to the next.

    Returns:
        [batch, ceil(height / stride), ceil(width / stride), channels].

    Raises:
        ValueError: If `x` is no batch of floating-point images, or `stride` is below 1.

    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> max_pool3(x, stride=2).ravel().tolist()
    [5.0, 7.0, 13.0, 15.0]
    """
    return _maximum(x, _geometry("max_pool3", x, stride))


def avg_pool3(x: jax.Array, *, stride: int = 1) -> jax.Array:
    """Takes the mean over 3x3 windows; padding is not counted.

    Args:
        x: Images, [batch, height, width, channels], floating point.
        stride: Pixels from one window to the next.

    Returns:
        [batch, ceil(height / stride), ceil(width / stride), channels].

    Raises:
        ValueError: If `x` is no batch of floating-point images, or `stride` is below 1.

    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> avg_pool3(x, stride=2).ravel().tolist()
    [2.5, 4.0, 8.5, 10.0]
    """
    geometry = _geometry("avg_pool3", x, stride)

    def count(size: int) -> np.ndarray:
        centre = np.arange(0, size, stride)
        return np.minimum(centre + 2, size) - np.maximum(centre - 1, 0)

    mean = 1.0 / np.outer(count(x.shape[1]), count(x.shape[2]))
    return _SUM.bind(x, geometry=geometry) * jnp.asarray(mean[None, :, :, None], x.dtype)


def _geometry(name: str, x: jax.Array, stride: int) -> Geometry:
    if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name}: got {x.dtype}{x.shape}: give floating-point [batch, height, width, channels].")
    if stride < 1:
        raise ValueError(f"{name}: stride={stride} must be at least 1.")
    return Geometry(3, stride, 1, x.shape[1], x.shape[2])


# ---- Maximum


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _maximum(x: jax.Array, geometry: Geometry) -> jax.Array:
    return _apart_on_cpu(_largest, pad_reads(x, geometry, fill=-np.inf), geometry)


def _apart_on_cpu(function: Callable[..., jax.Array], padded: jax.Array, geometry: Geometry) -> jax.Array:
    plain = functools.partial(function, geometry=geometry)
    return lax.platform_dependent(padded, cpu=functools.partial(apart(function), geometry=geometry), default=plain)


def _largest(padded: jax.Array, *, geometry: Geometry) -> jax.Array:
    return functools.reduce(jnp.maximum, views(padded, geometry))


@_maximum.defjvp
def _maximum_jvp(geometry: Geometry, primals: tuple[jax.Array], tangents: tuple[jax.Array]):
    (x,), (tangent,) = primals, tangents
    first = _argmax(lax.stop_gradient(x), geometry)
    return _maximum(x, geometry), _PICK.bind(tangent, first, geometry=geometry)


@functools.partial(jax.jit, static_argnums=1)
def _argmax(x: jax.Array, geometry: Geometry) -> jax.Array:
    return _apart_on_cpu(_first_largest, pad_reads(x, geometry, fill=-np.inf), geometry)


def _first_largest(padded: jax.Array, *, geometry: Geometry) -> jax.Array:
    """The first tap with the largest value, int8: 1 byte a pixel is all that the derivative keeps."""
    best, *others = views(padded, geometry)
    first = jnp.zeros(best.shape, jnp.int8)
    for tap, view in enumerate(others, start=1):
        first = jnp.where(view > best, jnp.int8(tap), first)
        best = jnp.maximum(view, best)
    return first


def _picked(padded: jax.Array, first: jax.Array, *, geometry: Geometry) -> jax.Array:
    zero = jnp.zeros((), padded.dtype)
    taps = enumerate(views(padded, geometry))
    return functools.reduce(operator.add, (jnp.where(first == jnp.int8(tap), view, zero) for tap, view in taps))


def _placed(padded: jax.Array, first: jax.Array, *, geometry: Geometry) -> jax.Array:
    zero = jnp.zeros((), padded.dtype)
    taps = enumerate(zip(back_views(padded, geometry), back_views(first, geometry), strict=True))
    return functools.reduce(operator.add, (jnp.where(at == jnp.int8(tap), view, zero) for tap, (view, at) in taps))


def _pick(picked: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return lambda t, first, *, geometry: picked(pad_reads(t, geometry), first, geometry=geometry)


def _place(placed: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return lambda g, first, *, geometry: placed(
        pad_writes(g, geometry), pad_writes(first, geometry, fill=-1), geometry=geometry
    )


# ---- Mean


def _box(padded: jax.Array, extent: tuple[int, int], stride: int) -> jax.Array:
    """Sums over 3x3 windows, rows first: 4 additions a pixel instead of 8."""
    for axis, outputs in zip((1, 2), extent, strict=True):
        ends = (start + (outputs - 1) * stride + 1 for start in range(3))
        shifted = (lax.slice_in_dim(padded, start, end, stride, axis) for start, end in enumerate(ends))
        padded = functools.reduce(operator.add, shifted)
    return padded


@apart
def _read_box(padded: jax.Array, *, geometry: Geometry) -> jax.Array:
    return _box(padded, geometry.outputs, geometry.stride)


@apart
def _write_box(padded: jax.Array, *, geometry: Geometry) -> jax.Array:
    return _box(padded, geometry.inputs, 1)


def _sum(x: jax.Array, *, geometry: Geometry) -> jax.Array:
    return _read_box(pad_reads(widened(x), geometry), geometry=geometry).astype(x.dtype)


def _spread(g: jax.Array, *, geometry: Geometry) -> jax.Array:
    return _write_box(pad_writes(widened(g), geometry), geometry=geometry).astype(g.dtype)


def _sum_other(x: jax.Array, *, geometry: Geometry) -> jax.Array:
    window, strides = (1, 3, 3, 1), (1, geometry.stride, geometry.stride, 1)
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, window, strides, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _spread_other(g: jax.Array, *, geometry: Geometry) -> jax.Array:
    like = jax.ShapeDtypeStruct((g.shape[0], *geometry.inputs, g.shape[3]), g.dtype)
    return jax.linear_transpose(functools.partial(_sum_other, geometry=geometry), like)(g)[0]


# ---- Primitives: two pairs, each the transpose of the other, linear in the first operand


def _output_shape(x, *_, geometry: Geometry) -> tuple[int, ...]:
    return (x.shape[0], *geometry.outputs, x.shape[3])


def _input_shape(g, *_, geometry: Geometry) -> tuple[int, ...]:
    return (g.shape[0], *geometry.inputs, g.shape[3])


def _linear(primitive: Primitive, transpose: Primitive, constants: int) -> None:
    def jvp(t, _, *rest, **params):
        return primitive.bind(t, *rest, **params)

    def transposed(ct, _, *rest, **params):
        return (ct if type(ct) is ad.Zero else transpose.bind(ct, *rest, **params), *[None] * constants)

    def batch(operands, dims, *, geometry: Geometry):
        size = next(x.shape[dim] for x, dim in zip(operands, dims, strict=True) if dim is not None)
        folded = [fold(x, dim, 0, size) for x, dim in zip(operands, dims, strict=True)]
        return unfold(primitive.bind(*folded, geometry=geometry), 0, size)

    ad.defjvp(primitive, jvp, *[None] * constants)
    ad.primitive_transposes[primitive] = transposed
    batching.primitive_batchers[primitive] = batch


_PICK = platform_primitive("max_pool3_pick", _output_shape, _pick(apart(_picked)), _pick(_picked))
_PLACE = platform_primitive("max_pool3_place", _input_shape, _place(apart(_placed)), _place(_placed))
_SUM = platform_primitive("sum_pool3", _output_shape, _sum, _sum_other)
_SPREAD = platform_primitive("sum_pool3_spread", _input_shape, _spread, _spread_other)
_linear(_PICK, _PLACE, constants=1)
_linear(_PLACE, _PICK, constants=1)
_linear(_SUM, _SPREAD, constants=0)
_linear(_SPREAD, _SUM, constants=0)
