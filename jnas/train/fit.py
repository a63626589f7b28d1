"""`fit`: the only gradient loop."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jnas.distributed.sharding import Place, all_at_once, check_mesh, home, one_by_one
from jnas.errors import Diverged, Interrupted, UserError
from jnas.files.signals import Stop, stop_on_signal
from jnas.files.writing import plain
from jnas.train.checkpoint import Checkpoints, Saving
from jnas.train.chunks import drive
from jnas.train.hooks import Event, Hook, take_waiting
from jnas.train.program import SOUND, Each, Program, Several, compile_steps, split_key
from jnas.types import Array, Batch, Key, Learner, PyTree, Source, State

MOST_STEPS_PER_CALL = 50
SECONDS_PER_CALL = 2.0  # how long the host waits, for its progress lines and for signals


def fit(
    learner: Learner | Callable[[PyTree], Learner],
    batches: Source | Callable[[Array, Key], Batch],
    *,
    key: Key,
    num_steps: int,
    mesh: Mesh | None = None,
    hooks: Sequence[Hook] = (),
    checkpoints: Saving | None = None,
    runs: Several | None = None,
) -> State:
    """Run a learner: `state = init(key)`, then `state, metrics = update(state, batch, key)` once a step, compiled.

    Use it for everything that is trained. All that is random in step k is a function of `key` and k, so a run that was
    killed and resumed ends in the same bits as one that was not, and the state is all there is to save.

    With `checkpoints` one is written as often as they say, at the end, and when SIGTERM or SIGINT asks for a stop (the
    running chunk of steps is finished first; a second signal is obeyed at once). If the folder holds checkpoints, the
    run goes on from the newest; if that is at `num_steps` or beyond, or a hook had called it enough, its state is
    returned and nothing runs. Without `checkpoints` signals are left alone.

    The host looks every two seconds, after 50 steps, where a checkpoint is due and where a hook asks (`chunks_of` sets
    a number of steps in the place of the clock). On a CPU steps that hold ordinary convolutions are compiled singly,
    for XLA runs their gradients many times slower in a loop (those of `jnas.nets` it does not); so are those with
    `Source.fetch`.

    In a run of several processes all of them call it, with the same arguments, on a mesh or not.

    With `runs` one program runs the learner many times, from keys and settings that differ; each run ends where it
    would have ended alone. A run with a metric or a state that is not finite stands still before that step, and the
    others go on. Hooks see metrics `[n, num_runs]`; `of_run` shows one run to a hook.

    Args:
      learner: built once and kept: learners built anew compile anew. With `Several.settings`, a function of one run's
        settings, which are traced, to its learner.
      batches: a `Source`, whose `batch(arrays, step, key)` gets the same key at every step, for the order of an epoch
        is shared by its steps; or a function `(step [] int32, key) -> Batch` under jit, which gets a key of the step's
        own.
      key: a typed PRNG key, [] key<...>; with `runs` also [num_runs], each run's own: else run r gets
        `fold_in(key, r)`.
      num_steps: steps of the whole run, those before a resumption included.
      mesh: from `make_mesh`: runs are spread over its axis "run"; the state of a run is replicated over "data" and the
        batch split along its leading axis (along the second one in `Batches.further`), with the result of one device
        up to rounding. None uses the default device.
      hooks: see `Hook`.
      checkpoints: their folder, and the steps between two of them; None keeps none.
      runs: how many; None: one, without a leading axis.

    Returns:
      The state after `num_steps` steps, or after those that a hook called enough; with `runs` a `Runs` of them.

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
    source, own_key = (batches, False) if isinstance(batches, Source) else (Source(batches), True)
    _check(key, num_steps, mesh, hooks, checkpoints, runs, source)
    keys, place = _keys(key, runs), _place(mesh, runs)
    ends = [every for every in (checkpoints and checkpoints.every, *(hook.every for hook in hooks)) if every]
    fixed = min((hook.steps_per_call for hook in hooks if hook.steps_per_call), default=None)
    most = 1 if num_steps <= 1 else fixed or MOST_STEPS_PER_CALL  # however many: the rungs of a search share a program
    program = compile_steps(learner, source.batch, own_key, most if source.fetch is None else 1, place)
    given = source.arrays if runs is None else Each(source.arrays, runs.settings, source.per_run)

    with stop_on_signal(checkpoints is not None) as stop, contextlib.ExitStack() as stack:
        saver = None if checkpoints is None else stack.enter_context(Checkpoints(checkpoints.folder))
        step, state, enough = _begin(program, keys, runs, saver, hooks)
        if enough or step >= num_steps:
            return state
        unsure = fixed is None and _on_cpu(mesh) and program.size > 1
        if unsure and not program.loops_well(state, given, split_key(keys)):
            most, program = 1, compile_steps(learner, source.batch, own_key, 1, place)
        began_finite = {} if saver is None or runs is not None else _finite(state)
        advance = stack.enter_context(
            drive(program, given, source.fetch, split_key(keys), mesh, num_steps, source.batch_size)
        )
        called = _called(hooks)
        for hook in called:
            hook.start(step, num_steps)
            stack.callback(lambda hook=hook: hook.end(step))

        # Several processes must agree on every call, and their clocks do not.
        paced = fixed is None and jax.process_count() == 1
        span = 1 if paced else most
        stopped, _ = _agreed(stop, False)
        while step < num_steps and not (stopped or enough):
            started = time.perf_counter()
            chunk_end = min(num_steps, step + span, *(step - step % every + every for every in ends))
            with jax.profiler.StepTraceAnnotation("steps", step_num=step):  # costs nothing where nobody traces
                state, metrics = advance(state, step, chunk_end)
            done = _sound_metrics(metrics, step)
            if paced:  # the first call compiles too, and so is followed by a short one
                span = _span(chunk_end - step, time.perf_counter() - started, most)
            step = chunk_end
            event = Event(step, num_steps, state, metrics, done)
            votes = [_is_enough(hook.steps(event)) for hook in called]
            stopped, enough = _agreed(stop, any(votes))
            every = num_steps if checkpoints is None else checkpoints.every or num_steps
            if saver is not None and (stopped or enough or step == num_steps or step % every == 0):
                _check_state(began_finite, state, step)
                saved = [(hook.name, hook.save(step)) for hook in called]
                kept = {name: plain(memory) for name, memory in saved if name is not None}
                saver.save(step, state, {"key": _key_numbers(keys), "enough": enough, "hooks": kept})
        if saver is not None:
            saver.wait()

    if checkpoints is not None:  # outside, so that a signal in the last moments is not lost
        _raise_if_stopped(stop, step, num_steps, checkpoints)
    return state


