"""Records of fine-tunings: what a predictor reads of them, those of a zoo, and those of others from a table."""

# ruff: noqa: UP013  a table of fields, several a line

import os
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any, Required

import numpy as np
from annotated_types import Interval
from typing_extensions import TypedDict

from jnas.data.description import Description
from jnas.errors import UserError
from jnas.files import schemas
from jnas.files.reading import checked, table_of
from jnas.files.schemas import Number, Positive
from jnas.recipes.zoo import entries
from jnas.searchers import predictor

TASK = tuple(f"task: {name}" for name in Description._fields if name not in ("nearest_centroid", "logme"))
REMEDY = "correct it, see jnas zoo records import --help"
SOURCE, STANDING = "model: accuracy at its source", "model: standing at its source"
CENTROID, LOGME = "fit: nearest centroid", "fit: LogME"
FROZEN, RATE, STEPS = "setting: frozen", "setting: log learning rate", "setting: log steps"
NAMES = (
    "model: log parameters", "model: log operations", SOURCE, STANDING, CENTROID, LOGME, FROZEN, RATE, STEPS, *TASK,
)  # fmt: skip

# A row of a table of records; `cli.zoo.COLUMNS` says what each column is.
Share = Annotated[float, Interval(ge=0, le=1)]
Row = TypedDict("Row", {
    "task": Required[str], "model": Required[str], "accuracy": Required[Share], "seconds": Number,
    "parameters": Positive, "operations": Positive, "source_accuracy": Share, "nearest_centroid": Share,
    "logme": Number, "frozen": Share, "learning_rate": Positive, "steps": Positive, "examples": Positive,
    "classes": Positive, "pixels": Positive, "channels": Positive,
}, total=False)  # fmt: skip
FEATURES = {
    "parameters": NAMES[0], "operations": NAMES[1], "source_accuracy": SOURCE, "nearest_centroid": CENTROID,
    "logme": LOGME, "frozen": FROZEN, "learning_rate": RATE, "steps": STEPS, "examples": "task: log_examples",
    "classes": "task: log_classes", "pixels": "task: log_pixels", "channels": "task: channels",
}  # fmt: skip


def of_zoo(folder: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """What fine-tunings came to so far: one record for the end of every rung, `task`, `features`, `score` and more.

    Args:
      folder: of the zoo.

    Returns:
      `(records, complaints)`, without records that have features of another version.
    """
    found, complaints = entries.notes(folder, entries.RECORDS, schema=schemas.Record)
    return [record for record in found if set(record["features"]) <= set(NAMES)], complaints


def from_table(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Records of others from a CSV file with the columns of `Row`; others are left out, an empty cell is not known.

    Args:
      path: of the table, also .gz.

    Returns:
      The records, as `of_zoo` has them.

    Raises:
      UserError: if the file cannot be read or has no row, or a cell is not as it should be: with its line.
    """
    found = []
    with table_of(pathlib.Path(path)) as reader:
        for cells in reader:
            row = {name: _value(name, cell) for name, cell in cells.items() if name in Row.__annotations__ and cell}
            where = f"{path}:{reader.line_num}"
            if lacking := sorted(Row.__required_keys__ - row.keys()):
                raise UserError(f"{where} has no {' and no '.join(lacking)}: {REMEDY}")
            checked(row, Row, where, REMEDY)
            features = {
                feature: float(np.log10(row[name]) if " log" in feature else row[name])
                for name, feature in FEATURES.items() if name in row
            }  # fmt: skip
            if {"examples", "classes"} <= row.keys():
                features["task: log_examples_a_class"] = float(np.log10(row["examples"] / row["classes"]))
            found.append({
                "task": row["task"], "features": features, "score": row["accuracy"], "model": row["model"],
                "seconds": row.get("seconds", 0.0),
            })  # fmt: skip
    if not found:
        raise UserError(f"{path} has no row: {REMEDY}")
    return found


def _value(name: str, cell: Any) -> Any:
    """The number in a cell, the text itself where there is none or belongs none: then the schema says so."""
    if name in ("task", "model"):
        return cell
    try:
        return float(cell)
    except (TypeError, ValueError):
        return cell


def as_read(records: Sequence[dict[str, Any]]) -> predictor.Records:
    """Records as a predictor reads them; a feature that a record does not know is the mean of those that do."""
    x = matrix([record["features"] for record in records])
    known = np.isfinite(x)
    mean = np.where(known, x, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    tasks = [record["task"] for record in records]
    groups = np.array([sorted(set(tasks)).index(name) for name in tasks])
    return predictor.checked(np.where(known, x, mean[None]), [record["score"] for record in records], groups)


def matrix(features: Sequence[dict[str, float]]) -> np.ndarray:
    """Features by name as rows `[n, len(NAMES)]`, NaN where one is not known."""
    return np.array([[one.get(name, np.nan) for name in NAMES] for one in features], np.float64)
