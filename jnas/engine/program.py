"""The compiled half of `fit`: one program that runs any number of steps up to a fixed size."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import Mesh, Sharding
from jax.typing import ArrayLike

from jnas.engine.sharding import split_batch
from jnas.types import Array, Batch, Key, Learner, Metrics, PyTree, State


class Keys(NamedTuple):
    """Every random number of a run comes from one of these, each a function of the key of `fit` alone."""

    init: Key  # of `Learner.init`
    data: Key  # the same at every step, for an epoch's order is shared by its steps
    learner: Key  # step k folds k in


class Program(NamedTuple):
    """What `compile_steps` builds."""

    init: Callable[[Key], State]
    # (state, start [] int32, stop [] int32, arrays, keys) -> (state, metrics {name: [size]}); consumes the state
    run: Callable[[State, ArrayLike, ArrayLike, PyTree, Keys], tuple[State, Metrics]]
    size: int  # the most steps that one call of `run` does
    # (state, arrays, keys) -> whether a CPU runs the steps in a loop as fast as one by one
    loops_well: Callable[[State, PyTree, Keys], bool]


def split_key(key: Key) -> Keys:
    """The three streams of a run."""
    return Keys(*jax.random.split(key, 3))


# A few programs stay: seeds and repeated calls with the same learner compile once, and a search that trains one new
# network after another does not collect their executables.
@functools.lru_cache(maxsize=4)
def compile_steps(
    learner: Learner, batch: Callable[..., Batch], own_key: bool, size: int, mesh: Mesh | None, home: Sharding
) -> Program:
    """Build the program of a learner and its batches; nothing is traced before the first call.

    With `size` 1 it holds no loop. Else the loop's bounds are arguments, so that chunks of every length, cut short by a
    checkpoint, an epoch or the end, share one compilation.

    Args:
      learner: whose update is a step.
      batch: `(arrays, step, key) -> Batch` with the run's data key, or, with `own_key`, `(step, key) -> Batch`.
      own_key: whether `batch` gets a key of the step's own.
      size: the most steps in one call.
      mesh: over which batches are split, or None.
      home: where the state lives.

    Returns:
      The program.
    """

    def init(key):
        return jax.tree.map(_strong, learner.init(key))

    def init_uncompiled(key):
        # To compile the first values of a supernet's thousand arrays takes a minute. Copies: a donated state must not
        # hold one buffer twice, as a momentum that starts at the parameters would.
        return jax.device_put(jax.tree.map(lambda leaf: leaf.copy(), init(key)), home)

    def one_step(state, step, arrays, keys):
        data = batch(step, jax.random.fold_in(keys.data, step)) if own_key else batch(arrays, step, keys.data)
        new, metrics = learner.update(state, split_batch(data, mesh), jax.random.fold_in(keys.learner, step))
        return _same_type(new, state), _scalars(metrics)

    # Jitted, so that asking what is in a step, for the shapes of its metrics, and the loop share one trace.
    step_fn = jax.jit(one_step, inline=True)

    def loops_well(state, arrays, keys):
        return not _has_lax_convolution(step_fn.trace(state, jnp.int32(0), arrays, keys).jaxpr.jaxpr)

    def run_one(state, start, stop, arrays, keys):
        del stop
        state, metrics = one_step(state, start, arrays, keys)
        return state, {name: value[None] for name, value in metrics.items()}

    def run_many(state, start, stop, arrays, keys):
        _, shapes = jax.eval_shape(step_fn, state, start, arrays, keys)
        buffers = {name: jnp.zeros((size,), shape.dtype) for name, shape in shapes.items()}

        def body(step, carry):
            state, buffers = carry
            state, metrics = step_fn(state, step, arrays, keys)
            return state, {name: buffers[name].at[step - start].set(value) for name, value in metrics.items()}

        return jax.lax.fori_loop(start, stop, body, (state, buffers))

    run = jax.jit(run_one if size == 1 else run_many, donate_argnums=0, out_shardings=home)
    return Program(init_uncompiled if mesh is None else jax.jit(init, out_shardings=home), run, size, loops_well)


def _has_lax_convolution(jaxpr: Any) -> bool:
    """Whether an ordinary convolution is in a program, or in one inside it.

    XLA:CPU runs the gradients of one many times slower inside a loop. Those of `jnas.nets` are primitives of their own.
    """
    inner = jax.tree.leaves([list(equation.params.values()) for equation in jaxpr.eqns], is_leaf=_is_program)
    programs = [getattr(value, "jaxpr", value) for value in inner if _is_program(value)]
    return any(equation.primitive.name == "conv_general_dilated" for equation in jaxpr.eqns) or any(
        map(_has_lax_convolution, programs)
    )


def _is_program(value: Any) -> bool:
    return isinstance(value, (Jaxpr, ClosedJaxpr))


def _strong(leaf) -> Array:
    """The leaf as an array of its own dtype: a weakly typed one loses that in its first update, and recompiles."""
    array = jnp.asarray(leaf)
    weak = getattr(array, "weak_type", False)  # a typed key outside jit knows no such thing
    return jax.lax.convert_element_type(array, array.dtype) if weak else array


def _same_type(new: State, old: State) -> State:
    """The new state, which must be laid out as the old one."""
    new_leaves, new_tree = jax.tree.flatten(jax.tree.map(_strong, new))
    old_leaves, old_tree = jax.tree_util.tree_flatten_with_path(old)
    if new_tree != old_tree:
        raise ValueError(f"update returned a state of structure {new_tree} where init made {old_tree}: return the same")
    for leaf, (path, before) in zip(new_leaves, old_leaves, strict=True):
        if (leaf.shape, leaf.dtype) != (before.shape, before.dtype):
            raise ValueError(
                f"update returned state{jax.tree_util.keystr(path)} as {leaf.dtype}{list(leaf.shape)} where init made "
                f"{before.dtype}{list(before.shape)}: cast it in update or start from the other in init"
            )
    return jax.tree.unflatten(new_tree, new_leaves)


def _scalars(metrics: Metrics) -> Metrics:
    for name, value in metrics.items():
        if jnp.shape(value):
            raise ValueError(f"metric {name!r} has the shape {jnp.shape(value)}: reduce it to a scalar in update")
    return {name: _strong(value) for name, value in metrics.items()}
