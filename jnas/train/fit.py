"""`fit`: the only gradient loop."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jnas.distributed.sharding import Mapper, Place, Rule, all_at_once, check_mesh, home, one_by_one
from jnas.errors import Diverged, Interrupted, UserError
from jnas.files.signals import Stop, stop_on_signal
from jnas.train.checkpoint import Checkpoints
from jnas.train.chunks import drive
from jnas.train.hooks import Event, Hook
from jnas.train.profile import take_wanted
from jnas.train.program import SOUND, Each, Program, compile_steps, split_key
from jnas.types import Array, Batch, Key, Learner, PyTree, Source, State

MOST_STEPS_PER_CALL = 50
SECONDS_PER_CALL = 2.0  # how long the host waits, for its progress lines and for signals, where nobody says


def fit(
    learner: Learner | Callable[[PyTree], Learner],
    batches: Source | Callable[[Array, Key], Batch],
    *,
    key: Key,
    num_steps: int,
    mesh: Mesh | None = None,
    hooks: Sequence[Hook] = (),
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    steps_per_call: int | None = None,
    num_runs: int | None = None,
    settings: PyTree = None,
    mapper: Mapper | None = None,
    state_rule: Rule | None = None,
) -> State:
    """Run a learner: `state = init(key)`, then `state, metrics = update(state, batch, key)` once a step, compiled.

    Use it for everything that is trained. All that is random in step k is a function of `key` and k, so a run that was
    killed and resumed ends in the same bits as one that was not, and the state is all there is to save.

    A checkpoint is written every `checkpoint_every` steps, at the end, and when SIGTERM or SIGINT asks for a stop (the
    running chunk of steps is finished first; a second signal is obeyed at once). If `checkpoint_dir` holds
    checkpoints, the run goes on from the newest; if that is at `num_steps` or beyond, its state is returned and
    nothing runs. Without `checkpoint_dir` signals are left alone.

    In a run of several processes all of them call it, with the same arguments, on a mesh or not.

    With `num_runs` one program runs the learner many times, from keys and settings that differ; each run ends where it
    would have ended alone. A run with a metric or a state that is not finite stands still before that step, and the
    others go on. Hooks see metrics `[n, num_runs]`; `of_run` shows one run to a hook.

    Args:
      learner: built once and kept: learners built anew compile anew. With `settings`, a function of one run's settings,
        which are traced, to its learner.
      batches: a `Source`, whose `batch(arrays, step, key)` gets the same key at every step, for the order of an epoch
        is shared by its steps; or a function `(step [] int32, key) -> Batch` under jit, which gets a key of the step's
        own.
      key: a typed PRNG key, [] key<...>; with `num_runs` also [num_runs], each run's own: else run r gets
        `fold_in(key, r)`.
      num_steps: steps of the whole run, those before a resumption included.
      mesh: from `make_mesh`: runs are spread over its axis "run"; the state of a run is replicated over "data" and the
        batch split along its leading axis (along the second one in `Batches.curvature`), with the result of one device
        up to rounding. None uses the default device.
      hooks: see `Hook`.
      checkpoint_dir: the folder of the checkpoints; None keeps none.
      checkpoint_every: steps between two checkpoints; None writes one at the end and at a stop only.
      steps_per_call: the most steps between two looks of the host; 1 compiles no loop. A chunk also ends where a
        checkpoint is due and where a hook asks. None: as many as take two seconds, at most 50; and 1 on a CPU if the
        step holds ordinary convolutions, whose gradients XLA:CPU runs many times slower in a loop (those of
        `jnas.nets` it does not). With `Source.fetch` steps are always compiled singly.
      num_runs: how many runs; None: one, without a leading axis.
      settings: a tree of arrays `[num_runs, ...]`: step sizes, decays, whatever of a learner may be traced.
      mapper: how a device does its runs, `one_by_one` or `all_at_once`; None: the first on a CPU, else the second.
      state_rule: how the leaves of the state are split, see `split_largest`; None replicates them.

    Returns:
      The state after `num_steps` steps; with `num_runs` a `Runs` of them.

    Raises:
      ValueError: if a number is out of range, or `update` returns another kind of state than `init`.
      UserError: if the checkpoints cannot be written, or belong to a run with another state or key; if the devices of
        the mesh do not divide a batch.
      Diverged: at the first step with a metric that is not finite, and where a checkpoint would hold a state that is
        not; of several runs, when the last of them has.
      Interrupted: after a signal, when the state is saved.

    Example: Newton's iteration for the square root of 2.

      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jnas.types import Learner
      >>> def update(x, batch, key):
      ...     return (x + batch / x) / 2, {"residual": abs(x * x - batch)}
      >>> newton = Learner(init=lambda key: jnp.array(1.0), update=update)
      >>> print(f"{fit(newton, lambda step, key: jnp.array(2.0), key=jax.random.key(0), num_steps=5):.4f}")
      1.4142
    """
    _check(key, num_steps, mesh, hooks, checkpoint_dir, checkpoint_every, steps_per_call, num_runs)
    _check_runs(batches, num_runs, settings, state_rule)
    on_cpu = next(iter(home(mesh).device_set)).platform == "cpu"
    if num_runs is not None:
        mapper = mapper or (one_by_one if on_cpu else all_at_once)
    keys, place = _keys(key, num_runs), Place(mesh, num_runs, state_rule, mapper)
    most = min(steps_per_call or MOST_STEPS_PER_CALL, max(1, num_steps))
    if isinstance(batches, Source):
        batch, arrays, fetch, rows = batches.batch, batches.arrays, batches.fetch, batches.per_run
        batch_size = batches.batch_size
    else:
        batch, arrays, fetch, rows, batch_size = batches, (), None, None, None
    own_key = not isinstance(batches, Source)
    program = compile_steps(learner, batch, own_key, most if fetch is None else 1, place)
    given = arrays if num_runs is None else Each(arrays, settings, rows)
    ends = [every for every in (checkpoint_every, *(hook.every for hook in hooks)) if every]
    mine = [hook for hook in hooks if jax.process_index() == 0 or not hook.first_process_only]

    with stop_on_signal(checkpoint_dir is not None) as stop, contextlib.ExitStack() as stack:
        saver = None if checkpoint_dir is None else stack.enter_context(Checkpoints(checkpoint_dir))
        step, state = _begin(program, keys, settings, saver)
        if step >= num_steps:
            return state
        alone = steps_per_call is None and on_cpu and program.size > 1
        if alone and not program.loops_well(state, given, split_key(keys)):
            most, program = 1, compile_steps(learner, batch, own_key, 1, place)
        sound = {} if saver is None or num_runs is not None else _finite(state)
        advance = stack.enter_context(drive(program, given, fetch, split_key(keys), mesh, num_steps, batch_size))
        mine = [*(take_wanted() if jax.process_index() == 0 else ()), *mine]
        for hook in mine:
            hook.start(step, num_steps)
            stack.callback(lambda hook=hook: hook.end(step))

        # Several processes must agree on every call, and their clocks do not.
        paced = steps_per_call is None and jax.process_count() == 1
        span = 1 if paced else most
        stopped = _stopped(stop)
        while step < num_steps and not stopped:
            started = time.perf_counter()
            chunk_end = min(num_steps, step + span, *(step - step % every + every for every in ends))
            with jax.profiler.StepTraceAnnotation("steps", step_num=step):  # costs nothing where nobody traces
                state, metrics = advance(state, step, chunk_end)
            done = metrics.pop(SOUND, None)
            if done is None:
                _check_metrics(metrics, step)
            elif not done[-1].any():
                last = step + int(done.any(axis=1).sum())
                raise Diverged(
                    f"all {num_runs} runs have diverged, the last one at step {last + 1}: "
                    "lower the learning rate or clip the gradients"
                )
            if paced:  # the first call compiles too, and so is followed by a short one
                span = _span(chunk_end - step, time.perf_counter() - started, most)
            step = chunk_end
            for hook in mine:
                hook.steps(Event(step, num_steps, state, metrics, done))
            stopped = _stopped(stop)
            due = stopped or step == num_steps or (checkpoint_every is not None and step % checkpoint_every == 0)
            if saver is not None and due:
                if num_runs is None:  # what a step of several runs did to a state is seen at that step
                    _check_state(sound, _finite(state), step)
                for hook in mine:
                    hook.save(step)
                saver.save(step, state, {"key": _key_numbers(keys)})
        if saver is not None:
            saver.wait()

    # Outside, so that a signal in the last moments is not lost.
    if _stopped(stop):
        raise Interrupted(
            f"stopped by {stop.signal or 'a signal to another process'} after step {step} of {num_steps}: "
            f"run it again with its checkpoints in {os.fspath(checkpoint_dir or '')} to go on from there"
        )
    return state


def _span(steps: int, seconds: float, most: int) -> int:
    """How many steps to ask for when so many took so long; never more than twice as many."""
    return max(1, min(most, 2 * steps, int(steps * SECONDS_PER_CALL / seconds)))


def _keys(key: Key, num_runs: int | None) -> Key:
    if num_runs is None or key.ndim:
        return key
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_runs))


def _begin(program: Program, keys: Key, settings: PyTree, saver: Checkpoints | None) -> tuple[int, State]:
    """The newest stored state, or a fresh one."""
    given = (split_key(keys).init,) if settings is None else (split_key(keys).init, settings)
    if saver is None or saver.latest() is None:
        return 0, program.init(*given)
    shapes = jax.eval_shape(program.init, *given)
    where = program.state_sharding(shapes)
    if isinstance(where, jax.sharding.Sharding):
        where = jax.tree.map(lambda leaf: where, shapes)
    abstract = jax.tree.map(
        lambda leaf, there: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=there), shapes, where
    )
    step, state, meta = saver.restore(abstract)
    if meta["key"] != _key_numbers(keys):
        raise UserError(
            f"the checkpoint of step {step} in {saver.folder} was made with another key: "
            "use that seed or choose another folder"
        )
    return step, state


def _stopped(stop: Stop) -> bool:
    """Whether any process of the run was asked to stop: they must leave the loop at the same step."""
    if jax.process_count() == 1:
        return stop.signal is not None
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.array(stop.signal is not None))))


def _check_metrics(metrics: dict[str, np.ndarray], done: int) -> None:
    """Raise for the first step with a metric that is not finite; `done` steps precede them."""
    bad = [
        (int(np.argmin(np.isfinite(values))), name) for name, values in metrics.items() if not np.isfinite(values).all()
    ]
    if bad:
        row, name = min(bad)
        before = f" ({metrics[name][row - 1]:.4g} the step before)" if row else ""
        raise Diverged(
            f"{name} is {metrics[name][row]} at step {done + row + 1}{before}: "
            "lower the learning rate or clip the gradients"
        )


def _finite(state: State) -> dict[str, bool]:
    """For each floating leaf, whether all of it is finite."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    floating = {jax.tree_util.keystr(path): leaf for path, leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)}
    return {path: bool(value) for path, value in jax.device_get(_all_finite(floating)).items()}


