"""The weights of a quantised network as integers packed at their widths, and the way back inside a compiled program."""

import functools
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jnas.nets.quant.integer import weight_codes
from jnas.nets.quant.units import Path
from jnas.spaces.policy import FLOAT, UNQUANTISED, Method
from jnas.types import Array, PyTree


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Integers as a stream of bits, the least significant first; the last byte is filled up with zeros.

    Args:
      codes: `[count]` integers from -2^(bits - 1) to 2^bits - 1, negative ones as two's complement.
      bits: of each.

    Returns:
      `[ceil(count * bits / 8)]` uint8.

    >>> pack(np.array([1, -1, 2]), 3).tolist()
    [185, 0]
    """
    return np.packbits(((codes.reshape(-1, 1) >> np.arange(bits)) & 1).astype(np.uint8), bitorder="little")


def unpack(stream: Array, bits: int, count: int, *, signed: bool) -> Array:
    """The integers that `pack` was given.

    Args:
      stream: `[ceil(count * bits / 8)]` uint8.
      bits: of each.
      count: how many there are.
      signed: whether they are two's complements.

    Returns:
      `[count]` int32.

    >>> unpack(jnp.array([185, 0], jnp.uint8), 3, 3, signed=True).tolist()
    [1, -1, 2]
    """
    single = (stream[:, None] >> jnp.arange(8, dtype=jnp.uint8)[None]) & jnp.uint8(1)
    rows = single.reshape(-1)[: count * bits].reshape(count, bits).astype(jnp.int32)
    codes = jnp.sum(rows << jnp.arange(bits, dtype=jnp.int32)[None], axis=1, dtype=jnp.int32)
    return codes - ((codes >> (bits - 1)) << bits) if signed else codes


def packed(
    variables: Mapping[str, PyTree], methods: Mapping[Path, Method]
) -> tuple[tuple[np.ndarray, np.ndarray], Callable[[tuple[Array, Array]], dict[str, PyTree]]]:
    """The variables of a network as two arrays, and the function that makes them of the arrays.

    Args:
      variables: collections of nested dicts; what folding made constant is a constant of that function.
      methods: of the kernels among the `params`, by path; the other leaves stay as they are.

    Returns:
      `([num_bytes] uint8, [num_numbers] float32)`, and the function, for `jax.jit`.
    """
    parts = ([np.zeros(0, np.uint8)], [np.zeros(0, np.float32)])
    readers: dict[Path, Callable[[Array, Array], Array]] = {}

    def place(kind: int, array: np.ndarray) -> slice:
        start = sum(part.size for part in parts[kind])
        parts[kind].append(array.reshape(-1))
        return slice(start, start + array.size)

    for path, array in flatten_dict(variables).items():
        leaf = np.asarray(array, np.float32)
        method = methods.get(path[1:], UNQUANTISED) if path[0] == "params" else UNQUANTISED
        if method.weight_bits < FLOAT:
            codes, scale = weight_codes(leaf, method)
            where = place(0, pack(codes, method.weight_bits)), place(1, scale)
            readers[path] = functools.partial(_kernel, method, leaf.shape, *where)
        elif np.ptp(leaf) == 0:
            readers[path] = functools.partial(_constant, leaf)
        else:
            readers[path] = functools.partial(_plain, leaf.shape, place(1, leaf))

    def unpacked(arrays: tuple[Array, Array]) -> dict[str, PyTree]:
        return unflatten_dict({path: read(*arrays) for path, read in readers.items()})

    return (np.concatenate(parts[0]), np.concatenate(parts[1])), unpacked


def _kernel(method: Method, shape: tuple[int, ...], at: slice, scales: slice, stream: Array, numbers: Array) -> Array:
    """The very numbers that `fake.quantise` gives."""
    bits, most, powers = method.weight_bits, 2 ** (method.weight_bits - 1) - 1, method.mapping == "power_of_two"
    codes = unpack(stream[at], bits, int(np.prod(shape)), signed=not powers).reshape(shape)
    levels = codes.astype(jnp.float32)
    if powers:
        magnitude = codes & most
        level = jnp.where(magnitude > 0, jnp.ldexp(jnp.ones_like(levels), magnitude - most), jnp.zeros_like(levels))
        levels = jnp.where(codes > most, -level, level)
    return levels * numbers[scales].reshape((1,) * (len(shape) - 1) + (-1,))


def _constant(leaf: np.ndarray, stream: Array, numbers: Array) -> Array:
    return jnp.full(leaf.shape, leaf.flat[0])


def _plain(shape: tuple[int, ...], at: slice, stream: Array, numbers: Array) -> Array:
    return numbers[at].reshape(shape)
