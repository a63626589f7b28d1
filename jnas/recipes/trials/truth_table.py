"""What architectures are worth where that is known: a table in a file."""

import math
import pathlib

import numpy as np

from jnas import spaces
from jnas.errors import UserError
from jnas.files.reading import table_of
from jnas.searchers.base import Evaluation, Objective
from jnas.spaces import networks
from jnas.types import Key


def table(path: str | pathlib.Path, space: spaces.CellSpace, *, column: str = "score") -> Objective:
    """Scores that are known: a benchmark, or what a laboratory measured.

    Args:
      path: a CSV file, also .gz, whose first line names the columns; one is called "architecture" and holds strings as
        `networks.from_string` reads them; other columns with numbers become metrics.
      space: of the architectures.
      column: of the score, larger is better.

    Returns:
      An objective; an architecture that the file lacks ends the search, for no retry finds it.

    Raises:
      UserError: if the file cannot be read, lacks a column, or holds an architecture twice.
    """
    rows: dict[bytes, dict[str, float]] = {}
    with table_of(pathlib.Path(path)) as reader:
        columns = reader.fieldnames or ()
        for name in ("architecture", column):
            if name not in columns:
                raise UserError(f"{path} has no column {name!r}: it has {', '.join(columns) or 'none'}")
        for line in reader:
            try:
                if None in line or None in line.values():
                    raise ValueError("it has more or fewer fields than the first line")
                code = np.asarray(networks.from_string(space, line.pop("architecture")), np.int32)
                numbers = {name: number for name, text in line.items() if (number := _number(text)) is not None}
                if not math.isfinite(score := numbers.get(column, math.nan)):
                    raise ValueError(f"{column} is {line[column]}: give a finite number")
            except ValueError as error:
                raise UserError(f"line {reader.line_num} of {path} cannot be used: {error}") from error
            if code.tobytes() in rows:
                raise UserError(f"line {reader.line_num} of {path} has an architecture again: keep one line of each")
            rows[code.tobytes()] = numbers | {column: score}

    def objective(arch: np.ndarray, key: Key) -> Evaluation:
        found = rows.get(np.asarray(arch, np.int32).tobytes())
        if found is None:
            name = spaces.to_string(space, arch)
            raise UserError(f"{path} has no line for {name}: add it, or search a space of which every line is there")
        return Evaluation(found[column], found)

    return objective


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
