"""Reading one of several stacked states inside a loop, with a derivative that is added in place."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def take(states: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns `states[index]` and the states themselves, which the caller goes on with.

    The transpose of an ordinary index makes an array of zeros as large as all states and adds it to the cotangents, at
    every trip of a loop. Here the cotangent of what was read is added to one row of the cotangents of what is passed
    on: a loop can do that in place, and it touches one state only.

    Args:
      states: `[num_states, ...]`.
      index: `[]` int32, in range.

    Returns:
      `[...]` and `[num_states, ...]`.

    Example:
      >>> row, states = take(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array(1))
      >>> row.tolist(), states.shape
      ([3.0, 4.0], (2, 2))
    """
    row, states = _TAKE.bind(states, index)
    return row, states


def add_at(states: jax.Array, index: jax.Array, row: jax.Array) -> jax.Array:
    """Adds `row` to `states[index]`, reading and writing that row only.

    Args:
      states: `[num_states, ...]`.
      index: `[]` int32, in range.
      row: `[...]`.

    Returns:
      The new states.
    """
    return _ADD.bind(states, row, index)


def _take(states, index):
    return lax.dynamic_index_in_dim(states, index, keepdims=False), states


def _take_apart(states, index):
    # XLA:CPU would fuse the read with all that uses it, and one of those may run after the states are written: it then
    # copies all states twice a trip to be safe. A call that may not be inlined reads once, before.
    with set_xla_metadata(inlineable="false"):
        return [_read(states, index), states]


@jax.jit
def _read(states, index):
    return lax.dynamic_index_in_dim(states, index, keepdims=False)


def _add(states, row, index):
    row = lax.dynamic_index_in_dim(states, index, keepdims=False) + row
    return lax.dynamic_update_index_in_dim(states, row, index, 0)


_TAKE, _ADD = Primitive("take_state"), Primitive("add_to_state")
_TAKE.multiple_results = True
_TAKE.def_impl(jax.jit(_take))
_ADD.def_impl(jax.jit(_add))
_TAKE.def_abstract_eval(lambda states, index: (states.update(shape=states.shape[1:], weak_type=False), states))
_ADD.def_abstract_eval(lambda states, row, index: states)
mlir.register_lowering(_TAKE, mlir.lower_fun(lambda *a: list(_take(*a)), multiple_results=True))
mlir.register_lowering(_TAKE, mlir.lower_fun(_take_apart, multiple_results=True), platform="cpu")
mlir.register_lowering(_ADD, mlir.lower_fun(_add, multiple_results=False))


def _take_jvp(primals, tangents):
    states, index = primals
    tangent = tangents[0]
    outs = _TAKE.bind(states, index)
    if type(tangent) is ad.Zero:
        return outs, [ad.Zero(jax.typeof(out).to_tangent_aval()) for out in outs]
    return outs, _TAKE.bind(tangent, index)


def _take_transpose(cts, states, index):
    row, rest = cts
    if type(row) is ad.Zero:
        return (rest if type(rest) is not ad.Zero else ad.Zero(states.aval)), None
    rest = jnp.zeros(states.aval.shape, states.aval.dtype) if type(rest) is ad.Zero else rest
    return _ADD.bind(rest, row, index), None


def _add_jvp(primals, tangents):
    (states, row, index), (dstates, drow, _) = primals, tangents
    out = _ADD.bind(states, row, index)
    if type(drow) is ad.Zero:
        return out, dstates
    return out, _ADD.bind(ad.instantiate_zeros(dstates), drow, index)


def _add_transpose(ct, states, row, index):
    if type(ct) is ad.Zero:
        return ct, ad.Zero(row.aval) if ad.is_undefined_primal(row) else None, None
    # The row's cotangent is read, and the rest is passed on untouched.
    read, ct = _TAKE.bind(ct, index)
    return (
        ct if ad.is_undefined_primal(states) else None,
        read if ad.is_undefined_primal(row) else None,
        None,
    )


ad.primitive_jvps[_TAKE] = _take_jvp
ad.primitive_transposes[_TAKE] = _take_transpose
ad.primitive_jvps[_ADD] = _add_jvp
ad.primitive_transposes[_ADD] = _add_transpose


def _take_batch(operands, dims):
    states, index = operands
    if dims[1] is None:  # the usual case: stays an in-place read
        states = jnp.moveaxis(states, dims[0], 1)
        return _TAKE.bind(states, index), (0, 1)
    return list(jax.vmap(_take, dims)(*operands)), (0, 0)  # outside of a loop's hot path an ordinary index will do


def _add_batch(operands, dims):
    states, row, index = operands
    if dims[2] is None:
        size = next(x.shape[d] for x, d in zip(operands, dims, strict=True) if d is not None)
        row = jnp.broadcast_to(row, (size, *row.shape)) if dims[1] is None else jnp.moveaxis(row, dims[1], 0)
        if dims[0] is None:
            states = jnp.broadcast_to(states[:, None], (states.shape[0], size, *states.shape[1:]))
        else:
            states = jnp.moveaxis(states, dims[0], 1)
        return _ADD.bind(states, row, index), 1
    return jax.vmap(_add, dims)(*operands), 0


batching.primitive_batchers[_TAKE] = _take_batch
batching.primitive_batchers[_ADD] = _add_batch
