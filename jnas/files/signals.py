"""A polite stop: the first signal is noted and waits for the running chunk, the second is obeyed at once."""

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Iterator


@dataclasses.dataclass
class Stop:
    """Whether somebody asked for a stop: `signal` is the name of the first signal, or None."""

    signal: str | None = None


@contextlib.contextmanager
def stop_on_signal(enabled: bool = True) -> Iterator[Stop]:
    """Note SIGTERM and SIGINT inside the block instead of dying of them.

    The handlers that stood before come back with the first signal, so that a second one does what it always did, and
    at the end of the block. Outside the main thread, where Python allows no handlers, nothing is noted.

    Args:
      enabled: False leaves the signals alone.

    Yields:
      A `Stop` to look at between two chunks of work.
    """
    stop = Stop()
    previous = {}

    def restore():
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def note(number, _frame):
        stop.signal = signal.Signals(number).name
        restore()
        # Not print: its buffer may be in use by the code that the signal broke into.
        os.write(2, f"\n{stop.signal}: stopping after what is under way; once more stops at once\n".encode())

    try:
        if enabled and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                # A shell starts background jobs with SIGINT ignored: the terminal's Ctrl-C is not meant for them.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    previous[number] = signal.signal(number, note)
        yield stop
    finally:
        restore()
