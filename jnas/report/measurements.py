"""Reading files of `jnas bench`: the same case of several files found and named by what tells it from the others."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jnas.errors import UserError
from jnas.files.reading import checked, lines_of
from jnas.files.schemas import of_line
from jnas.report.reading import dotted


class Measured(NamedTuple):
    """The measurement of one case in one file."""

    file: str
    label: str  # what tells it from the others of its file, such as "step, space=darts"
    record: dict[str, Any]

    @property
    def failed(self) -> bool:
        """Whether there is an error in place of numbers."""
        return "error" in self.record


class Benchmarks(NamedTuple):
    """What some files of `jnas bench` hold."""

    files: tuple[str, ...]
    cases: tuple[Measured, ...]  # in the order of the first file that has them, the same case of all files together
    ceilings: tuple[tuple[str, dict[str, Any]], ...]  # (file, record)
    predictions: tuple[Measured, ...] = ()  # of `jnas bench --topology`


def read_benchmarks(paths: Sequence[str | Path]) -> Benchmarks:
    """Read files that `jnas bench` wrote.

    Of a case that stands twice in a file, as one that failed and was run again does, the last line counts.

    Args:
      paths: the files, at least one.

    Returns:
      The measurements.

    Raises:
      UserError: if a file cannot be read, or holds no case.
    """
    names = _short_names([Path(path) for path in paths])
    kinds = [(name, record) for name, path in zip(names, paths, strict=True) for record in _records(Path(path))]
    ceilings = {
        (name, r["devices"], r["dtype"]): r for name, r in kinds if r["kind"] == "ceilings" and "error" not in r
    }
    cases: dict[str, dict[str, dict[str, Any]]] = {}
    found = [(name, record) for name, record in kinds if record["kind"] == "case"]
    for asked, (name, record) in zip(_identities(found), found, strict=True):
        cases.setdefault(asked, {})[name] = record
    labels = _labels([next(iter(found.values())) for found in cases.values()])
    measured = [
        Measured(name, label, found[name])
        for label, found in zip(labels, cases.values(), strict=True)
        for name in names
        if name in found
    ]
    machines = tuple((name, r) for (name, *_), r in ceilings.items())
    return Benchmarks(tuple(names), tuple(measured), machines, _predictions(kinds))


def _predictions(kinds: Sequence[tuple[str, dict[str, Any]]]) -> tuple[Measured, ...]:
    """Of a prediction that stands twice in a file, as one that failed and was made again does, the last line counts."""
    found = {
        json.dumps([name, r["topology"], r["effort"], r["settings"]]): (name, r)
        for name, r in kinds
        if r["kind"] == "prediction"
    }
    facts = [(name, {"effort": r["effort"], **dict(dotted(r["settings"]))}) for name, r in found.values()]
    names = dict.fromkeys(name for _, one in facts for name in one if name != "dtype")
    varying = [name for name in names if len({str(one.get(name)) for _, one in facts}) > 1]
    several = len({name for name, _ in facts}) > 1
    return tuple(
        Measured(
            name,
            ", ".join([
                r["topology"], r["dtype"], *(f"{key}={one.get(key)}" for key in varying), *([name] if several else [])
            ]),
            r,
        )
        for (name, r), (_, one) in zip(found.values(), facts, strict=True)
    )  # fmt: skip


def _identities(found: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """What makes two lines the same case: the settings that all files know, for a later version may have more."""
    facts = [dict(dotted(record.get("settings") or {})) for _, record in found]
    if not facts:
        return []
    shared = set.intersection(*(set(one) for one in facts))

    def keys(names: set[str] | None) -> list[str]:
        return [
            json.dumps(
                [r["what"], r["devices"], r["dtype"], {k: v for k, v in one.items() if names is None or k in names}]
            )
            for (_, r), one in zip(found, facts, strict=True)
        ]

    short, full = keys(shared), keys(None)
    files = [name for name, _ in found]
    merged = len(set(zip(files, short, strict=True))) < len(set(zip(files, full, strict=True)))
    return full if merged else short


def _labels(records: Sequence[dict[str, Any]]) -> list[str]:
    """For each case the facts in which the cases differ, the program first."""
    facts = [dict(dotted({"devices": r["devices"], **(r.get("settings") or {})})) for r in records]
    names = list(dict.fromkeys(name for one in facts for name in one))
    varying = [name for name in names if len({str(one.get(name)) for one in facts}) > 1]
    plain = ("space", "estimator")  # their values say by themselves what they are
    labels = []
    for record, one in zip(records, facts, strict=True):
        words = [str(one.get(name)) if name in plain else f"{name}={one.get(name)}" for name in varying]
        labels.append(", ".join([record["what"], *words]))
    return labels


def _records(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} is no file; name a file that jnas bench wrote.")
    found, _ = lines_of(path, Any)  # without what was torn by a kill
    records = [r for r in found if isinstance(r, dict) and {"kind", "devices", "dtype"} <= r.keys()]
    if not any(record["kind"] in ("case", "prediction") for record in records):
        raise UserError(f"{path} holds no measurement; name a file that jnas bench wrote.")
    return [checked(record, of_line(record), path) for record in records]


def _short_names(paths: Sequence[Path]) -> list[str]:
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]
