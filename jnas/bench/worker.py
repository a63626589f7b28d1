"""One measurement of `jnas bench`, in a process of its own: `python -m jnas.bench.worker REQUEST ANSWER`.

What is timed is what a search runs: the learner that `gradient.learner_of` builds from the settings, inside the
program that `fit` compiles, with batches drawn and augmented on the device and a donated state.
"""

import inspect
import json
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jnas import bilevel, data, files, nets, spaces
from jnas.bench import roofline
from jnas.bench.command import synthetic
from jnas.bilevel.single_loop import EVERY
from jnas.data.memory import check_memory
from jnas.distributed.cache import enable_compilation_cache
from jnas.distributed.environment import environment
from jnas.distributed.meshes import data_mesh
from jnas.distributed.sharding import Place, home, split_batch
from jnas.errors import UserError
from jnas.recipes import flat, run_folder
from jnas.recipes.gradient import recipe as gradient
from jnas.recipes.gradient.settings import Search
from jnas.recipes.supernet import supernet_problem
from jnas.train.chunks import drive, put_payload
from jnas.train.program import Keys, Program, compile_steps, split_key
from jnas.types import Context, Learner, Source

WARM_UP = 2  # calls that are not timed


class Subject(NamedTuple):
    """What is measured."""

    learner: Learner
    source: Source
    net: nets.Network
    shape: tuple[int, int, int]


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Measure what a request asks for.

    Args:
      request: `role` "ceilings" (with `dtype`), "cold" or "warm" (with `what`, `settings`, `repeats`, `profile`), and
        `devices`.

    Returns:
      Seconds, bytes, operations: values of JSON.

    Raises:
      UserError: for settings that do not fit each other or the data.
    """
    mesh = None if request["devices"] == 1 else data_mesh(request["devices"])
    if request["role"] == "ceilings":
        return ceilings(mesh, jnp.dtype(request["dtype"]))
    from jnas.recipes.config import build

    settings = build(Search, request["settings"])
    with run_folder.as_user_input():
        subject = subject_of(settings)
    size = settings.steps_per_call or 1
    size = size if request["what"] == "step" else 1
    keys = split_key(jax.random.key(settings.seed))
    program = compile_steps(subject.learner, subject.source.batch, False, size, Place(mesh))
    state, arrays = program.init(keys.init), jax.device_put(subject.source.arrays, home(mesh))
    if request["what"] != "step":
        program = program._replace(run=_alone(request["what"], settings, subject, mesh))
    enable_compilation_cache()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # of this program, however small
    operands = state, np.int32(0), np.int32(size), arrays, keys
    trips = (
        (1.0, solver_trips(settings)) if size > 1 else (solver_trips(settings),)
    )  # outermost: the steps, counted once
    compiled, measured, work = _compile(program, operands, trips)
    if request["role"] == "warm":
        images = settings.batch_size * (1 if request["what"] != "step" else 2)
        if request["what"] == "step":  # of further batches, as `gradient.source_of` has them
            images += settings.batch_size * (settings.terms if settings.fresh_batches else settings.inner_steps - 1)
        parameters = state.point.weights.size  # before the state is given away
        advance = _advance(program._replace(run=compiled), state, operands, request["what"] == "step", mesh)
        times = _times(advance, request["repeats"]) / size
        if request["profile"]:
            _trace(advance, request["profile"])
        low, median, high = np.percentile(times, (25, 50, 75)).tolist()
        measured |= {
            "step_s": median, "step_iqr_s": high - low, "repeats": request["repeats"], "steps_per_call": size,
            "images_per_s": images / median, "parameters": parameters, "image": subject.shape,
            "assumed_loops": work.assumed_loops - (size > 1), "assumed_trips": trips[-1],  # of each of them
            "flops": work.flops, "bytes": work.bytes, "uncounted": sorted(work.uncounted),
            "environment": environment() | {"cpu_threads": _threads(), "argv": []},
        }  # fmt: skip
    return {**measured, "peak_bytes": peak_memory(), "device_peak_bytes": _device_peak()}


def subject_of(settings: Search) -> Subject:
    """The learner, the batches and the supernet of a search."""
    splits = _splits(settings)
    train = splits.train
    source = gradient.source_of(settings, splits)
    net = gradient.supernet_of(spaces.by_name(settings.space), settings, train.num_classes)
    inner, _ = gradient.levels(settings, splits)
    num_steps = settings.epochs * (len(inner) // settings.batch_size)
    return Subject(gradient.learner_of(settings, net, train.shape, num_steps), source, net, train.shape)


def _splits(settings: Search) -> data.Splits:
    """The data that the settings name, or random pixels: how long a step takes does not depend on what they show."""
    described = synthetic(settings.data)
    if described is None:
        return run_folder.load_data(settings.data, settings.image_size)
    height, width, channels, classes = described
    part = settings.validation if settings.validation < 1 else 0.5
    count = max(1024, int(2 * settings.validation), int(4 * settings.batch_size / min(part, 1 - part)))
    check_memory(count * height * width * channels, f"{count:,} random images: give smaller ones")
    random = np.random.default_rng(settings.seed)
    images = random.integers(0, 256, (count, height * width * channels), np.uint8)
    labels = random.integers(0, classes, count, np.int32)
    dataset = data.Dataset(images, labels, (height, width, channels), classes, settings.data)
    return data.Splits(dataset, dataset)


def _alone(what: str, settings: Search, subject: Subject, mesh: Mesh | None):
    """The gradient of the inner loss in weights and alpha, or its curvature times the weights, on a step's batch."""
    problem, gauss_newton = supernet_problem(subject.net, unravel=flat.unravel_of(subject.net, subject.shape))
    curvature = gauss_newton if settings.curvature == "gauss_newton" else bilevel.hessian

    def run(state, start, stop, arrays, keys: Keys):
        batch = split_batch(subject.source.batch(arrays, start, keys.data), mesh).inner
        context = Context(state.variables, jax.random.fold_in(keys.learner, start))
        if what == "hvp":
            return curvature(problem.inner, state.point, batch, context, state.point.weights)
        loss = lambda point: problem.inner(point.weights, point.alpha, batch, context)
        return jax.value_and_grad(loss, has_aux=True)(state.point)

    return jax.jit(run, out_shardings=home(mesh))


