"""Integers packed at their widths against Python's own, and the kernels that come out against fake quantisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas.nets.quant import packed
from jnas.nets.quant.fake import quantise
from jnas.spaces.policy import MAPPINGS, method_of


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("signed", [True, False])
def test_a_stream_is_one_long_number(bits, signed):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    ends = np.array([low, high - 1, 0])
    for count in (3, 8, 13):
        codes = np.append(ends, np.random.default_rng(count).integers(low, high, count - 3))
        number = sum((int(code) % 2**bits) << (bits * place) for place, code in enumerate(codes))
        stream = packed.pack(codes, bits)
        assert stream.dtype == np.uint8
        assert stream.tobytes() == number.to_bytes(-(-count * bits // 8), "little")
        found = packed.unpack(jnp.asarray(stream), bits, count, signed=signed)
        np.testing.assert_array_equal(found, codes)


@pytest.mark.parametrize(
    "name", [*(f"w{bits}a8" for bits in range(2, 9)), "w16a8", "w3a8-pow2", "w4a4-pow2", "w8a8-pow2"]
)
def test_kernels_come_back_on_the_levels_of_fake_quantisation(name):
    method = method_of(name)
    drawn = np.random.default_rng(1).normal(size=(3, 3, 5, 7)).astype(np.float32)
    drawn[..., 2] = 0  # a channel without weights
    params = {"a": {"kernel": drawn, "bias": drawn[0, 0, 0]}, "b": {"scale": np.ones(5, np.float32)}}
    (stream, numbers), unpack = packed.packed({"params": params}, {("a", "kernel"): method})
    assert stream.size == -(-drawn.size * method.weight_bits // 8)
    assert numbers.size == 7 + 7  # scales and biases; ones are no numbers to keep
    found = jax.jit(unpack)((stream, numbers))["params"]
    mapping = jnp.int32(MAPPINGS.index(method.mapping))
    expected = quantise(jnp.asarray(drawn), jnp.float32(method.weight_bits), mapping, axes=(0, 1, 2))
    np.testing.assert_allclose(found["a"]["kernel"], expected, rtol=3e-7, atol=0)
    np.testing.assert_array_equal(found["a"]["bias"], drawn[0, 0, 0])
    np.testing.assert_array_equal(found["b"]["scale"], np.ones(5))


def test_what_keeps_its_numbers_is_not_packed():
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    (stream, numbers), unpack = packed.packed({"params": {"kernel": kernel}}, {("kernel",): method_of("w32a8")})
    assert (stream.size, numbers.size) == (0, 6)
    np.testing.assert_array_equal(unpack((jnp.asarray(stream), jnp.asarray(numbers)))["params"]["kernel"], kernel)
