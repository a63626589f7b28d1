"""Several processes as one run: how they find one another, and how they end together."""

import atexit
import contextlib
import dataclasses
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

from jnas.distributed import peers
from jnas.distributed.processes import client, state
from jnas.errors import Interrupted, UserError

_state: dict[str, Any] = {"watch": None, "failed": False}  # of this process


@dataclasses.dataclass(frozen=True)
class Hosts:
    """How this process finds the others.

    With no argument the environment says it: Cloud TPU pods, SLURM, Open MPI and whatever else
    `jax.distributed.initialize` detects.

    Args:
      coordinator: "HOST:PORT" of process 0, as all processes reach it; the port must be free there.
      num_processes: of the run.
      process_id: of this process, from 0.
      heartbeat_timeout: seconds of silence after which a peer counts as dead.
      start_timeout: seconds to wait for the others at the start.

    Raises:
      ValueError: if one of the first three is given without the others, or a value is out of range.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    heartbeat_timeout: float = 40.0
    start_timeout: float = 300.0

    def __post_init__(self):
        given = (self.coordinator, self.num_processes, self.process_id)
        if None in given and given != (None, None, None):
            raise ValueError(
                f"coordinator, number of processes and process are {given}: give all three, or none and let the "
                "environment say"
            )
        if self.coordinator is not None:
            host, _, port = self.coordinator.rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 2**16:
                raise ValueError(f"coordinator is {self.coordinator!r}: give HOST:PORT, such as 10.0.0.1:8476")
            assert self.num_processes is not None
            assert self.process_id is not None
            if self.num_processes < 1 or not 0 <= self.process_id < self.num_processes:
                raise ValueError(
                    f"process {self.process_id} of {self.num_processes}: number the processes from 0 to one less than "
                    "their number"
                )
        for name in ("heartbeat_timeout", "start_timeout"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1 second")


def start(hosts: Hosts | None) -> None:
    """Make this process one of a run of several; call it before the first call of JAX.

    From here on the death of one process ends all of them, with a sentence on the standard error that names it and
    status 75, at once if a process dies and within `heartbeat_timeout` if its machine does.

    Args:
      hosts: where the others are; None does nothing: the process is alone.

    Raises:
      UserError: if the environment says nothing or the coordinator cannot be reached.
      RuntimeError: if JAX has computed already.
    """
    if hosts is None:
        return
    where = hosts.coordinator or "the address that the environment gives"
    who = "this process" if hosts.process_id is None else f"process {hosts.process_id} of {hosts.num_processes}"
    if hosts.coordinator is not None:
        _check_coordinator(hosts, who)
    # JAX has a handler of SIGTERM, which would do nothing here and hide the signal; `fit` has one of its own.
    jax.config.update("jax_enable_preemption_service", False)
    # Where JAX cannot get all processes together it aborts with its own words and no exception.
    late = threading.Timer(
        hosts.start_timeout,
        _give_up,
        (f"{who} has not met all the others within {hosts.start_timeout:g} s at {where}: see that all of them run",),
    )
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            hosts.coordinator,
            hosts.num_processes,
            hosts.process_id,
            initialization_timeout=int(hosts.start_timeout) + 30,
            heartbeat_timeout_seconds=int(hosts.heartbeat_timeout),
            shutdown_timeout_seconds=int(hosts.heartbeat_timeout),
        )
        if state().num_processes > 1:
            _state["watch"] = _watch(hosts)
            _first_collective(hosts)
    except (ValueError, TypeError) as error:
        if hosts.coordinator is not None:
            raise
        raise UserError(
            "the environment names no other processes (Cloud TPU, SLURM and Open MPI do): name them with "
            "--coordinator HOST:PORT --processes N --process I"
        ) from error
    except OSError as error:
        raise UserError(f"{who} has not met all the others at {where} ({error}): check the firewall") from error
    finally:
        late.cancel()
    atexit.register(_at_exit)  # runs before JAX's own, which waits for the others


def shutdown() -> None:
    """Leave the run in order, together with all the others. Does nothing in a process that is alone."""
    found, _state["watch"] = _state["watch"], None
    if found is not None:
        found.leave()
    jax.distributed.shutdown()


@contextlib.contextmanager
def joined(hosts: Hosts | None) -> Iterator[None]:
    """`start`, the block, and `shutdown`; an error in the block ends the other processes too.

    Use it around everything a program does. A process that an error leaves exits without waiting for the others;
    `Interrupted`, which all processes raise together, counts as an end in order.

    Args:
      hosts: where the others are; None: the process is alone.
    """
    start(hosts)
    try:
        yield
    except Interrupted:
        shutdown()
        raise
    except BaseException as error:
        found = _state["watch"]
        if found is not None:
            if not isinstance(error, UserError):
                found.blame(2.0)  # an operation fails because a peer is gone: the peer is the cause to name
            _state["failed"] = True
            found.fail(str(error) or type(error).__name__)
        raise
    shutdown()


def _watch(hosts: Hosts) -> peers.Watch:
    us, store = state(), client()
    milliseconds = int(1000 * hosts.start_timeout)
    return peers.join(
        us.process_id,
        us.num_processes,
        us.coordinator_address.rpartition(":")[0].strip("[]"),
        lambda text: store.key_value_set("jnas/watch", text),
        lambda: store.blocking_key_value_get("jnas/watch", milliseconds),
        quiet=hosts.heartbeat_timeout * 0.75,  # before JAX notices, and aborts
        timeout=hosts.start_timeout,
    )


def _first_collective(hosts: Hosts) -> None:
    """Let the devices connect while all processes are here.

    Gloo, on CPUs, gives its connections 30 s, and reading the data may set the processes further apart than that.
    """
    from jax.experimental import multihost_utils

    client().wait_at_barrier("jnas/connect", int(1000 * hosts.start_timeout))
    multihost_utils.sync_global_devices("jnas")


def _check_coordinator(hosts: Hosts, who: str) -> None:
    """Find out with a plain connection what JAX would abort about."""
    assert hosts.coordinator is not None
    host, _, port = hosts.coordinator.rpartition(":")
    if hosts.process_id == 0:
        try:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            socket.create_server(("", int(port)), family=family, dualstack_ipv6=both).close()
        except OSError as error:
            raise UserError(f"{who} cannot listen at port {port}: {error.strerror}; choose another port") from error
        return
    until = time.monotonic() + hosts.start_timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
            return
        except OSError as error:
            if time.monotonic() >= until:
                raise UserError(
                    f"{who} cannot reach the coordinator {hosts.coordinator} ({error.strerror or error}), tried for "
                    f"{hosts.start_timeout:g} s: start process 0 there, or check the address and the firewall"
                ) from error
        time.sleep(0.2)


def _give_up(sentence: str) -> None:
    os.write(2, f"jnas: {sentence}\n".encode())
    os._exit(2)


def _at_exit() -> None:
    if _state["failed"]:  # a status other than that of an uncaught error is for the caller to set, with os._exit
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    shutdown()