def _place(mesh: Mesh | None, runs: Several | None) -> Place:
    if runs is None:
        return Place(mesh)
    return Place(mesh, runs.num, runs.mapper or (one_by_one if _on_cpu(mesh) else all_at_once))


def _on_cpu(mesh: Mesh | None) -> bool:
    return next(iter(home(mesh).device_set)).platform == "cpu"


def _called(hooks: Sequence[Hook]) -> list[Hook]:
    """The hooks that this process calls."""
    first = jax.process_index() == 0
    return [*(take_waiting() if first else ()), *(hook for hook in hooks if first or not hook.first_process_only)]


def _is_enough(answer: Any) -> bool:
    """Whether a hook said so: True, of Python or of NumPy, and not whatever else a function may return."""
    return isinstance(answer, bool | np.bool_) and bool(answer)


def _span(steps: int, seconds: float, most: int) -> int:
    """How many steps to ask for when so many took so long; never more than twice as many."""
    return max(1, min(most, 2 * steps, int(steps * SECONDS_PER_CALL / seconds)))


def _keys(key: Key, runs: Several | None) -> Key:
    if runs is None or key.ndim:
        return key
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(runs.num))


def _begin(
    program: Program, keys: Key, runs: Several | None, saver: Checkpoints | None, hooks: Sequence[Hook]
) -> tuple[int, State, bool]:
    """The newest stored state and whether it is enough, or a fresh one; hooks get what they kept."""
    settings = () if runs is None or runs.settings is None else (runs.settings,)
    given = (split_key(keys).init, *settings)
    if saver is None or saver.latest() is None:
        return 0, program.init(*given), False
    shapes = jax.eval_shape(program.init, *given)
    placed = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=program.state_sharding)
    abstract = jax.tree.map(placed, shapes)
    step, state, meta = saver.restore(abstract)
    if meta["key"] != _key_numbers(keys):
        raise UserError(
            f"the checkpoint of step {step} in {saver.folder} was made with another key: "
            "use that seed or choose another folder"
        )
    for hook in hooks:
        if hook.name in meta.get("hooks", {}):
            hook.restore(meta["hooks"][hook.name])
    return step, state, meta.get("enough", False)


