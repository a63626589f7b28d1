"""`python -m jnas`."""

from jnas.cli import entry

entry()