@jax.jit
def _all_finite(leaves: dict[str, Array]) -> dict[str, Array]:
    return {path: jnp.isfinite(leaf).all() for path, leaf in leaves.items()}


def _check_state(before: dict[str, bool], now: dict[str, bool], step: int) -> None:
    """Raise if a leaf that began finite is so no longer; a mask of -inf may stay.

    The metrics do not tell: a loss is that of the state before its step.
    """
    for path, finite in now.items():
        if before[path] and not finite:
            raise Diverged(
                f"state{path} is not finite after step {step}, of which no checkpoint is written: "
                "lower the learning rate or clip the gradients"
            )


def _key_numbers(key: Key) -> list[int]:
    return np.asarray(jax.random.key_data(key)).ravel().tolist()


def _check(key, num_steps, mesh, hooks, checkpoint_dir, checkpoint_every, steps_per_call, num_runs) -> None:
    if num_runs is not None and num_runs < 1:
        raise ValueError(f"num_runs is {num_runs}: give 1 or more, or None for a run without a leading axis")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape not in ((), (num_runs,)):
        alternative = "" if num_runs is None else f", or {num_runs} of them"
        raise ValueError(f"key is {key.dtype}{list(key.shape)}: make one with jax.random.key(seed){alternative}")
    if num_steps < 0:
        raise ValueError(f"num_steps is {num_steps}: give 0 or more")
    steps = [("checkpoint_every", checkpoint_every), ("steps_per_call", steps_per_call)]
    for name, value in [*steps, *(("every of a hook", hook.every) for hook in hooks)]:
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}: give at least 1 step, or None")
    if checkpoint_every is not None and checkpoint_dir is None:
        raise ValueError(f"checkpoint_every is {checkpoint_every} and checkpoint_dir is None: name the folder")
    if mesh is not None:
        check_mesh(mesh, num_runs)


def _check_runs(batches, num_runs: int | None, settings: PyTree, state_rule) -> None:
    rows = batches.per_run if isinstance(batches, Source) else None
    for name, tree in (("settings", settings), ("Source.per_run", rows)):
        lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
        if lengths and lengths != {(num_runs,)}:
            found = " and ".join(str(length[0]) if length else "no" for length in sorted(lengths))
            raise ValueError(f"{name} has {found} rows with num_runs={num_runs}: give one row a run, and num_runs")
    if num_runs is not None and isinstance(batches, Source) and batches.fetch is not None:
        raise ValueError(f"num_runs is {num_runs} and the batches come from the host: put the data on the device")
    if state_rule is not None and settings is not None:
        raise ValueError("state_rule and settings do not go together: leave one of them out")
