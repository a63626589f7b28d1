"""Primitives with a lowering per platform, and triads of them that are closed under differentiation."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from jnas.nets.kernels.window import Geometry

Operation = Callable[..., jax.Array]
Shape = Callable[..., tuple[int, ...]]
Fold = tuple[tuple[int, int] | None, tuple[int, int] | None]


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
        The primitive; call it through `bind`.
    """
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(primitive.bind, static_argnames="geometry"))

    def abstract(*avals, geometry: Geometry):
        aval, dims = avals[0], shape(*avals, geometry=geometry)
        sharding = NamedSharding(aval.sharding.mesh, PartitionSpec(*[None] * len(dims)))
        # `update` keeps the axes of a shard_map over which the value varies.
        return aval.update(shape=dims, weak_type=False, sharding=sharding)

    primitive.def_abstract_eval(abstract)
    for operation, platform in ((other, None), (cpu, "cpu")):
        traced = jax.jit(operation, static_argnames="geometry")  # traced once for all its uses
        mlir.register_lowering(primitive, mlir.lower_fun(traced, multiple_results=False), platform=platform)
    return primitive


def bilinear_triad(
    name: str,
    forward: Operation,
    shapes: tuple[Shape, Shape, Shape],
    cpu: tuple[Operation, Operation, Operation],
    folds: tuple[Fold, Fold, Fold],
) -> Operation:
    """Makes y(x, w), dx(g, w) and dw(x, g), each with its transposes in the other two, and returns y.

    Use it for a bilinear operation whose own transposes are slow on some platform. Derivatives of every order, forward
    or reverse, and their vmaps then consist of these three. Under vmap an operand may gain a leading fifth axis, the
    stack; on CPU a loop runs over it, since a grouped convolution is slow there and a loop of these three is not.

    Args:
        name: Of y.
        forward: y as an ordinary convolution of four-dimensional operands; it and its transposes serve all platforms
            other than CPU.
        shapes: Of the results of the three, read from the last four dimensions of the operands.
        cpu: The three on CPU.
        folds: For each of the three and each operand, where that operand alone is batched: the axis of it, and of the
            result, that absorbs the batch; None where a stack has to be made.
    """

    def other_dx(g: jax.Array, w: jax.Array, *, geometry: Geometry) -> jax.Array:
        like = jax.ShapeDtypeStruct(shapes[1](g, w, geometry=geometry), g.dtype)
        return jax.linear_transpose(lambda x: forward(x, w, geometry=geometry), like)(g)[0]

    def other_dw(x: jax.Array, g: jax.Array, *, geometry: Geometry) -> jax.Array:
        like = jax.ShapeDtypeStruct(shapes[2](x, g, geometry=geometry), g.dtype)
        return jax.linear_transpose(lambda w: forward(x, w, geometry=geometry), like)(g)[0]

    def make(suffix: str, shape: Shape, on_cpu: Operation, other: Operation, fold: Fold) -> Primitive:
        def stacked(a, b, *, geometry: Geometry) -> tuple[int, ...]:
            stack = next((x.shape[:1] for x in (a, b) if x.ndim == 5), ())
            return (*stack, *shape(a, b, geometry=geometry))

        primitive = platform_primitive(name + suffix, stacked, _stackable(on_cpu, sequential_vmap), _stackable(other))
        batching.primitive_batchers[primitive] = functools.partial(_batch, primitive, fold)
        return primitive

    others = (forward, other_dx, other_dw)
    y, dx, dw = map(make, ("", "_dx", "_dw"), shapes, cpu, others, folds)
    _transposes(y, dx.bind, lambda ct, x, **p: dw.bind(x, ct, **p))
    _transposes(dx, y.bind, lambda ct, g, **p: dw.bind(ct, g, **p))
    _transposes(dw, lambda ct, g, **p: dx.bind(g, ct, **p), lambda ct, x, **p: y.bind(x, ct, **p))

    def operation(x: jax.Array, w: jax.Array, *, geometry: Geometry) -> jax.Array:
        # Inside shard_map both operands must vary over the same axes: else the transpose would miss the sum over
        # devices, and the gradient of replicated weights be wrong.
        own = [jax.typeof(operand).manual_axis_type.varying for operand in (x, w)]
        more = [tuple(sorted((own[0] | own[1]) - axes)) for axes in own]
        x, w = (lax.pcast(v, axes, to="varying") if axes else v for v, axes in zip((x, w), more, strict=True))
        return y.bind(x, w, geometry=geometry)

    return operation


def _transposes(primitive: Primitive, left: Operation, right: Operation) -> None:
    """Registers the transposes of `primitive(a, b)`: `left(ct, b)` is the one in a, `right(ct, a)` the one in b."""

    def fit(ct: jax.Array, operand: Any) -> jax.Array:
        # An operand without a stack is shared by all entries of the other one's.
        return ct.sum(0) if ct.ndim > operand.aval.ndim else ct

    ad.defbilinear(
        primitive,
        lambda ct, a, b, **p: fit(left(ct, b, **p), a),
        lambda ct, a, b, **p: fit(right(ct, a, **p), b),
    )


def _stackable(function: Operation, under_vmap: Callable[[Operation], Operation] = lambda single: single) -> Operation:
    """Extends a function of four-dimensional operands to stacks of them."""

    def operation(a: jax.Array, b: jax.Array, *, geometry: Geometry) -> jax.Array:
        single = functools.partial(function, geometry=geometry)
        axes = tuple(0 if x.ndim == 5 else None for x in (a, b))
        return single(a, b) if axes == (None, None) else jax.vmap(under_vmap(single), axes)(a, b)

    return operation


def _batch(primitive: Primitive, folds: Fold, operands, dims, *, geometry: Geometry):
    size = next(x.shape[dim] for x, dim in zip(operands, dims, strict=True) if dim is not None)
    ranks = [x.ndim - (dim is not None) for x, dim in zip(operands, dims, strict=True)]
    bind = functools.partial(primitive.bind, geometry=geometry)
    if 5 in ranks:  # a vmap of a vmap
        x, dim = next((x, dim) for x, dim, rank in zip(operands, dims, ranks, strict=True) if rank == 5)
        stack = x.shape[1 if dim == 0 else 0]
        stacks = (_restack(*item, stack, size) for item in zip(operands, dims, ranks, strict=True))
        return unfold(bind(*stacks), 0, size)
    lone = None if None not in dims else folds[0 if dims[1] is None else 1]
    if lone is None:
        return bind(*(x if dim is None else jnp.moveaxis(x, dim, 0) for x, dim in zip(operands, dims, strict=True))), 0
    axis, result = lone
    folded = (x if dim is None else fold(x, dim, axis, size) for x, dim in zip(operands, dims, strict=True))
    return unfold(bind(*folded), result, size)


def _restack(x: jax.Array, dim: int | None, rank: int, stack: int, size: int) -> jax.Array:
    """Merges a batched dimension into the stack, as its minor part; an operand with neither stays as it is."""
    if rank == 5:
        return fold(x, dim, 0, size)
    if dim is None:
        return x
    x = jnp.moveaxis(x, dim, 0)
    return jnp.broadcast_to(x, (stack, *x.shape)).reshape(-1, *x.shape[1:])


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
