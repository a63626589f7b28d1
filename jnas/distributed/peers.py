"""Who is still there: a thread in each process of a run that names a peer which died, and ends this process too.

Without it a dead peer shows in the words of whatever library notices first: an error of a collective operation, a crash
of JAX's own client within a second (if process 0 died) or when its heartbeats have been missing for long, or nothing at
all. Here each process holds one TCP connection to process 0, which the operating system closes when a process dies in
whatever way, and whose keep-alive probes tell of a machine that is gone.
"""

import contextlib
import json
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed the next time
GRACE = 5.0  # seconds in which a process may come to its own end after a peer has failed with words
LINGER = 3.0  # seconds in which process 0, at which JAX's other clients hang, waits for them to leave before it
REMEDY = "run the same command again to go on from the last checkpoint"


class Watch:
    """Connections to the peers, and the thread that listens to them. Use `join`, then `leave` or `fail`.

    Args:
      process_id: of this process.
      num_processes: of the run.
      peers: by number; all others for process 0, and process 0 for the others.
      hosts: the names of the machines of `peers`.
      quiet: seconds of silence after which a peer's machine counts as gone.
    """

    def __init__(
        self, process_id: int, num_processes: int, peers: dict[int, socket.socket], hosts: dict[int, str], quiet: float
    ):
        self._id, self._num, self._peers, self._hosts = process_id, num_processes, peers, hosts
        self._ended: set[int] = set()  # who left in order, or with words
        self._failure: str | None = None  # the sentence of the first peer that failed with words
        self._deadline: float | None = None
        self._failing = False  # whether this process has told why it ends
        self._known, self._sending = threading.Event(), threading.Lock()
        self._gone = {number: threading.Event() for number in peers}
        self._selector = selectors.DefaultSelector()
        for number, peer in peers.items():
            peer.settimeout(10.0)
            _keep_alive(peer, quiet)
            self._selector.register(peer, selectors.EVENT_READ, (number, bytearray()))
        threading.Thread(target=self._listen, name="watch", daemon=True).start()

    def leave(self) -> None:
        """Tell the peers that this process ends in order."""
        self._tell({"kind": "left", "process": self._id})

    def fail(self, words: str) -> None:
        """Tell the peers why this process ends, so that they end too; see to it that it does end.

        Process 0 returns when the others have gone, or after a while: its end would abort them.
        """
        self._failing, self._deadline = True, time.monotonic() + 4 * GRACE
        self._tell({"kind": "failed", "process": self._id, "host": socket.gethostname(), "words": words})
        if self._id == 0:
            until = time.monotonic() + GRACE + LINGER
            for gone in self._gone.values():
                gone.wait(max(0.0, until - time.monotonic()))

    def blame(self, seconds: float) -> None:
        """End the process with the peer's name if one is found within some seconds to have died or failed.

        Use it when an operation that all processes take part in has failed here.

        Args:
          seconds: how long to wait for the news.
        """
        if self._known.wait(seconds):
            if self._failure is not None:
                self._end(self._failure)
            time.sleep(60.0)  # the thread is about to end the process

    def _listen(self) -> None:
        while self._selector.get_map() or self._deadline is not None:
            for ready, _ in self._selector.select(1.0):
                number, waiting = ready.data
                try:
                    data = self._peers[number].recv(4096)
                except OSError:  # the machine is gone
                    data = b""
                waiting += data
                while (end := waiting.find(b"\n")) >= 0:
                    message = json.loads(waiting[:end])
                    del waiting[: end + 1]
                    self._heard(message, number)
                if not data:
                    self._selector.unregister(ready.fileobj)
                    self._gone[number].set()
                    if number not in self._ended and not self._failing:
                        self._lost(number, self._hosts[number])
            if self._deadline is not None and time.monotonic() >= self._deadline:
                if self._failing:
                    os._exit(1)
                self._end(self._failure)

    def _heard(self, message: dict[str, Any], sender: int) -> None:
        if message["kind"] == "lost":
            self._lost(message["process"], message["host"])
        if message["process"] == sender:  # and not handed on
            self._ended.add(sender)
        if message["kind"] == "failed" and self._failure is None:
            if self._id == 0:
                self._tell(message, leave_out=sender)
            self._failure = (
                f"process {message['process']} of {self._num} ({message['host']}) has stopped: {message['words']}"
            )
            self._deadline = self._deadline or time.monotonic() + GRACE
            self._known.set()

    def _lost(self, number: int, host: str) -> NoReturn:
        self._known.set()
        sentence = f"process {number} of {self._num} ({host}) has died: {REMEDY}"
        _say(sentence)
        if self._id == 0:
            self._tell({"kind": "lost", "process": number, "host": host}, leave_out=number)
        self._end(None)

    def _end(self, sentence: str | None) -> NoReturn:
        if sentence is not None:
            _say(sentence)
        if self._id == 0:
            until = time.monotonic() + LINGER
            for number, peer in self._peers.items():
                with contextlib.suppress(OSError):
                    while not self._gone[number].is_set() and (left := until - time.monotonic()) > 0:
                        peer.settimeout(left)
                        if not peer.recv(4096):
                            break
        os._exit(STATUS)  # threads of the libraries wait for the dead, and so would any other way out

    def _tell(self, message: dict[str, Any], leave_out: int | None = None) -> None:
        with self._sending:
            for number, peer in self._peers.items():
                if number != leave_out:
                    with contextlib.suppress(OSError):  # its end is news of its own
                        peer.sendall(json.dumps(message).encode() + b"\n")


