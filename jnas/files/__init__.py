"""Files: read through one door, written whole or not at all, locked, masked where they hold credentials. For all."""

from jnas.files.signals import Stop, stop_on_signal
from jnas.files.writing import atomic_write, explain, prepare_folder

__all__ = [
    "Stop",
    "atomic_write",
    "explain",
    "prepare_folder",
    "stop_on_signal",
]
