"""Fake quantisation with traced widths and mappings: one compiled program serves every policy.

Values are rounded to the levels that an integer would have and stay floating-point numbers. Rounding passes derivatives
on as if it were not there, by `jax.custom_jvp`, so that Hessian-vector products through it are right too.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jnas.spaces.policy import FLOAT

UNIFORM, POWER_OF_TWO = 0, 1  # indices of `spaces.policy.MAPPINGS`

# The range beyond which it is best to cut a standard normal variable, for 2 to 8 bits: least mean square error of the
# levels that `quantise` has (found on a grid of 0.005). More than 3 bits of powers of two refine small values only, and
# the error stays at 0.038, against 0.013 of 4 uniform bits.
NORMAL_RANGE = ((1.225, 1.95, 2.475, 2.9, 3.27, 3.61, 3.92), (1.225, 2.075, 4.2, 4.2, 4.2, 4.2, 4.2))


class Rule(NamedTuple):
    """How one layer is quantised; layers find it in the collection `quant` and call it.

    Everything may be traced, and be a row of a stack of edges.
    """

    weight_bits: jax.Array  # [] float32, 2 to 16, or 32 for none
    mapping: jax.Array | None  # [] int32, of the weights: 0 uniform, 1 powers of two; None: uniform, a shorter program
    activation_bits: jax.Array  # [] float32
    activation_range: jax.Array | None = None  # [2] float32, least and largest; None: those of the batch

    def __call__(self, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The inputs and the kernel of the layer, rounded: one range a layer, and one an output channel.

        Symmetric levels a channel commute with a batch norm's scaling, so that folding it into the kernel changes
        nothing.

        Args:
          x: inputs, `[..., in]`.
          kernel: `[..., out]`.

        Returns:
          Both, rounded.
        """
        x = quantise_affine(x, self.activation_bits, limits=self.activation_range)
        return x, quantise(kernel, self.weight_bits, self.mapping, axes=tuple(range(kernel.ndim - 1)))


@jax.custom_jvp
def round_through(x: jax.Array) -> jax.Array:
    """Rounds to the nearest integer, halves to even, with the derivative of the identity.

    >>> jax.value_and_grad(round_through)(1.7)
    (Array(2., dtype=float32, weak_type=True), Array(1., dtype=float32, weak_type=True))
    """
    return jnp.round(x)


@jax.custom_jvp
def power_through(x: jax.Array, least: jax.Array) -> jax.Array:
    """Rounds to 0 or the nearest power of two that is at least `least`, with the derivative of the identity.

    Args:
      x: any shape.
      least: the smallest magnitude beside 0, a power of two.

    Returns:
      The shape of `x`.

    >>> power_through(jnp.array([0.9, -0.3, 0.1, 0.2]), 0.25).tolist()
    [1.0, -0.25, 0.0, 0.25]
    """
    fraction, exponent = jnp.frexp(jnp.abs(x))  # fraction in [1/2, 1)
    level = jnp.ldexp(jnp.ones_like(fraction), jnp.where(fraction > 0.75, exponent, exponent - 1))
    level = jnp.where(level < least, jnp.where(jnp.abs(x) > least / 2, least, jnp.zeros_like(level)), level)
    return jnp.sign(x) * level


round_through.defjvps(lambda tangent, *_: tangent)
power_through.defjvps(lambda tangent, *_: tangent, None)


