"""Candidates of a zoo and exact limits on what they measured: which models a user can afford."""

import contextlib
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jnas.errors import UserError
from jnas.files import schemas
from jnas.files.reading import checked, decoded, parsed, table_of, wrong
from jnas.recipes.zoo import entries
from jnas.recipes.zoo.place import place_of

ROUNDING = 1e-12  # relative
MOST = 9e9  # of any number in a table: as millions still a whole number
THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+(\.\d*)?")  # any other comma may be that of a fraction
INFERENCE, TRAINING = "inference", "training"
LINES, WEIGHTS = "models.jsonl", "weights.npz"  # of a table, and of a network
TIMED = ("img_size", "batch_size", "step_time", "samples_per_sec")  # columns of a benchmark, after infer_ or train_


class Cost(NamedTuple):
    """A measured time."""

    device: str
    kind: str  # INFERENCE or TRAINING: a forward pass, or a step of gradient descent
    batch_size: int
    seconds: float  # for the batch
    rate: (
        float  # images a second; others' tables measure it apart, and it is not batch_size / seconds to the last digit
    )


class Candidate(NamedTuple):
    """A model, with what is known of it; None: unknown."""

    name: str
    table: str  # which table it is a record of; empty: a network whose weights are here
    accuracy: float | None  # in [0, 1], on the data it was trained on
    parameters: int | None
    flops: float | None  # of one image, two for a multiply-add
    image_size: int | None
    costs: tuple[Cost, ...]
    size: float | None = None  # bytes of the weights, of a quantised network at its widths
    memory: float | None = None  # bytes at work of one image alone, on the machine that added it
    data: str | None = None  # that it was trained on: its source


class Limits(NamedTuple):
    """What a model may cost; None: whatever it likes. Times are those measured on `device`."""

    parameters: float | None = None
    flops: float | None = None  # of one image
    latency: float | None = None  # seconds of one image alone
    throughput: float | None = None  # images a second in inference, at least
    training: float | None = None  # images a second in training, at least
    device: str | None = None
    memory: float | None = None  # bytes at work of one image alone


def limits_of(asked: Any, device: str | None) -> Limits:
    """The limits that the attributes `max_params`, `min_training` and the like of some settings or options ask for.

    Raises:
      UserError: for one that is not positive.
    """
    values = {}
    for name, limit in LIMITS.items():
        given = getattr(asked, limit.option.removeprefix("--").replace("-", "_"))
        if given is not None and not given > 0:
            raise UserError(f"{limit.option} is {given:g}: give a positive number")
        values[name] = None if given is None else given * limit.unit
    return Limits(**values, device=device)


class _Limit(NamedTuple):
    option: str
    what: str
    unit: float  # of the option's numbers
    least: bool  # a lower bound
    value: Callable[[Candidate, str | None], float | None]


def _time(candidate: Candidate, device: str | None, kind: str) -> list[Cost]:
    return [cost for cost in candidate.costs if cost.device == device and cost.kind == kind]


def latency(candidate: Candidate, device: str | None) -> float | None:
    """Seconds of one image alone on a device, None if it was not measured there."""
    return min((c.seconds for c in _time(candidate, device, INFERENCE) if c.batch_size == 1), default=None)


def throughput(candidate: Candidate, device: str | None, kind: str = INFERENCE) -> float | None:
    """The most images a second that were measured on a device, None if none was."""
    return max((cost.rate for cost in _time(candidate, device, kind)), default=None)


LIMITS = {
    "parameters": _Limit("--max-params", "million parameters", 1e6, False, lambda c, d: c.parameters),
    "flops": _Limit("--max-flops", "billion operations an image", 1e9, False, lambda c, d: c.flops),
    "latency": _Limit("--max-latency", "milliseconds an image", 1e-3, False, latency),
    "memory": _Limit("--max-memory", "megabytes at work", 1e6, False, lambda c, d: c.memory),
    "throughput": _Limit("--min-throughput", "images a second", 1.0, True, throughput),
    "training": _Limit(
        "--min-training", "training images a second", 1.0, True, lambda c, d: throughput(c, d, TRAINING)
    ),
}


