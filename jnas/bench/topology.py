"""`jnas bench --topology`: a search step compiled for a slice of accelerators on a machine without one.

The compiler is the real one, in a process of its own; what it built says how much memory a device needs and which
collectives run, and with the figures of `jnas.bench.chips` how long a step takes at least. One JSON line a case.
"""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jnas.bench import command
from jnas.bench.chips import CHIPS, Chip, predict
from jnas.errors import UserError

EXAMPLES = "v5e:2x4, v5e:16x16, v4:2x2x4, v5p:4x4x4, v6e:4x4 or h100:8"
# No TPU is looked for, and several compilers may be at work.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
EFFORTS = ("O0", "O1", "O2")
_SQUARES = {(1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)}  # of the two-dimensional chips


class Topology(NamedTuple):
    """A slice of chips."""

    name: str  # "v5e:4x4"
    chip: Chip
    sides: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of chips."""
        return math.prod(self.sides)


def parse(name: str) -> Topology:
    """Read the name of a slice: chip, colon, sides; of GPUs, their number.

    Raises:
      UserError: for anything else.

    >>> parse("v4:2x2x4").size, parse("h100:8").sides
    (16, (8,))
    """
    kind, _, rest = name.partition(":")
    chip = CHIPS.get(kind)
    if chip is None or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", rest):
        raise UserError(f"--topology {name} is unknown: give a chip and its sides, such as {EXAMPLES}")
    sides = tuple(int(side) for side in rest.split("x"))
    if chip.axes == 2:
        fits = sides in _SQUARES
    elif chip.axes == 3:
        fits = len(sides) == 3 and list(sides) == sorted(sides) and all(s in (1, 2) or s % 4 == 0 for s in sides)
        fits = fits or sides == (2, 2, 1)
    else:
        fits = len(sides) == 1 and (sides[0] <= 8 or sides[0] % 8 == 0)
    if not fits:
        raise UserError(f"--topology {name} is no slice of {kind} chips that exists: give one such as {EXAMPLES}")
    return Topology(name, chip, sides)


def check_installed(topology: Topology) -> None:
    """Raise a UserError unless the compiler for these chips is installed."""
    module, extra = ("libtpu", "tpu") if topology.chip.axes else ("jax_cuda12_plugin", "cuda12")
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"--topology {topology.name} needs the compiler in {module}, which is not installed: "
            f"pip install 'jnas[{extra}]'"
        )


def run(
    cases: Sequence[command.Case],
    topologies: Sequence[Topology],
    out: str | os.PathLike[str] | None,
    *,
    effort: str = "O1",
    timeout: float | None = None,
) -> int:
    """Compile each case for each slice and predict its time; lines go where those of `command.run` go.

    A prediction that stands in the file is not made again; one that failed is. The batch size of the settings is that
    of one chip.

    Args:
      cases: from `command.plan`, of steps.
      topologies: from `parse`.
      out: a file to which whole lines are appended; None keeps none.
      effort: of the compiler, "O0", "O1" or "O2": less compiles faster and predicts more memory and time.
      timeout: seconds after which a compilation is stopped and its case has failed.

    Returns:
      How many cases failed.

    Raises:
      UserError: if a compiler is missing, the file cannot be read or written, or a case is not a step.
      Interrupted: after SIGTERM; the process that runs is stopped first.
    """
    if effort not in EFFORTS:
        raise UserError(f"--effort {effort} is unknown: give one of {', '.join(EFFORTS)}")
    if any(case.what != "step" for case in cases) or any(case.devices > 1 for case in cases):
        raise UserError("--topology compiles steps on all its chips: leave out --what and devices")
    for topology in topologies:
        check_installed(topology)
    done = {
        command.key_of(line["topology"], line["effort"], line["settings"])
        for line in command.begun(out)
        if line["kind"] == "prediction" and "error" not in line
    }
    todo = [
        (topology, case)
        for case in cases
        for topology in topologies
        if command.key_of(topology.name, effort, dataclasses.asdict(case.settings)) not in done
    ]
    failed = 0
    with command.terminable():
        for number, (topology, case) in enumerate(todo, start=1):
            command.tell(f"{number}/{len(todo)} {case.settings.space} for {topology.name}, {case.dtype}, {effort}")
            line = _predicted(case, topology, effort, timeout)
            failed += "error" in line
            command.tell(line.get("error") or _in_words(line))
            command.emit(line, out)
    skipped = len(cases) * len(topologies) - len(todo)
    command.tell(f"{len(todo) - failed} predicted, {failed} failed, {skipped} already in the file")
    return failed


def finish(line: dict[str, Any], topology: Topology) -> dict[str, Any]:
    """Add to what a compiled program holds what follows from the figures of the chip.

    Args:
      line: `dtype`, `images`, `memory_bytes`, `flops`, `bytes`, `cycles` of a device, and `collectives`.
      topology: the slice.

    Returns:
      The line with the times, the bound, the efficiency, and the share of the memory; GPUs get no times, since nothing
      in a program compiled without one says how fast its kernels are.
    """
    chip = topology.chip
    added: dict[str, Any] = {"memory_share": line["memory_bytes"] / chip.memory_bytes}
    if chip.axes:
        found = predict(
            chip, topology.sides, line["dtype"], flops=line["flops"], bytes=line["bytes"],
            collectives=[(c["kind"], c["count"], c["bytes"]) for c in line["collectives"]],
        )  # fmt: skip
        added |= {**found._asdict(), "step_s": found.step_s, "bound": found.bound, "efficiency": found.efficiency}
        added["images_per_s"] = line["images"] / found.step_s
        if line["cycles"] and chip.clock_hz:
            added["compiler_s"] = line["cycles"] / chip.clock_hz
    return line | added


def _predicted(case: command.Case, topology: Topology, effort: str, timeout: float | None) -> dict[str, Any]:
    settings = dataclasses.asdict(case.settings)
    line = {
        "kind": "prediction", "what": case.what, "topology": topology.name, "devices": topology.size,
        "dtype": case.dtype, "effort": effort, **case.shown(),
    }  # fmt: skip
    answer = command.measure(
        {"topology": topology.name, "effort": effort, "settings": settings}, timeout, None,
        worker="jnas.bench.topology_worker", variables=ENVIRONMENT,
    )  # fmt: skip
    line |= answer if "error" in answer else finish({**line, **answer}, topology)
    return {**line, "settings": settings}


def _in_words(line: dict[str, Any]) -> str:
    gigabytes = f"{line['memory_bytes'] / 1e9:.3g} GB a chip, compiled in {line['compile_s']} s"
    if "step_s" not in line:
        return gigabytes
    return f"{line['step_s']:.3g} s, bound by {line['bound']}, efficiency {line['efficiency']:.2f}; {gigabytes}"
