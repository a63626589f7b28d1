"""The options of a command that runs in several processes."""

import argparse

from jnas.engine.hosts import Hosts
from jnas.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--distributed`, or `--coordinator HOST:PORT --processes N --process I`, to a command.

    Args:
      parser: of the command.
    """
    group = parser.add_argument_group("several processes", "the same command in each of them")
    group.add_argument(
        "--distributed", action="store_true", help="find the others in the environment: Cloud TPU, SLURM, Open MPI"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0, with a free port")
    group.add_argument("--processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")


def from_arguments(arguments: argparse.Namespace) -> Hosts | None:
    """What the options of `add_arguments` say.

    Args:
      arguments: as parsed.

    Returns:
      For `jnas.engine.hosts.joined`; None: the process is alone.

    Raises:
      UserError: if the options do not fit each other.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> from_arguments(parser.parse_args(["--coordinator", "10.0.0.1:8476", "--processes", "2", "--process", "1"]))
    Hosts(coordinator='10.0.0.1:8476', num_processes=2, process_id=1, heartbeat_timeout=40.0, start_timeout=300.0)
    """
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