def _cut(x: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    # `jnp.clip` halves the derivative of what lies on a bound, and the largest value always does.
    return jnp.where(x < low, low, jnp.where(x > high, high, x))


def normal_range(x: jax.Array, bits: jax.Array, mapping: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The range of symmetric levels: best for a normal variable of that mean square, or the largest magnitude if less.

    Args:
      x: values.
      bits: [] float32.
      mapping: [] int32.
      axes: over which values share a range.

    Returns:
      The shape of `x` with those axes of length 1; no derivative passes.
    """
    x = jax.lax.stop_gradient(x)
    column = jnp.clip(bits.astype(jnp.int32), 2, 8) - 2
    factor = jnp.asarray(NORMAL_RANGE, x.dtype)[mapping, column]
    return jnp.minimum(
        jnp.max(jnp.abs(x), axes, keepdims=True), factor * jnp.sqrt(jnp.mean(x * x, axes, keepdims=True))
    )


def quantise(
    x: jax.Array,
    bits: jax.Array,
    mapping: jax.Array | int | None = None,
    *,
    axes: tuple[int, ...] | None = None,
) -> jax.Array:
    r"""Rounds to levels that lie symmetrically around 0: what a weight goes through.

    With b bits there are 2^b - 1 levels, q = 2^(b-1) - 1 on each side of 0, and r the range:

        uniform        s round(cut(x / s, -q, q)),  s = r / q          halves to even
        power of two   0 and +-r 2^-k, k = 0 .. q - 1, the nearest, x cut to +-r

    The derivative in x is 1 inside the range and 0 outside. The range is that of `normal_range`.

    Args:
      x: values, floating point.
      bits: [] float32, 2 to 16; 32 and more return `x` bit for bit. May be traced.
      mapping: [] int32, see above. May be traced. None: uniform, which makes a shorter program.
      axes: over which values share a range: all but the last for one a channel; None: all.

    Returns:
      The shape and dtype of `x`.

    >>> quantise(jnp.array([-1.0, 0.1, 0.4, 1.0]), jnp.float32(3)).tolist()
    [-1.0, 0.0, 0.3333333432674408, 1.0]
    """
    bits, index = jnp.asarray(bits, x.dtype), jnp.asarray(UNIFORM if mapping is None else mapping, jnp.int32)
    axes = tuple(range(x.ndim)) if axes is None else axes
    most = jnp.round(jnp.exp2(jnp.minimum(bits, 16) - 1)) - 1  # on a CPU exp2(15) is 32767.984
    reach = normal_range(x, bits, index, axes)
    reach = jnp.where(reach > 0, reach, jnp.ones_like(reach))  # all values 0
    step = reach / most
    levels = step * round_through(_cut(x / step, -most, most))
    if mapping is not None:
        one = jnp.ones_like(most)
        powers = reach * power_through(_cut(x / reach, -one, one), jnp.exp2(1 - most))
        levels = jnp.where(index == POWER_OF_TWO, powers, levels)
    return jnp.where(bits >= FLOAT, x, levels)


def quantise_affine(x: jax.Array, bits: jax.Array, *, limits: jax.Array | None = None) -> jax.Array:
    r"""Rounds to 2^b equidistant levels from the least value to the largest, 0 among them: for activations.

        s = (high - low) / (2^b - 1),  z = round(-low / s);   s (cut(round(x / s) + z, 0, 2^b - 1) - z)

    The derivative in x is 1 inside the range and 0 outside.

    Args:
      x: values, floating point.
      bits: [] float32, 2 to 16; 32 and more return `x` bit for bit. May be traced.
      limits: `[2]`, low and high, widened to hold 0; None: of `x` itself.

    Returns:
      The shape and dtype of `x`.

    >>> quantise_affine(jnp.array([-1.0, 0.1, 2.0]), jnp.float32(2)).tolist()
    [-1.0, 0.0, 2.0]

    References:
      Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference", CVPR
      2018.
    """
    bits = jnp.asarray(bits, x.dtype)
    fixed = jax.lax.stop_gradient(x)
    least, largest = (jnp.min(fixed), jnp.max(fixed)) if limits is None else limits.astype(x.dtype)
    step, zero, most = affine_levels(least, largest, bits)
    # Cut before rounding: the same levels, and a derivative that knows the range.
    levels = step * round_through(_cut(x / step, -zero, most - zero))
    return jnp.where(bits >= FLOAT, x, levels)


def affine_levels(low: jax.Array, high: jax.Array, bits: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Step, zero point and number of the last level of `quantise_affine`.

    Args:
      low: [] least value.
      high: [] largest value.
      bits: [] float32.

    Returns:
      `(step, zero, last)`, each [].
    """
    low, high = jnp.minimum(low, 0), jnp.maximum(high, 0)
    most = jnp.round(jnp.exp2(jnp.minimum(bits, 16))) - 1
    step = (high - low) / most
    step = jnp.where(step > 0, step, jnp.ones_like(step))
    return step, jnp.round(-low / step), most
