"""Reading the folder of a run: whatever is there, of a finished run, of one under way and of one that was killed."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jnas.errors import UserError
from jnas.files import schemas
from jnas.files.reading import json_of, lines_of, yaml_of

LARGEST = 1e40  # a metric beyond it, or NaN, is no number that a page can draw
Metrics = dict[str, np.ndarray]  # "step" and every metric, each [num_rows] float64; NaN where a row lacks it


def dotted(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of nested settings under the names that the command takes.

    >>> dict(dotted({"seed": 0, "train": {"epochs": 3}}))
    {'seed': 0, 'train.epochs': 3}
    """
    for key, item in settings.items():
        if isinstance(item, Mapping):
            yield from dotted(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


class Trained(NamedTuple):
    """A network that the run trained from scratch: the found one, or a random one beside it."""

    name: str
    metrics: Metrics
    result: dict[str, Any]  # empty until the training is finished


class Run(NamedTuple):
    """What a run folder holds; parts that are not written yet are empty."""

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    search: Metrics
    genotypes: list[dict[str, Any]]  # one a logged epoch, in order
    train: dict[str, Trained]
    result: dict[str, Any]  # empty until the run is finished
    groups: dict[str, Any]  # of operators, as a clustering found them; empty without one
    stage_one: tuple[Metrics, list[dict[str, Any]]]  # metrics and genotypes of a first stage over groups
    notes: tuple[str, ...]  # sentences: what could not be read


def read_run(folder: str | Path) -> Run:
    """Read a run folder, finished or not.

    A line that is no JSON (the last line of a killed process is often torn) is left out and counted in `notes`. Rows
    with the same step are merged and the later one wins: a run that resumes from a checkpoint writes some steps again.

    Args:
      folder: the run folder, the one that holds `config.yaml`.

    Returns:
      The run.

    Raises:
      UserError: if the folder does not exist or is no run folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder that a run wrote.")
    if not any((folder / part).exists() for part in ("config.yaml", "result.json", "search", "train")):
        raise UserError(f"{folder} is no run folder; give the one that holds config.yaml, search/ and train/.")
    notes: list[str] = []
    of_result: list[str] = []
    result = _mapping(folder / "result.json", of_result)
    search, first = _search_folder(folder / "search", result), folder / "stage-1"
    names = sorted((p.name for p in (folder / "train").glob("*") if p.is_dir()), key=_natural)
    return Run(
        folder=folder,
        config=_mapping(folder / "config.yaml", notes),
        environment=_mapping(folder / "environment.json", notes),
        search=_metrics(search / "metrics.jsonl", notes),
        genotypes=_genotypes(search, notes),
        train={
            name: Trained(
                name,
                _metrics(folder / "train" / name / "metrics.jsonl", notes),
                _mapping(folder / "train" / name / "result.json", notes, schemas.Shown),
            )
            for name in names
        },
        result=result,
        groups=_mapping(folder / "cluster" / "found.json", notes),
        stage_one=(_metrics(first / "metrics.jsonl", notes), _genotypes(first, notes)),
        notes=(*notes, *of_result),
    )


def series(metrics: Metrics, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of one metric: `(steps, values)` without the rows that lack it.

    Args:
      metrics: of a `Run` or a `Trained`.
      name: of the metric; unknown names give empty arrays.

    Returns:
      Two arrays [num_values].

    >>> series({"step": np.array([1.0, 2.0]), "loss": np.array([np.nan, 0.5])}, "loss")
    (array([2.]), array([0.5]))
    """
    if name not in metrics:
        return np.empty(0), np.empty(0)
    there = ~np.isnan(metrics[name])
    return metrics["step"][there], metrics[name][there]


def found_results(run: Run) -> list[dict[str, Any]]:
    """Return the results of the found networks, from the run's result or else from what is trained so far.

    Of several searches in one program every different cell counts, the kept one first.
    """
    found = run.result.get("found")
    if isinstance(found, dict) and found:
        return [found, *(t.result for t in run.train.values() if t.result and t.name.startswith("run-"))]
    return [t.result for t in run.train.values() if t.result and not t.name.startswith("random")]


def random_results(run: Run) -> list[dict[str, Any]]:
    """Return the results of the random cells trained in the same way, from the run's result or from what is trained."""
    random = run.result.get("random")
    if isinstance(random, list) and random:
        return [result for result in random if isinstance(result, dict)]
    return [t.result for t in run.train.values() if t.result and t.name.startswith("random")]


def _search_folder(search: Path, result: dict[str, Any]) -> Path:
    """Where the curves lie: of several searches in one program those of the chosen one, or before that of the first."""
    chosen = search / f"run-{result.get('chosen')}"
    if chosen.is_dir():
        return chosen
    several = sorted((path for path in search.glob("run-*") if path.is_dir()), key=lambda path: _natural(path.name))
    return several[0] if several and not (search / "metrics.jsonl").is_file() else search


def _mapping(path: Path, notes: list[str], schema: Any = None) -> dict[str, Any]:
    try:
        if path.exists():
            return yaml_of(path, typed=True) if path.suffix == ".yaml" else json_of(path, schema)
    except UserError as error:
        notes.append(f"{path.name} of {path.parent.name} could not be read and is left out: {error}.")
    return {}


def _by_step(path: Path, notes: list[str], schema: Any) -> dict[int, dict[str, Any]]:
    read, unreadable = lines_of(path, schema)
    rows: dict[int, dict[str, Any]] = {}
    for row in read:
        if all(-LARGEST <= value <= LARGEST for value in row.values() if _is_number(value)):
            rows.setdefault(row["step"], {}).update(row)
        else:
            unreadable += 1
    if unreadable:
        lines = "1 line" if unreadable == 1 else f"{unreadable} lines"
        notes.append(f"{lines} of {path.parent.name}/{path.name} could not be read and left out.")
    return rows


def _genotypes(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    return [row for _, row in sorted(_by_step(folder / "genotypes.jsonl", notes, schemas.Epoch).items())]


def _metrics(path: Path, notes: list[str]) -> Metrics:
    rows = [row for _, row in sorted(_by_step(path, notes, schemas.Step).items())]
    names = dict.fromkeys(name for row in rows for name, value in row.items() if _is_number(value))
    return {
        name: np.array([float(row[name]) if _is_number(row.get(name)) else np.nan for row in rows]) for name in names
    }


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort `random-2` before `random-10`."""
    digits = "".join(c if c.isdigit() else " " + c + " " for c in name).split()
    return [(int(part), "") if part.isdigit() else (-1, part) for part in digits]
