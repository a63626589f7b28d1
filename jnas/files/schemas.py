"""What the files that jnas writes hold: the fields that it reads again, for `reading` to check; others may be there."""

# ruff: noqa: UP013  a table of fields, several a line

import pathlib
from typing import Annotated, Any, Literal, Required

from annotated_types import Interval, Len
from typing_extensions import TypedDict  # as pydantic asks before Python 3.12

Number = Annotated[float, Interval(ge=-1e40, le=1e40)]  # finite, and such that a page can draw it
Positive = Annotated[float, Interval(gt=0, le=1e40)]
Whole = Annotated[int, Interval(ge=-(2**53), le=2**53)]
Count = Annotated[int, Interval(ge=0, le=2**53)]
Some = Annotated[int, Interval(ge=1, le=2**16)]  # channels, layers, pixels of a side: what memory is taken by
Texts = list[str]
Numbers = list[Number]
Mapping = dict[str, Any]

# network.json: what rebuilds a network.
Layers = Annotated[int, Interval(ge=1, le=2**8)]
NetworkSize = TypedDict("NetworkSize", {
    "channels": Some, "depth": Layers, "dimension": Some, "head_channels": Some, "head_depth": Layers,
    "most_boxes": Some, "height": Some | None, "width": Some | None, "image_size": Some | None,
}, total=False)  # fmt: skip
Quantisation = TypedDict("Quantisation", {"units": Literal["shared", "edges", "blocks"], "policy": dict[str, str]})
Network = TypedDict("Network", {
    "task": str, "genotype": Required[str], "space": Required[str], "num_classes": Required[Some],
    "shape": Required[Annotated[list[Some], Len(3, 3)]], "class_names": Texts | None,
    "mean": Required[Numbers], "std": Required[list[Positive]], "training": NetworkSize, "settings": NetworkSize,
    "gallery": Count, "quantisation": Quantisation,
}, total=False)  # fmt: skip

# weights.npz, in its header: path, shape and dtype of an array.
Leaf = Annotated[list[Any], Len(3, 3)]

# result.json: what a page shows of a network, the file of a network, of a classifier, and of a run.
Shown = TypedDict("Shown", {
    "name": str, "genotype": str, "space": str, "parameters": Number, "channels": Number, "depth": Number,
    "epochs": Number | None, "test_accuracy": Number, "test_loss": float, "train_accuracy": Number, "seconds": Number,
    "seed": Whole,
}, total=False)  # fmt: skip


class Trained(Shown, total=False):
    """Which has ended."""

    genotype: Required[str]


class Classifier(Trained, total=False):
    """Whose accuracy is known."""

    test_accuracy: Required[Number]


Agreement = TypedDict("Agreement", {
    "num_runs": Count, "distinct": Count, "distinct_up_to_names": Count, "identical_pairs": Number | None,
    "isomorphic_pairs": Number | None, "kendall_tau_mean": Number | None, "kendall_tau_min": Number | None,
})  # fmt: skip
OneOfSeveral = TypedDict("OneOfSeveral", {
    "seed": Required[Whole], "genotype": Required[str], "canonical": str, "diverged_at": Count | None,
    "outer_accuracy": Required[Number | None], "test_accuracy": Number | None, "settings": dict[str, Number],
}, total=False)  # fmt: skip
Cell = TypedDict("Cell", {"kind": str, "genotype": str, "test_accuracy": Number, "parameters": Count})
Reference = TypedDict("Reference", {"cells": list[Cell], "versions": dict[str, str]})
Described = TypedDict("Described", {
    "name": str, "train": Count, "validation": Count, "test": Count, "shape": list[Count], "num_classes": Count,
    "largest_class": Number,
}, total=False)  # fmt: skip
Found = TypedDict("Found", {
    "genotype": Required[str], "space": str, "steps": Count, "seconds": Number, "derivation": str, "connected": bool,
    "runs": list[OneOfSeveral], "chosen": Whole, "agreement": Agreement, "edge_ops": dict[str, list[Texts]],
    "stages": list[Mapping], "evaluations": Count,
}, total=False)  # fmt: skip


Precision = TypedDict("Precision", {
    "boxes": Count, "voc_ap50": Number | None, "coco_ap50": Number | None, "coco_ap": Number | None,
})  # fmt: skip


class Detector(Trained, total=False):
    """Which was measured on photos."""

    voc_ap50: Required[Number | None]
    coco_ap50: Required[Number | None]
    coco_ap: Required[Number | None]
    classes: Required[dict[str, Precision]]
    photos: Required[Count]
    measured_on: Required[str]


class Embedding(Trained, total=False):
    """Which was measured by what is near."""

    recall_at_1: Required[Number]
    map_at_r: Required[Number]


class OfTask(Found, total=False):
    """A run for a task other than classification."""

    task: Required[str]
    method: str
    seed: Whole
    random: Required[list[Trained]]
    data: Required[Described]


class Detection(OfTask, total=False):
    """A training of a detector."""

    found: Required[Detector]


class Recognition(OfTask, total=False):
    """A training of an embedding."""

    found: Required[Embedding]


