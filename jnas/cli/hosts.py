"""The options of a command that runs on several devices or in several processes."""

import argparse
import contextlib
import math
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jnas.errors import UserError
from jnas.files.text import shortened

if TYPE_CHECKING:  # JAX is imported where something runs: `jnas --help` answers without it
    from jax.sharding import Mesh

    from jnas.distributed.hosts import Hosts

MOST_VIRTUAL = 1024  # devices that a CPU is divided into; each takes memory


@contextlib.contextmanager
def joined_mesh(arguments: argparse.Namespace) -> Iterator["Mesh | None"]:
    """Joins the other processes, if there are any, for as long as the block lasts.

    Args:
      arguments: as parsed, with `--mesh` or without the option.

    Yields:
      The mesh: as asked for, over all devices of several processes, or None for the default device.
    """
    from jnas.distributed.hosts import joined
    from jnas.distributed.meshes import data_mesh, make_mesh

    text = getattr(arguments, "mesh", None)
    axes = None if text is None else parse_mesh(text)
    hosts = from_arguments(arguments)
    if axes is not None:
        make_cpu_devices(math.prod(axes.values()), (hosts and hosts.num_processes) or 1)
    with joined(hosts):
        if axes is not None:
            yield make_mesh(axes)
        else:
            yield None if hosts is None else data_mesh()


def add_arguments(parser: argparse.ArgumentParser, *, mesh: bool = True) -> None:
    """Add `--mesh`, `--distributed`, and `--coordinator HOST:PORT --processes N --process I` to a command.

    Args:
      parser: of the command.
      mesh: whether `--mesh` is among them.
    """
    if mesh:
        parser.add_argument(
            "--mesh", metavar="run=R,data=D",
            help="spread the runs of num_runs over R groups of D devices each, and a batch over D; on a CPU as many "
            "virtual devices are made",
        )  # fmt: skip
    group = parser.add_argument_group("several processes", "the same command in each of them")
    group.add_argument(
        "--distributed", action="store_true", help="find the others in the environment: Cloud TPU, SLURM, Open MPI"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0, with a free port")
    group.add_argument("--processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")


def from_arguments(arguments: argparse.Namespace) -> "Hosts | None":
    """What the options of `add_arguments` say.

    Args:
      arguments: as parsed.

    Returns:
      For `jnas.distributed.hosts.joined`; None: the process is alone.

    Raises:
      UserError: if the options do not fit each other.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> from_arguments(parser.parse_args(["--coordinator", "10.0.0.1:8476", "--processes", "2", "--process", "1"]))
    Hosts(coordinator='10.0.0.1:8476', num_processes=2, process_id=1, heartbeat_timeout=40.0, start_timeout=300.0)
    """
    from jnas.distributed.hosts import Hosts

    explicit = (arguments.coordinator, arguments.processes, arguments.process)
    if explicit == (None, None, None):
        return Hosts() if arguments.distributed else None
    if arguments.distributed:
        raise UserError("--distributed asks the environment and --coordinator tells: give one of them")
    if None in explicit:
        names = ("--coordinator", "--processes", "--process")
        missing = names[explicit.index(None)]
        raise UserError(f"{missing} is missing: give --coordinator HOST:PORT --processes N --process I together")
    try:
        return Hosts(*explicit)
    except ValueError as error:
        raise UserError(str(error)) from error


def parse_mesh(text: str) -> dict[str, int]:
    """The axes of a mesh from words such as `run=4,data=2`.

    Raises:
      UserError: for anything else.

    Example:
      >>> parse_mesh("run=4,data=2")
      {'run': 4, 'data': 2}
    """
    from jnas.distributed.sharding import AXES

    pairs = [part.partition("=") for part in text.split(",")]
    axes = {name.strip(): int(size) for name, _, size in pairs if re.fullmatch("[0-9]{1,9}", size.strip())}
    if len(axes) < len(pairs) or not set(axes) <= set(AXES):
        known = " and ".join(AXES)
        raise UserError(f"{shortened(text)!r} is no mesh: give sizes of {known}, such as data=8 or run=4,data=2")
    return axes


def make_cpu_devices(count: int, num_processes: int = 1) -> None:
    """Let a CPU be this many devices, all processes together; call it before the first computation.

    Other platforms have the devices they have. The variable JAX_NUM_CPU_DEVICES, where it is set, is obeyed.
    """
    import jax

    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", min(max(1, count // num_processes), MOST_VIRTUAL))
