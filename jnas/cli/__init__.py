"""The program `jnas`."""

import signal
import sys
import threading

# Until there is something to save, Ctrl-C ends the program without a word from the middle of an import.
_before = signal.getsignal(signal.SIGINT)
_ours = _before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
if _ours:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
try:
    from jnas.cli import hosts as hosts  # and with it JAX, which reads its variables of the environment
except ValueError as error:
    print(f"jnas: {error}: correct that variable of the environment", file=sys.stderr)
    sys.exit(2)
finally:
    if _ours:
        signal.signal(signal.SIGINT, _before)