def join(
    process_id: int,
    num_processes: int,
    coordinator: str,
    publish: Callable[[str], None],
    look_up: Callable[[], str],
    *,
    quiet: float,
    timeout: float,
) -> Watch:
    """Connect the processes of a run for watching one another.

    Args:
      process_id: of this process.
      num_processes: of the run, at least 2.
      coordinator: the machine of process 0, as the others reach it.
      publish: hands a text of process 0 to the others.
      look_up: that text.
      quiet: see `Watch`.
      timeout: seconds for all to connect.

    Returns:
      The watch, its thread running.

    Raises:
      OSError: if a connection cannot be made in time.
    """
    if process_id:
        port, token = look_up().split()
        peer = socket.create_connection((coordinator, int(port)), timeout=timeout)
        peer.sendall(f"{token} {process_id} {socket.gethostname()}\n".encode())
        return Watch(process_id, num_processes, {0: peer}, {0: coordinator}, quiet)
    token, peers, hosts = secrets.token_hex(16), {}, {}
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    with socket.create_server(("", 0), family=family, dualstack_ipv6=both, backlog=num_processes) as server:
        publish(f"{server.getsockname()[1]} {token}")
        until = time.monotonic() + timeout
        while len(peers) < num_processes - 1:
            server.settimeout(max(0.1, until - time.monotonic()))
            peer, _ = server.accept()
            peer.settimeout(5.0)
            words = _line(peer).split()
            if len(words) == 3 and secrets.compare_digest(words[0], token):
                peers[int(words[1])], hosts[int(words[1])] = peer, words[2]
            else:  # somebody else
                peer.close()
    return Watch(process_id, num_processes, peers, hosts, quiet)


def _line(peer: socket.socket) -> str:
    data = b""
    with contextlib.suppress(OSError):
        while not data.endswith(b"\n") and len(data) < 1000 and (more := peer.recv(1)):
            data += more
    return data.decode(errors="replace")


def _keep_alive(peer: socket.socket, quiet: float) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    probes = 4
    for name, value in (("TCP_KEEPIDLE", quiet / 2), ("TCP_KEEPINTVL", quiet / 2 / probes), ("TCP_KEEPCNT", probes)):
        if hasattr(socket, name):  # not on every system
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), max(1, int(value)))


def _say(sentence: str) -> None:
    os.write(2, f"jnas: {sentence}\n".encode())  # not print: its buffer may be held by the thread that is stuck