def within(candidates: Sequence[Candidate], limits: Limits) -> list[Candidate]:
    """The candidates that keep every limit, by what was measured; what was not measured keeps no limit.

    Args:
      candidates: to choose from.
      limits: to keep.

    Returns:
      Those, in their order.

    Raises:
      UserError: if there is none: one sentence with the nearest value that some candidate keeps.
    """
    asked = {name: bound for name in LIMITS if (bound := getattr(limits, name)) is not None}
    found = [c for c in candidates if all(_keeps(c, name, bound, limits.device) for name, bound in asked.items())]
    if found:
        return found
    if not candidates:
        raise UserError("there is no model to choose from: add some with jnas zoo add")
    nearest = []
    for name in asked:
        others = {other: bound for other, bound in asked.items() if other != name}
        rest = [c for c in candidates if all(_keeps(c, o, b, limits.device) for o, b in others.items())]
        best = _best(rest, name, limits.device)
        if best is not None:
            nearest.append((_excess(best[0], asked[name], LIMITS[name].least), name, *best))
    if nearest:
        _, name, value, model = min(nearest)
        raise UserError(_sentence(name, asked[name], value, model, len(asked) > 1))
    for name in asked:
        if _best(candidates, name, limits.device) is None:
            raise UserError(_unmeasured(candidates, name, limits.device))
    several = " and ".join(
        f"{_shown(name, best[0])} ({best[1]})" for name in asked if (best := _best(candidates, name, limits.device))
    )
    raise UserError(f"no model keeps these limits, nor all but one of them: alone the nearest are {several}")


def _keeps(candidate: Candidate, name: str, bound: float, device: str | None) -> bool:
    value = LIMITS[name].value(candidate, device)
    if value is None:
        return False
    # Units are converted on the way here: 1.456 ms is 1.456 / 1000 s in a table and 1.456 * 0.001 s in an option.
    return value >= bound * (1 - ROUNDING) if LIMITS[name].least else value <= bound * (1 + ROUNDING)


def _best(candidates: Sequence[Candidate], name: str, device: str | None) -> tuple[float, str] | None:
    known = [(value, c.name) for c in candidates if (value := LIMITS[name].value(c, device)) is not None]
    return (max if LIMITS[name].least else min)(known, default=None)


def _excess(value: float, bound: float, least: bool) -> float:
    ratio = (bound, value) if least else (value, bound)
    return ratio[0] / ratio[1] if ratio[1] > 0 else math.inf


def _shown(name: str, value: float) -> str:
    """The option with a value that is still kept after rounding."""
    limit = LIMITS[name]
    scaled = value / limit.unit
    if limit.least:
        return f"{limit.option} {math.floor(scaled * 1e4) / 1e4:.10g}"
    text = f"{scaled:.7g}"
    return f"{limit.option} {text if float(text) >= scaled * (1 - ROUNDING) else f'{scaled * (1 + 1e-6):.7g}'}"


def _sentence(name: str, bound: float, value: float, model: str, several: bool) -> str:
    limit = LIMITS[name]
    side = "at least" if limit.least else "at most"
    beside = " and keeps the other limits" if several else ""
    return (
        f"no model has {side} {bound / limit.unit:.10g} {limit.what} ({limit.option}){beside}: "
        f"the nearest is {model}, give {_shown(name, value)}"
    )


def _unmeasured(candidates: Sequence[Candidate], name: str, device: str | None) -> str:
    machines = sorted({cost.device for candidate in candidates for cost in candidate.costs})
    known = f"give one of {', '.join(machines)} with --device" if machines else "measure them with jnas zoo measure"
    return f"no model has {LIMITS[name].what} measured" + (f" on {device!r}: {known}" if device else f": {known}")


def of_zoo(folder: str | os.PathLike[str]) -> tuple[list[Candidate], list[str]]:
    """Every sound model of a zoo: its networks first, then the records of its tables.

    Returns:
      `(candidates, complaints)`, the latter one sentence for each entry or file left out.

    Raises:
      UserError: if there is no such folder.
    """
    place = place_of(folder)
    networks, complaints = entries.scan(folder, entries.NETWORKS)
    candidates: list[Candidate] = []
    for facts, _ in networks:
        costs, more = entries.notes(folder, entries.COSTS, facts["name"], schema=schemas.Cost)
        complaints += more
        with _complaining(complaints):
            checked(facts, schemas.ZooNetwork, place / entries.NETWORKS / facts["name"] / entries.ENTRY)
            candidates.append(from_facts(facts, [c for c in costs if c["sha256"] == facts["sha256"].get(WEIGHTS)]))
    tables, more = entries.scan(folder, entries.TABLES)
    complaints += more
    for facts, files in tables:
        path = place / entries.TABLES / facts["name"] / LINES
        with _complaining(complaints):
            if LINES not in files:
                raise wrong(
                    place / entries.TABLES / facts["name"] / entries.ENTRY, f"sha256.{LINES}", "missing", "its digest"
                )
            lines = enumerate(decoded(files[LINES], path).splitlines(), 1)
            rows = [(parsed(line, f"{path}:{at}", schemas.Listed), f"{path}:{at}") for at, line in lines if line]
            for row, where in rows:
                checked(
                    [dict(zip(Cost._fields, cost, strict=True)) for cost in row["costs"]], list[schemas.Time], where
                )
            candidates += [from_json(row, facts["name"]) for row, _ in rows]
    return candidates, complaints