def solver_trips(settings: Search) -> float:
    """How often the loop of a solver multiplies by the Hessian, in the mean over the points of a step."""
    points = 2 if settings.momentum == "storm" else 1  # at the previous one nothing is measured
    if settings.estimator == "single_loop":  # its one product stands in no loop, only its power iterations
        return 1 / EVERY / points
    if settings.estimator != "neumann":
        return settings.terms
    last = 1 if settings.curvature == "hessian" else 0  # the product with the result, in the same loop
    if settings.neumann_step is not None:
        return settings.terms + last
    power = inspect.signature(bilevel.neumann).parameters["power_steps"].default
    return settings.terms + last + power / points


def _compile(program: Program, operands: tuple, trips: tuple[float, ...]):
    traced, compiled, lowering, seconds = timed_compile(program.run, operands)
    measured: dict[str, Any] = {"trace_s": round(lowering, 3), "compile_s": round(seconds, 3)}
    memory, analysis = compiled.memory_analysis(), compiled.cost_analysis() or {}
    for part in ("temp", "argument", "output", "alias"):
        measured[f"{part}_bytes"] = getattr(memory, f"{part}_size_in_bytes", None)
    measured |= {"xla_flops": analysis.get("flops"), "xla_bytes": analysis.get("bytes accessed")}
    return compiled, measured, roofline.count(traced.jaxpr, trips=trips)


def timed_compile(run: Any, operands: tuple, options: dict[str, Any] | None = None) -> tuple[Any, Any, float, float]:
    """A jitted function traced and compiled, and the seconds of tracing with lowering and of compiling."""
    begin = time.perf_counter()
    traced = run.trace(*operands)
    lowered = traced.lower()
    middle = time.perf_counter()
    compiled = lowered.compile(options)
    return traced, compiled, middle - begin, time.perf_counter() - middle


