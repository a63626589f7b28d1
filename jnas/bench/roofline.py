"""How much arithmetic a program asks for, counted on its jaxpr, and how near to the machine's ceilings it runs.

The compiler's own analysis counts the body of a loop once, however often it runs, and what a supernet does stands
inside loops. So the count is made here, before compilation, with every loop's body times its trips.

Counted, a multiply-add as two operations:

- `dot_general`: 2 x batch x rows x columns x contracted;
- `conv_general_dilated`, `conv2d` and `depthwise2d` of jnas with their transposes `_dx` and `_dw`: 2 for each pair of a
  result and a tap of its window that meets an input pixel, so that padding and dilation cost nothing;
- the sums and selections of pooling (`sum_pool3`, `max_pool3_pick` and their transposes): 1 for each such pair.

Not counted: elementwise operations, reductions, gathers, random numbers, and whatever the platform's lowering does
beyond the definition. Results that nothing reads are left out, as the compiler leaves them out; what
rematerialisation computes twice is counted twice; of a `cond` the branch with the most operations is counted.

Bytes are those that the counted operations must read and write if each operand and each result passes through memory
once and everything elementwise is fused: a lower bound of the traffic.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters import partial_eval


class Work(NamedTuple):
    """What a program asks for."""

    flops: float
    bytes: float
    assumed_loops: int = 0  # loops whose trips only the run decides: counted with the `trips` that were given
    uncounted: frozenset[str] = frozenset()  # operations on windows that are not in the table above

    def __add__(self, other: "Work") -> "Work":  # type: ignore[override]
        """Do both."""
        return Work(
            self.flops + other.flops,
            self.bytes + other.bytes,
            self.assumed_loops + other.assumed_loops,
            self.uncounted | other.uncounted,
        )

    def repeated(self, times: float) -> "Work":
        """Do it a number of times."""
        return self._replace(flops=self.flops * times, bytes=self.bytes * times)


class Ceilings(NamedTuple):
    """What a machine can do at most, as measured on it."""

    flops_per_s: float  # of a large matrix product
    bytes_per_s: float  # read and written by a copy too large for the caches

    def least_seconds(self, work: Work) -> float:
        """The time below which the machine cannot do the work: that of its arithmetic or of its traffic.

        >>> Ceilings(100.0, 10.0).least_seconds(Work(flops=50.0, bytes=20.0))
        2.0
        """
        return max(work.flops / self.flops_per_s, work.bytes / self.bytes_per_s)


NOTHING = Work(0.0, 0.0)


def count(program: ClosedJaxpr | Jaxpr, *, trips: Sequence[float] = (1,)) -> Work:
    """Count the arithmetic of a program.

    Args:
      program: `jax.make_jaxpr(f)(...)`, or the `.jaxpr` of `jax.jit(f).trace(...)`.
      trips: how often a loop runs whose trips the jaxpr does not say (`while`, `fori_loop` with a traced bound): the
        first for outermost loops, the next for loops inside those, the last for all below; a fraction is a mean.

    Returns:
      The work.

    Raises:
      ValueError: if `trips` is empty.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> count(jax.make_jaxpr(jnp.dot)(jnp.ones((2, 3)), jnp.ones((3, 4)))).flops
    48.0
    """
    if not trips:
        raise ValueError("trips is empty: give at least one number, for the loops whose trips are unknown")
    return _count(_used(program.jaxpr if isinstance(program, ClosedJaxpr) else program), tuple(trips))


def _used(jaxpr: Any) -> Any:
    """The program without what leads to none of its results."""
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def _count(jaxpr: Any, trips: tuple[float, ...]) -> Work:
    total = NOTHING
    for equation in jaxpr.eqns:
        total += _one(equation, trips)
    return total


def _one(equation: Any, trips: tuple[float, ...]) -> Work:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return _count(params["jaxpr"].jaxpr, trips).repeated(params["length"])
    if name == "while":
        # JAX 0.10 leaves what is unused inside these loops, JAX 0.12 takes it away; the compiler does in any case.
        parts = [_used(params[part].jaxpr) for part in ("body_jaxpr", "cond_jaxpr")]
        body = _count(parts[0], trips[1:] or trips) + _count(parts[1], trips[1:] or trips)
        return body.repeated(trips[0])._replace(assumed_loops=body.assumed_loops + (body.flops > 0))
    if name == "cond":
        return max((_count(branch.jaxpr, trips) for branch in params["branches"]), key=lambda work: work.flops)
    inner = [jaxpr for value in params.values() for jaxpr in _jaxprs(value)]
    if inner:  # jit, remat, custom rules: the same arithmetic in a wrapping
        return _count(inner[0], trips)
    flops_of = _FLOPS.get(name)
    if flops_of is None:
        return NOTHING._replace(uncounted=frozenset({name})) if "geometry" in params else NOTHING
    arrays = [v.aval for v in (*equation.invars, *equation.outvars)]
    return Work(float(flops_of(equation)), float(sum(a.size * a.dtype.itemsize for a in arrays)))


def _jaxprs(value: Any) -> list[Any]:
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    return [value] if isinstance(value, Jaxpr) else []


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * equation.outvars[0].aval.size * np.prod([left[axis] for axis in contracted], dtype=float)


@functools.cache
def pairs(inputs: int, outputs: int, taps: int, stride: int, low: int, spread: int, dilation: int) -> int:
    """How many pairs of an output and a tap of its window meet an input, along one axis.

    Args:
      inputs: pixels.
      outputs: windows.
      taps: of a window.
      stride: from one window to the next.
      low: padding before the first pixel.
      spread: from one pixel to the next, 1 without dilation of the input.
      dilation: from one tap to the next.

    Returns:
      The number.

    >>> pairs(inputs=4, outputs=4, taps=3, stride=1, low=1, spread=1, dilation=1)
    10
    """
    place = np.arange(outputs)[:, None] * stride + np.arange(taps) * dilation - low
    return int(((place >= 0) & (place <= (inputs - 1) * spread) & (place % spread == 0)).sum())


def _convolution(equation: Any) -> float:
    params = equation.params
    left, right = (v.aval.shape for v in equation.invars)
    out = equation.outvars[0].aval.shape
    dims = params["dimension_numbers"]
    met = [
        pairs(left[i], out[o], right[k], stride, low, spread, dilation)
        for i, o, k, stride, (low, _), spread, dilation in zip(
            dims.lhs_spec[2:], dims.out_spec[2:], dims.rhs_spec[2:], params["window_strides"], params["padding"],
            params["lhs_dilation"], params["rhs_dilation"], strict=True,
        )
    ]  # fmt: skip
    images, features = (out[axis] for axis in dims.out_spec[:2])
    return 2.0 * images * features * right[dims.rhs_spec[1]] * float(np.prod(met))


def _met(geometry: Any) -> int:
    return int(
        np.prod([
            pairs(i, o, geometry.size, geometry.stride, geometry.padding, 1, geometry.dilation)
            for i, o in zip(geometry.inputs, geometry.outputs, strict=True)
        ])
    )  # fmt: skip


def _windowed(channels: Callable[[Any], int], factor: float, images: int = 0) -> Callable[[Any], float]:
    """FLOPs of a primitive with a `geometry`; the operand `images` is the one that has the batch."""

    def flops(equation: Any) -> float:
        shape = equation.invars[images].aval.shape
        stack = max((v.aval.shape[0] for v in equation.invars if len(v.aval.shape) == 5), default=1)
        return factor * stack * shape[-4] * _met(equation.params["geometry"]) * channels(equation)

    return flops


def _last(place: int, axis: int = -1) -> Callable[[Any], int]:
    return lambda equation: equation.invars[place].aval.shape[axis]


def _product(first: Callable[[Any], int], second: Callable[[Any], int]) -> Callable[[Any], int]:
    return lambda equation: first(equation) * second(equation)


_FLOPS: dict[str, Callable[[Any], float]] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    # x [batch, ...] with w [k, k, channels, features];  g with w;  x [..., channels] with g [..., features]
    "conv2d": _windowed(_product(_last(1), _last(1, -2)), 2.0),
    "conv2d_dx": _windowed(_product(_last(1), _last(1, -2)), 2.0),
    "conv2d_dw": _windowed(_product(_last(0), _last(1)), 2.0),
    **{f"depthwise2d{suffix}": _windowed(_last(0), 2.0) for suffix in ("", "_dx", "_dw")},
    **{name: _windowed(_last(0), 1.0) for name in
       ("sum_pool3", "sum_pool3_spread", "max_pool3_pick", "max_pool3_place")},
}  # fmt: skip
