"""Published cells of the DARTS space, by their names: those of `published.txt`."""

import pathlib

from jnas.spaces.text import parse_genotype

_LINES = pathlib.Path(__file__).with_name("published.txt").read_text(encoding="utf-8").splitlines()
PUBLISHED = {line.partition(" = ")[0]: parse_genotype(line) for line in _LINES if line and not line.startswith("#")}