def _agreed(stop: Stop, enough: bool) -> tuple[bool, bool]:
    """Whether any process was asked to stop, and whether any calls it enough: all leave the loop at the same step."""
    stopped = stop.signal is not None
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        votes = np.asarray(multihost_utils.process_allgather(np.array([stopped, enough]))).reshape(-1, 2)
        stopped, enough = bool(votes[:, 0].any()), bool(votes[:, 1].any())
    return stopped, enough


def _raise_if_stopped(stop: Stop, step: int, num_steps: int, checkpoints: Saving) -> None:
    if _agreed(stop, False)[0]:
        raise Interrupted(
            f"stopped by {stop.signal or 'a signal to another process'} after step {step} of {num_steps}: "
            f"run it again with its checkpoints in {os.fspath(checkpoints.folder)} to go on from there"
        )


def _sound_metrics(metrics: dict[str, Any], step: int) -> np.ndarray | None:
    """Takes out of the metrics which steps of which runs were done, [n, num_runs]; None for a single run.

    Raises:
      Diverged: for the first step of a single run with a metric that is not finite; when no run is left.
    """
    done = metrics.pop(SOUND, None)
    if done is None:
        _check_metrics(metrics, step)
    elif not done[-1].any():
        last = step + int(done.any(axis=1).sum())
        raise Diverged(
            f"all {done.shape[1]} runs have diverged, the last one at step {last + 1}: "
            "lower the learning rate or clip the gradients"
        )
    return done


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


def _check_state(began_finite: dict[str, bool], state: State, step: int) -> None:
    """Raise if a leaf that began finite is so no longer; a mask of -inf may stay.

    The metrics do not tell: a loss is that of the state before its step. Of several runs it is seen at that step.
    """
    for path, finite in _finite(state).items() if began_finite else ():
        if began_finite[path] and not finite:
            raise Diverged(
                f"state{path} is not finite after step {step}, of which no checkpoint is written: "
                "lower the learning rate or clip the gradients"
            )


def _key_numbers(key: Key) -> list[int]:
    return np.asarray(jax.random.key_data(key)).ravel().tolist()


def _check(key, num_steps, mesh: Mesh | None, hooks, checkpoints: Saving | None, runs: Several | None, source) -> None:
    num_runs, settings = (None, None) if runs is None else (runs.num, runs.settings)
    if num_runs is not None and num_runs < 1:
        raise ValueError(f"runs is {num_runs}: give 1 or more, or None for a run without a leading axis")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape not in ((), (num_runs,)):
        alternative = "" if num_runs is None else f", or {num_runs} of them"
        raise ValueError(f"key is {key.dtype}{list(key.shape)}: make one with jax.random.key(seed){alternative}")
    if num_steps < 0:
        raise ValueError(f"num_steps is {num_steps}: give 0 or more")
    every = [("every of checkpoints", checkpoints and checkpoints.every)]
    of_hooks = [(f"{name} of a hook", getattr(hook, name)) for hook in hooks for name in ("every", "steps_per_call")]
    for name, value in [*every, *of_hooks]:
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}: give at least 1 step, or None")
    names = [hook.name for hook in hooks if hook.name is not None]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two hooks have the name {twice[0]!r}: give each its own")
    if alone := [hook.name for hook in hooks if hook.name is not None and hook.first_process_only]:
        raise ValueError(
            f"the hook {alone[0]!r} is for the first process only: what all processes restore all must see"
        )
    if mesh is not None:
        check_mesh(mesh, num_runs)
    for name, tree in (("settings", settings), ("Source.per_run", source.per_run)):
        lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
        if lengths and lengths != {(num_runs,)}:
            found = " and ".join(str(length[0]) if length else "no" for length in sorted(lengths))
            raise ValueError(f"{name} has {found} rows for {num_runs} runs: give one row a run, and runs=Several(...)")
    if runs is not None and source.fetch is not None:
        raise ValueError(f"there are {num_runs} runs and the batches come from the host: put the data on the device")
