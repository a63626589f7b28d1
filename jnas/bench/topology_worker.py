"""One compilation for a slice, in a process of its own: `python -m jnas.bench.topology_worker REQUEST ANSWER`.

Nothing runs and nothing is allocated: the step's operands are shapes with shardings, the state replicated and the
batches split over the axis "data" of all chips.
"""

import dataclasses
import importlib.resources
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jnas.bench import hlo, roofline, traffic
from jnas.bench.chips import Chip
from jnas.bench.topology import parse
from jnas.bench.worker import peak_memory, reply, solver_trips, subject_of, timed_compile
from jnas.distributed.sharding import AXIS
from jnas.errors import UserError
from jnas.recipes import config, run_folder
from jnas.recipes.gradient.settings import Search
from jnas.types import Batches, Examples, Key, PyTree


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Compile what a request asks for, and read the program.

    Args:
      request: `topology`, `effort` and `settings`.

    Returns:
      Bytes, operations and collectives of one device, and seconds of the compilation: values of JSON.

    Raises:
      UserError: for settings that do not fit each other or the data, or a slice that the compiler does not know.
    """
    topology = parse(request["topology"])
    if request["effort"] != "O2":
        jax.config.update("jax_optimization_level", request["effort"])
    settings: Search = config.build(Search, request["settings"])
    if settings.edges == "auto":  # what a search on these chips takes
        settings = dataclasses.replace(settings, edges="merge")
    with run_folder.as_user_input():
        subject = subject_of(settings)
    mesh = slice_mesh(topology.chip, topology.sides)
    key, state, batches = operands(subject.learner.init, settings, subject.shape, mesh)
    everywhere = NamedSharding(mesh, PartitionSpec())
    step: Any = jax.jit(subject.learner.update, donate_argnums=0, out_shardings=everywhere)
    # GPUs: without fusions of matrix products into Triton kernels. jaxlib 0.10.2 aborts while it tiles those of a
    # DARTS step ("Check failed: subdim_size_accumulator == dim_size").
    options = None if topology.chip.axes else {"xla_gpu_enable_triton_gemm": False}
    with jax.set_mesh(mesh):
        traced, compiled, lowering, seconds = timed_compile(step, (state, batches, key), options)
    found = read(compiled, settings)
    work = roofline.count(traced.jaxpr, trips=(solver_trips(settings),))
    images = mesh.size * settings.batch_size * (2 + (settings.terms if settings.fresh_batches else 0))
    return {
        "edges": settings.edges, "image": subject.shape, "images": images,
        "parameters": state.point.weights.size, "trace_s": round(lowering, 2),
        "compile_s": round(seconds, 2), **found, "flops": work.flops / mesh.size, "uncounted": sorted(work.uncounted),
        "peak_bytes": peak_memory(), "jax": jax.__version__,
    }  # fmt: skip


def slice_mesh(chip: Chip, sides: tuple[int, ...]) -> Mesh:
    """All chips of a slice along one axis "data", as the compiler describes them.

    Args:
      chip: the kind of chip.
      sides: of the slice.

    Returns:
      A mesh whose devices cannot run anything.

    Raises:
      UserError: if the compiler does not know the slice.
    """
    name = "x".join(map(str, sides))
    try:
        if chip.axes:
            wanted = {"chip_config_name": "megacore"} if chip.axes == 3 else {}
            wanted |= {"chips_per_host_bounds": (1, 1, 1)} if sides == (1, 1) else {}
            described = topologies.get_topology_desc(f"{chip.name}:{name}", platform="tpu", **wanted)
        else:
            hosts, each = (1, sides[0]) if sides[0] <= 8 else (sides[0] // 8, 8)
            name = f"{hosts}x1x{each}"
            target = importlib.resources.files("jnas.bench").joinpath("targets", f"{chip.name}.txtpb")
            target = target.read_text(encoding="utf-8")
            described = topologies.get_topology_desc(name, platform="cuda", topology=name, target_config=target)
    except Exception as error:  # whatever a plug-in raises
        raise UserError(f"the compiler refuses {chip.name}:{name}: {str(error).splitlines()[0][:200]}") from None
    return Mesh(np.array(described.devices), (AXIS,), axis_types=(AxisType.Auto,))


def operands(init: Any, settings: Search, shape: tuple[int, int, int], mesh: Mesh) -> tuple[Key, PyTree, Batches]:
    """The shapes of key, state and batches of a step, each with its sharding.

    Args:
      init: of the learner.
      settings: of the search; the batch size is that of one device.
      shape: of an image.
      mesh: from `slice_mesh`.

    Returns:
      `(key, state, batches)`.
    """
    put = lambda tree, *axes: jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, PartitionSpec(*axes))),
        tree,
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    count = settings.batch_size * mesh.size
    image, label = jax.ShapeDtypeStruct((count, *shape), jnp.float32), jax.ShapeDtypeStruct((count,), jnp.int32)
    more = lambda leaf: jax.ShapeDtypeStruct((settings.terms, *leaf.shape), leaf.dtype)
    one = Examples(image, label)  # type: ignore[arg-type]
    split = put(one, AXIS)
    fresh = put(jax.tree.map(more, one), None, AXIS) if settings.fresh_batches else None
    return put(key), put(jax.eval_shape(init, key)), Batches(split, split, fresh)


def read(compiled: Any, settings: Search) -> dict[str, Any]:
    """What a compiled step says: memory of a device, and traffic and collectives of one execution.

    Args:
      compiled: the program.
      settings: that tell how often a solver's loop runs in the mean.

    Returns:
      Values of JSON; `xla_` figures are the compiler's own, which count the body of a loop once.
    """
    memory, analysis = compiled.memory_analysis(), compiled.cost_analysis() or {}
    parts = {part: getattr(memory, f"{part}_size_in_bytes") for part in ("argument", "output", "alias", "temp")}
    code = memory.generated_code_size_in_bytes
    module = hlo.parse(compiled.as_text())
    total = traffic.totals(module, trips=(solver_trips(settings),))
    return {
        **{f"{part}_bytes": size for part, size in parts.items()}, "code_bytes": code,
        "memory_bytes": parts["argument"] + parts["output"] - parts["alias"] + parts["temp"] + code,
        "bytes": total.bytes, "cycles": total.cycles, "collectives": [c._asdict() for c in total.collectives],
        "reductions_only": all(c.kind in ("all-reduce", "reduce-scatter") for c in total.collectives),
        "assumed_loops": total.assumed_loops, "assumed_trips": solver_trips(settings),
        "instructions": sum(len(c.instructions) for c in module.computations.values()),
        "xla_flops": analysis.get("flops"), "xla_bytes": analysis.get("bytes accessed"),
        "xla_optimal_s": analysis.get("optimal_seconds"),
    }  # fmt: skip


if __name__ == "__main__":
    reply(answer, *sys.argv[1:])