class Data(Described, total=False):
    """With images to test on."""

    test: Required[Count]


# The parts of the page that a choice among the networks of a zoo and a search for a quantised network have.
Predicted = TypedDict("Predicted", {
    "model": str, "frozen": Number, "learning rate": Number, "epochs": Number, "reasons": str,
    "seconds": Number | None, "mean": Number, "low": Number, "high": Number, "why": str,
}, total=False)  # fmt: skip
Tried = TypedDict("Tried", {
    "model": str, "predicted": Predicted, "test_accuracy": Required[Number], "seconds": Number, "why": str, "name": str,
    "epochs": Number,
}, total=False)  # fmt: skip
Offered = TypedDict("Offered", {"model": str, "accuracy": Number | None, "parameters": Number | None})
Worth = TypedDict("Worth", {"name": str, "rise": Number, "spread": Number})
Carried = TypedDict("Carried", {
    "predictor": Required[str], "records": Required[Count], "tasks": Required[Count], "error": Required[Number],
    "guess": Required[Number], "features": Required[list[Worth]], "coverage": Number,
}, total=False)  # fmt: skip
Selected = TypedDict("Selected", {
    "candidates": list[Offered], "ranking": list[Predicted], "trials": list[Tried],
    "records": Annotated[list[Count], Len(2, 2)], "carried by": Carried | None, "stopped": str,
    "next": Predicted | None, "target": Number | None, "chosen": str,
}, total=False)  # fmt: skip
InIntegers = TypedDict("InIntegers", {
    "test_accuracy": Number, "agreement": Number, "latency": Number, "refused": str,
}, total=False)  # fmt: skip
Points = TypedDict("Points", {"names": Texts, "values": list[Numbers]})
Quantised = TypedDict("Quantised", {
    "test_accuracy": Required[Number], "size": Required[Number], "compute": Required[Number],
    "reward": Required[Number], "evaluations": Required[Count], "genotype": Required[str],
    "policy": Required[dict[str, str]], "curve": Required[Numbers], "integer": InIntegers, "points": Points,
}, total=False)  # fmt: skip
AllQuantised = TypedDict("AllQuantised", {
    "joint": Required[Quantised], "eight": Quantised, "then": Quantised, "front-1": Quantised, "front-2": Quantised,
    "front-3": Quantised, "front-4": Quantised, "front-5": Quantised, "front-6": Quantised, "front-7": Quantised,
    "front-8": Quantised, "front-9": Quantised,
}, total=False)  # fmt: skip


class Run(Found, total=False):
    """A search, or a training of classifiers."""

    method: str
    seed: Whole
    found: Required[Classifier]
    random: Required[list[Classifier]]
    data: Required[Data]
    reference: Reference
    selection: Selected
    quantised: AllQuantised


# found.json of the parts of a search; searches.json, sensitivity.json and choice.json.
Clusters = TypedDict("Clusters", {"groups": list[Texts], "representatives": Texts})
Winners = TypedDict("Winners", {"groups": list[Texts], "winners": dict[str, list[Count | None]]})
Trial = TypedDict("Trial", {
    "score": Required[Number], "scores": Numbers, "genotypes": Texts, "genotype": str, "space": str, "strategy": str,
}, total=False)  # fmt: skip
Entry = TypedDict("Entry", {
    "step": Count, "mean": Number, "std": Number, "moved_hyper": Number | None, "moved_posterior": Number | None,
}, total=False)  # fmt: skip
Level = TypedDict("Level", {
    "trials": Required[list[Trial]], "log": Required[list[Entry]], "space": str, "genotype": str, "mean": Number,
    "std": Number, "known": Count, "members": Count, "costs": dict[str, Number], "limits": dict[str, Number],
}, total=False)  # fmt: skip
Search = TypedDict("Search", {"evaluations": Count, "arch": list[Count], "columns": list[Count], "curve": Numbers})
Measured = TypedDict("Measured", {
    "units": Texts, "methods": Texts, "reference": dict[str, Number], "losses": dict[str, list[Numbers]],
})  # fmt: skip
Choice = TypedDict("Choice", {"model": str, "settings": Mapping})

# Lines of logs: metrics.jsonl, genotypes.jsonl and trials.jsonl.
Step = TypedDict("Step", {"step": Count})
Epoch = TypedDict("Epoch", {
    "step": Required[Count], "epoch": Number, "genotype": str, "alpha": dict[str, list[Numbers]],
}, total=False)  # fmt: skip
Evaluated = TypedDict("Evaluated", {
    "trial": Required[Count], "scores": Required[Numbers], "seconds": Number, "error": str, "architecture": str,
    "metrics": Mapping,
}, total=False)  # fmt: skip

# What the workers of a search keep with a trial, in its storage.
Asked = TypedDict("Asked", {"code": Required[list[Annotated[int, Interval(ge=0, le=2**31 - 1)]]], "ask": Count})
Retry = TypedDict("Retry", {"of": Count, "deaths": Count})
Kept = TypedDict("Kept", {
    "trial": Asked, "retry": Retry, "lost": str | None, "error": str | None, "metrics": Mapping, "seconds": Number,
    "lease": Mapping | None, "values": list[float],
}, total=False)  # fmt: skip