@contextlib.contextmanager
def _complaining(complaints: list[str]) -> Iterator[None]:
    """What is wrong with one entry keeps from no other one."""
    try:
        yield
    except UserError as error:
        complaints.append(str(error))


def from_facts(facts: Mapping[str, Any], costs: Sequence[Mapping[str, Any]] = ()) -> Candidate:
    """The candidate of an entry among the networks, with the costs measured of it."""
    times = tuple(Cost(*(cost[field] for field in Cost._fields)) for cost in costs)
    return Candidate(
        facts["name"], "", facts["accuracy"], facts["parameters"], facts["flops"], facts["shape"][0], times,
        facts.get("size"), facts.get("memory"), facts["data"],
    )  # fmt: skip


def from_json(row: Mapping[str, Any], table: str) -> Candidate:
    """The candidate of a line of a table."""
    costs = tuple(Cost(*cost) for cost in row["costs"])
    return Candidate(**{**{name: row.get(name) for name in Candidate._fields}, "table": table, "costs": costs})


def read_tables(results: str | os.PathLike[str], benchmarks: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Records of others' models out of tables with the columns of the timm library's results.

    The accuracies have one row a set of weights (`model`, `img_size`, `top1` in per cent, `param_count` in millions);
    a benchmark has one row an architecture and size. They are joined by the part of `model` before the first dot
    and the size.

    Args:
      results: CSV of accuracies.
      benchmarks: `(device, CSV)`, of inference (`infer_step_time` in milliseconds, `infer_samples_per_sec`,
        `infer_batch_size`, `infer_img_size`, `infer_gmacs`) or of training (`train_...`).

    Returns:
      One row a set of weights and size, as `from_json` reads it.

    Raises:
      UserError: if a file cannot be read or lacks a column.
    """
    times: dict[tuple[str, int], list[Cost]] = {}
    products: dict[tuple[str, int], float] = {}
    for device, path in benchmarks:
        rows = _rows(path)
        kind, prefix = (TRAINING, "train") if rows and "train_step_time" in rows[0] else (INFERENCE, "infer")
        for row in rows:
            size, batch, time, rate = (_number(row, f"{prefix}_{column}", path) for column in TIMED)
            key = row.get("model", "").split(".")[0], int(size)
            times.setdefault(key, []).append(Cost(device, kind, int(batch), time / 1000, rate))
            if row.get("infer_gmacs"):
                products[key] = 2e9 * _number(row, "infer_gmacs", path)
    found = []
    for row in _rows(results):
        size = int(_number(row, "img_size", results))
        key = row.get("model", "").split(".")[0], size
        found.append({
            "name": f"{row.get('model', '')}@{size}", "accuracy": _number(row, "top1", results, 100) / 100,
            "parameters": round(1e6 * _number(row, "param_count", results)), "flops": products.get(key),
            "image_size": size, "costs": [list(cost) for cost in times.get(key, [])],
        })  # fmt: skip
    if not found:
        raise UserError(f"{results} has no row: give a table of models")
    return found


def _rows(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    with table_of(pathlib.Path(path)) as reader:
        return list(reader)


def _number(row: Mapping[str, str], column: str, path: str | os.PathLike[str], most: float = MOST) -> float:
    try:
        value = float(row[column].replace(",", "") if THOUSANDS.fullmatch(row[column]) else row[column])
        if not 0 <= value <= most:
            raise ValueError(column)
        return value
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path} has no number in column {column} for {row.get('model')!r}: give a table with that column, from "
            f"0 to {most:g}"
        ) from error
