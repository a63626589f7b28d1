"""The compiled half of `fit`: one program that runs any number of steps up to a fixed size."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import PartitionSpec, Sharding
from jax.typing import ArrayLike

from jnas.distributed.sharding import RUN, Mapper, Place, across, home, one_by_one, split_batch
from jnas.types import Array, Batch, Key, Learner, Metrics, PyTree, State


class Keys(NamedTuple):
    """Every random number of a run comes from one of these, each a function of the key of `fit` alone."""

    init: Key  # of `Learner.init`
    data: Key  # the same at every step, for an epoch's order is shared by its steps
    learner: Key  # step k folds k in


class Program(NamedTuple):
    """What `compile_steps` builds."""

    init: Callable[[Key], State]  # of several runs: from the `Keys.init` of all of them
    # (state, start [] int32, stop [] int32, arrays, keys) -> (state, metrics {name: [size]}); consumes the state.
    # Of several runs the metrics are [size, num_runs], with those of `SOUND` among them.
    run: Callable[[State, ArrayLike, ArrayLike, PyTree, Keys], tuple[State, Metrics]]
    size: int  # the most steps that one call of `run` does
    # (state, arrays, keys) -> whether a CPU runs the steps in a loop as fast as one by one
    loops_well: Callable[[State, PyTree, Keys], bool]
    state_sharding: Sharding  # of all leaves of the state


class Runs(NamedTuple):
    """The states of several runs of one learner."""

    state: State  # every leaf [num_runs, ...]
    diverged_at: Array  # [num_runs] int32: the step that a run could not do, at which it stands still; 0: none


class Several(NamedTuple):
    """How many runs of one learner a program does, and what differs between them beside their keys."""

    num: int
    settings: PyTree = None  # a tree of arrays [num, ...]: step sizes, decays, whatever of a learner may be traced
    # how a device does its runs, `one_by_one` or `all_at_once`; None: the first on a CPU, else the second
    mapper: Mapper | None = None


class Each(NamedTuple):
    """What `fit` hands the program as arrays where the runs differ in more than their keys."""

    arrays: PyTree  # shared by all
    settings: PyTree = None  # [num_runs, ...]: of the learner
    rows: PyTree = None  # [num_runs, ...]: of the source


SOUND = "_sound"  # [size, num_runs] bool among the metrics of several runs: the step was done


def split_key(key: Key) -> Keys:
    """The three streams of a run, or of each run where `key` is [num_runs]."""
    return Keys(*(jax.vmap(_thirds, out_axes=1) if key.ndim else _thirds)(key))


# A few programs stay: seeds and repeated calls with the same learner compile once, and a search that trains one new
# network after another does not collect their executables.
@functools.lru_cache(maxsize=4)
def compile_steps(
    learner: Learner | Callable[[PyTree], Learner],
    batch: Callable[..., Batch],
    own_key: bool,
    size: int,
    place: Place,
) -> Program:
    """Build the program of a learner and its batches; nothing is traced before the first call.

    With `size` 1 it holds no loop. Else the loop's bounds are arguments, so that chunks of every length, cut short by a
    checkpoint, an epoch or the end, share one compilation.

    Args:
      learner: whose update is a step; for several runs also a function of one run's settings to it.
      batch: `(arrays, step, key) -> Batch` with the run's data key, or, with `own_key`, `(step, key) -> Batch`.
      own_key: whether `batch` gets a key of the step's own.
      size: the most steps in one call.
      place: where the state lives, over what batches are split, and how many runs there are; of several, `run` takes
        `Each` as its arrays.

    Returns:
      The program.
    """
    mesh, many = place.mesh, place.num_runs is not None
    build: Any = learner if not isinstance(learner, Learner) else lambda settings: learner

    def one_step(state, step, each: Each, keys):
        if own_key:
            data = batch(step, jax.random.fold_in(keys.data, step))
        else:
            data = batch(each.arrays if each.rows is None else (each.arrays, each.rows), step, keys.data)
        key = jax.random.fold_in(keys.learner, step)
        with across(mesh):
            new, metrics = build(each.settings).update(state, split_batch(data, mesh), key)
        return _same_type(new, state), _scalars(metrics)

    def start(key, settings=None):
        return jax.tree.map(_strong, build(settings).init(key))

    # Jitted, so that asking what is in a step, for the shapes of its metrics, and the loop share one trace.
    step_fn = jax.jit(one_step, inline=True)

    def loops_well(state, arrays, keys):
        each = arrays if many else Each(arrays)
        if many:
            state, keys = jax.tree.map(_first, (state.state, keys))
            each = each._replace(settings=jax.tree.map(_first, each.settings), rows=jax.tree.map(_first, each.rows))
        return not _has_lax_convolution(step_fn.trace(state, jnp.int32(0), each, keys).jaxpr.jaxpr)

    if many:
        init, run = _many(start, step_fn, size, place)
        return Program(init, run, size, loops_well, place.state)

    def run_one(state, start, stop, arrays, keys):
        state, metrics = one_step(state, start, Each(arrays), keys)
        return state, {name: value[None] for name, value in metrics.items()}

    def run_many(state, start, stop, arrays, keys):
        _, shapes = jax.eval_shape(step_fn, state, start, Each(arrays), keys)
        buffers = {name: jnp.zeros((size,), shape.dtype) for name, shape in shapes.items()}

        def body(step, carry):
            state, buffers = carry
            state, metrics = step_fn(state, step, Each(arrays), keys)
            return state, {name: buffers[name].at[step - start].set(value) for name, value in metrics.items()}

        return jax.lax.fori_loop(start, stop, body, (state, buffers))

    there = home(mesh)

    def init_uncompiled(key):
        # To compile the first values of a supernet's thousand arrays takes a minute. Copies: a donated state must not
        # hold one buffer twice, as a momentum that starts at the parameters would.
        return jax.device_put(jax.tree.map(lambda leaf: leaf.copy(), start(key)), there)

    run = jax.jit(run_one if size == 1 else run_many, donate_argnums=0, out_shardings=(place.state, there))
    init = init_uncompiled if mesh is None else jax.jit(start, out_shardings=place.state)
    return Program(init, run, size, loops_well, place.state)


def _many(start, step_fn, size: int, place: Place):
    """`init` and `run` of several runs: each device does its own, one after another or all at once."""
    mesh, mapper = place.mesh, place.mapper or one_by_one

    def steps_of_one(each: tuple[Runs, Each, Keys], begin, stop):
        (state, diverged_at), given, keys = each
        _, shapes = jax.eval_shape(step_fn, state, begin, given, keys)
        buffers = {name: jnp.full((size,), _nothing(shape.dtype), shape.dtype) for name, shape in shapes.items()}
        buffers[SOUND] = jnp.zeros((size,), bool)

        def going_on(carry):
            step, _, diverged_at, _ = carry
            return (step < stop) & (diverged_at == 0)

        def body(carry):
            step, state, _, buffers = carry
            new, metrics = step_fn(state, step, given, keys)
            sound = _sound(metrics, new, state)
            done = {name: jnp.where(sound, value, _nothing(value.dtype)) for name, value in metrics.items()}
            at = step - begin
            buffers = {name: buffers[name].at[at].set(value) for name, value in {**done, SOUND: sound}.items()}
            new = jax.tree.map(lambda a, b: jnp.where(sound, a, b), new, state)
            return step + 1, new, jnp.where(sound, 0, step + 1), buffers

        carry = jax.lax.while_loop(going_on, body, (begin, state, diverged_at, buffers))
        return Runs(carry[1], carry[2]), carry[3]

    def over_runs(function):
        """Map over the leading axis of the first argument, each device over its part; the others are shared."""

        def local(xs, *shared):
            return mapper(lambda x: function(x, *shared), xs)

        if mesh is None or RUN not in mesh.shape:
            return local
        split = PartitionSpec(RUN)

        def spread(xs, *shared):
            mapped = jax.shard_map(
                local, mesh=mesh, in_specs=(split, *[PartitionSpec()] * len(shared)), out_specs=split, axis_names={RUN},
                check_vma=False,  # no collective crosses the axis, nothing is differentiated through
            )  # fmt: skip
            return mapped(xs, *shared)

        return spread

    def run(runs, begin, stop, each: Each, keys):
        own = each._replace(arrays=None)

        def one(x, begin, stop, arrays):
            runs, own, keys = x
            return steps_of_one((runs, own._replace(arrays=arrays), keys), begin, stop)

        runs, metrics = over_runs(one)((runs, own, keys), begin, stop, each.arrays)
        return runs, {name: values.T for name, values in metrics.items()}

    def init(keys, settings=None):
        def one(x):
            return Runs(start(*x), jnp.zeros((), jnp.int32))

        return over_runs(one)((keys, settings))

    return (
        jax.jit(init, out_shardings=place.state),
        jax.jit(run, donate_argnums=0, out_shardings=(place.state, home(mesh))),
    )


def _sound(metrics: Metrics, new: State, old: State) -> Array:
    """Whether every metric is finite, and every leaf of the new state that was finite in the old one."""
    now, before = (
        [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        for state in (new, old)
    )
    pairs = [a | ~b for a, b in zip(now, before, strict=True)]
    return jnp.stack([jnp.array(True), *(jnp.isfinite(value) for value in metrics.values()), *pairs]).all()


def _thirds(key: Key) -> Key:
    return jax.random.split(key, 3)


def _nothing(dtype) -> Any:
    """What stands for a metric of a step that was not done."""
    return jnp.nan if jnp.issubdtype(dtype, jnp.inexact) else 0


def _first(leaf):
    return leaf[0]


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
