"""`python -m jnas`."""

from jnas.cli.main import entry

entry()