def _advance(program: Program, state, operands: tuple, is_step: bool, mesh: Mesh | None) -> Callable[[int], None]:
    """A function that makes call number n, as `fit` makes it, and waits for its results."""
    _, _, _, arrays, keys = operands
    if not is_step:
        return lambda call: (
            jax.block_until_ready(program.run(state, np.int32(call), np.int32(call + 1), arrays, keys)) and None
        )
    step = drive(program, arrays, None, keys, mesh, sys.maxsize).__enter__()

    def advance(call: int) -> None:
        nonlocal state
        state, _ = step(state, call * program.size, (call + 1) * program.size)
        jax.block_until_ready(state)

    return advance


def _times(advance: Callable[[int], None], repeats: int) -> np.ndarray:
    times = []
    for call in range(WARM_UP + repeats):
        begin = time.perf_counter()
        advance(call)
        times.append(time.perf_counter() - begin)
    return np.array(times[WARM_UP:])


def _trace(advance: Callable[[int], None], folder: str) -> None:
    with jax.profiler.trace(str(files.prepare_folder(folder)), create_perfetto_trace=True):
        for call in range(1000, 1003):
            with jax.profiler.StepTraceAnnotation("steps", step_num=call):
                advance(call)


def ceilings(mesh: Mesh | None, dtype: Any, *, least: float = 0.1, size: int = 1 << 26) -> dict[str, float]:
    """What the machine does at most in a matrix product and in a copy, over all devices of a mesh together.

    Args:
      mesh: the devices, or None for one.
      dtype: of the product.
      least: seconds of the largest product; sides double from 512 until it takes that long.
      size: numbers that are copied, float32, a device.

    Returns:
      `flops_per_s` and `bytes_per_s`, the best of several calls.
    """
    count = 1 if mesh is None else mesh.size

    def best(function, *operands) -> float:
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            operands = (jax.block_until_ready(function(*operands)), *operands[1:])
            times.append(time.perf_counter() - begin)
        return min(times[1:])

    flops, side, seconds = 0.0, 512, 0.0
    product = jax.jit(lambda a, b: jnp.einsum("nij,njk->nik", a, b), out_shardings=None)
    while seconds < least and side <= 16384:
        a = put_payload(np.full((count, side, side), 1 / side, dtype), mesh)
        seconds = best(product, a, a)
        flops, side = max(flops, 2.0 * count * side**3 / seconds), 2 * side
    passes = 4  # in one call, each through memory, for no device hides the start of a call behind so little
    copy = jax.jit(lambda x: jax.lax.fori_loop(0, passes, lambda _, y: y + 1.0, x), donate_argnums=0)
    x = put_payload(np.zeros((count, size), np.float32), mesh)
    return {"flops_per_s": flops, "bytes_per_s": 2.0 * x.nbytes * passes / best(copy, x)}


def peak_memory() -> int:
    """The most memory that this process held, in bytes, its compilation included."""
    known = pathlib.Path("/proc/self/status")
    for line in known.read_text(encoding="utf-8").splitlines() if known.exists() else ():
        if line.startswith("VmHWM:"):  # unlike getrusage's, not inherited from the process that started this one
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _device_peak() -> int | None:
    """The most memory in use on a device, where the device keeps count."""
    return max(((d.memory_stats() or {}).get("peak_bytes_in_use", 0) for d in jax.devices()), default=0) or None


def _threads() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reply(answer: Callable[[dict[str, Any]], dict[str, Any]], request: str, path: str) -> None:
    """Read a request from a file, and write what `answer` makes of it, or `{"error": sentence}`, to another."""
    try:
        result = answer(json.loads(pathlib.Path(request).read_text(encoding="utf-8")))
    except Exception as error:
        first = str(error).strip().splitlines()[:1] or [""]
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        result = {"error": f"{kind}{first[0][:400]}"}
    files.atomic_write(path, json.dumps(result))


if __name__ == "__main__":
    reply(answer, *sys.argv[1:])