Scored = TypedDict("Scored", {"genotype": str, "score": Number})

# at_work.json.
Picture = TypedDict("Picture", {"file": str, "caption": str})
AtWork = TypedDict("AtWork", {
    "task": Required[Literal["detection", "recognition"]], "measured": Required[Mapping],
    "pictures": Required[list[Picture]], "curves": dict[str, dict[str, Numbers]], "photos": Count, "queries": Count,
    "gallery": Count,
}, total=False)  # fmt: skip

# A zoo: entry.json, a cost, what a fine-tuning came to, and a line of a table.
Sums = TypedDict("Sums", {
    "name": Required[str], "sha256": Required[dict[str, str]], "parameters": Count,
}, total=False)  # fmt: skip
ZooNetwork = TypedDict("ZooNetwork", {
    "name": Required[str], "sha256": Required[dict[str, str]], "accuracy": Required[Number],
    "parameters": Required[Count], "flops": Required[Number | None],
    "shape": Required[Annotated[list[Some], Len(3, 3)]], "data": str, "num_classes": Some,
    "size": Number, "memory": Number,
}, total=False)  # fmt: skip
Time = TypedDict("Time", {"device": str, "kind": str, "batch_size": Count, "seconds": Number, "rate": Number})


class Cost(Time):
    """Of the network whose weights have this digest."""

    sha256: str


Record = TypedDict("Record", {
    "task": str, "features": dict[str, Number], "score": Number, "model": str, "seconds": Number,
})  # fmt: skip
Listed = TypedDict("Listed", {
    "name": Required[str], "accuracy": Number | None, "parameters": Count | None, "flops": Number | None,
    "image_size": Count | None, "costs": Required[list[Annotated[list[Any], Len(5, 5)]]],
}, total=False)  # fmt: skip

# A line of jnas bench: what failed, or a case, the machine's ceilings, or a prediction for another machine.
Line = TypedDict("Line", {
    "kind": Required[Literal["case", "ceilings", "prediction"]], "devices": Required[Count], "dtype": Required[str],
    "settings": Mapping | None, "environment": Mapping, "error": str, "bound": str, "reductions_only": bool,
    "step_s": Positive, "step_iqr_s": Number | None, "images_per_s": Number | None, "compile_s": Number | None,
    "compile_cold_s": Number | None, "compile_warm_s": Number | None, "peak_bytes": Number | None,
    "device_peak_bytes": Number | None, "temp_bytes": Number | None, "flops": Number | None, "bytes": Number | None,
    "flops_per_s": Number | None, "intensity": Number | None, "roofline": Number | None, "compute_s": Number,
    "memory_s": Number, "interconnect_s": Number, "efficiency": Number | None, "compiler_s": Number | None,
    "memory_bytes": Number, "memory_share": Number,
}, total=False)  # fmt: skip
Collective = TypedDict("Collective", {"kind": str, "count": Number, "bytes": Number})


class Case(Line, total=False):
    """Of a program."""

    what: Required[str]


class Prediction(Line, total=False):
    """Of a program for a slice."""

    topology: Required[str]
    effort: Required[str]
    settings: Required[Mapping]


class GoodCase(Case, total=False):
    """Which was measured."""

    step_s: Required[Positive]


class GoodPrediction(Prediction, total=False):
    """Which was compiled."""

    memory_bytes: Required[Number]
    collectives: Required[list[Collective]]


class Ceilings(Line, total=False):
    """Of the machine."""

    flops_per_s: Required[Positive]
    bytes_per_s: Required[Positive]


NAMED = {
    "network.json": Network, "environment.json": TypedDict("Environment", {"jnas": str, "started": str}, total=False),
    "searches.json": dict[str, Search], "sensitivity.json": dict[str, Measured], "choice.json": Choice,
    "records.json": list[Record], "at_work.json": AtWork,
}  # fmt: skip


def of(path: pathlib.Path, value: Any) -> Any:
    """The schema of a JSON file of a run, by its name and, where several recipes write it, by what is in it."""
    has = value.keys() if isinstance(value, dict) else set()
    if path.name == "result.json":
        if has & {"found", "random", "data"}:
            tasks = {"detection": Detection, "recognition": Recognition}
            return tasks.get(str(value["task"]), OfTask) if "task" in has else Run
        return Trained if has & {"voc_ap50", "recall_at_1"} else Classifier
    if path.name == "found.json":
        marks = {"trials": Level, "log": Level, "winners": Winners, "representatives": Clusters}
        return next((schema for mark, schema in marks.items() if mark in has), Found)
    return NAMED.get(path.name, Mapping)


def of_line(value: Any) -> Any:
    """The schema of a line of jnas bench."""
    kind, failed = (str(value.get("kind")), "error" in value) if isinstance(value, dict) else ("", True)
    good = {"case": GoodCase, "prediction": GoodPrediction, "ceilings": Ceilings}
    return ({"case": Case, "prediction": Prediction} if failed else good).get(kind, Line)
