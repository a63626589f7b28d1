"""Files of a run, a zoo and a benchmark, damaged one at a time and read by the command line in one process."""

import contextlib
import functools
import hashlib
import io
import json
import os
import pathlib
import random
import shutil
import sys
import traceback
import types
import warnings

import mutations
import numpy as np
import pytest
from tiny import OLD_SEARCH

from jnas.cli.main import main
from jnas.recipes.zoo import entries

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CELL = "|none~0|+|nor_conv_3x3~0|none~1|+|none~0|skip_connect~1|nor_conv_3x3~2|"
COST = {"device": "cpu", "kind": "inference", "batch_size": 1, "seconds": 0.01, "rate": 100.0, "repeats": 7}
LISTED = {
    "name": "theirs@32", "accuracy": 0.7, "parameters": 100, "flops": None, "image_size": 32,
    "costs": [["cpu", "inference", 1, 0.01, 100.0]],
}  # fmt: skip
BENCHMARK = [
    {"kind": "ceilings", "devices": 1, "dtype": "float32", "flops_per_s": 1e11, "bytes_per_s": 1e10},
    {
        "kind": "case", "what": "step", "devices": 1, "dtype": "float32", "settings": {"space": "darts", "terms": 2},
        "step_s": 0.5, "step_iqr_s": 0.01, "images_per_s": 128.0, "compile_cold_s": 9.0, "compile_warm_s": 2.0,
        "peak_bytes": 10**9, "temp_bytes": 10**8, "flops": 1e9, "bytes": 1e8, "flops_per_s": 2e9, "intensity": 10.0,
        "roofline": 0.02, "environment": {"device": "cpu", "jax": "0.10"},
    },
    {"kind": "case", "what": "hvp", "devices": 1, "dtype": "float32", "settings": {"space": "darts"}, "error": "slow"},
    {
        "kind": "prediction", "what": "step", "topology": "v5e:2x2", "devices": 4, "dtype": "float32", "effort": "O1",
        "settings": {"space": "darts"}, "memory_bytes": 10**9, "memory_share": 0.1, "compile_s": 3.0, "step_s": 0.1,
        "compute_s": 0.05, "memory_s": 0.08, "interconnect_s": 0.02, "bound": "memory", "efficiency": 0.9,
        "images_per_s": 10.0, "flops": 1e9, "bytes": 1e8,
        "collectives": [{"kind": "all-reduce", "count": 2.0, "bytes": 10.0}], "reductions_only": True,
    },
]  # fmt: skip
AT_WORK = {
    "task": "detection", "measured_on": "test", "photos": 2, "pictures": [{"file": "pictures/a.jpg", "caption": "a"}],
    "measured": {"voc_ap50": 0.5, "coco_ap50": 0.4, "coco_ap": 0.2, "classes": {
        "disc": {"boxes": 3, "voc_ap50": 0.5, "coco_ap50": 0.4, "coco_ap": None}}},
    "curves": {"disc": {"recall": [0.0, 1.0], "precision": [1.0, 0.5]}},
}  # fmt: skip
LEVEL = {
    "space": "darts", "strategy": "grid", "mean": 0.5, "std": 0.1, "members": 4, "converged": True, "evaluated": True,
    "trials": [{"space": "darts", "strategy": "grid", "score": 0.5, "scores": [0.4, 0.6], "genotypes": [CELL, CELL]}],
    "log": [{"step": 1, "mean": 0.5, "std": 0.1, "moved_hyper": 0.1, "moved_posterior": None, "name": "darts"}],
}  # fmt: skip
SENSITIVITY = {
    "units": ["stem"], "methods": ["w8a8", "w4a4"], "reference": {"loss": 0.5}, "losses": {"loss": [[0.5, 0.7]]},
}  # fmt: skip
CLUSTERS = {
    "groups": [["none"], ["skip_connect"]], "representatives": ["none", "skip_connect"],
    "ops": ["none", "skip_connect"], "correlation": [[1.0, 0.2], [0.2, 1.0]], "linkage": [[0.0, 1.0, 0.8, 2.0]],
}  # fmt: skip
MORE = {  # that the result of one run or another has
    "runs": [{"seed": 0, "genotype": CELL, "diverged_at": None, "outer_accuracy": 0.5, "settings": {"alpha": 0.1}}],
    "chosen": 0, "reference": {
        "cells": [{"kind": "random", "genotype": CELL, "test_accuracy": 0.5, "parameters": 100}],
        "versions": {"jax": "0.10"},
    },
    "agreement": {
        "num_runs": 2, "distinct": 2, "distinct_up_to_names": 1, "identical_pairs": 0.0, "isomorphic_pairs": 1.0,
        "kendall_tau_mean": 0.3, "kendall_tau_min": 0.3,
    },
    "selection": {
        "trials": [{"model": "a", "test_accuracy": 0.5, "seconds": 2.0, "predicted": {"mean": 0.4, "low": 0.3,
                    "high": 0.5, "seconds": 1.0, "frozen": 1, "learning rate": 0.1, "epochs": 2}},
                   *({"name": "t", "model": "b", "test_accuracy": score, "epochs": 2 * score, "why": "w"}
                     for score in (0.5, 1.0))],
        "candidates": [{"model": "a", "accuracy": 0.5, "parameters": 100}], "ranking": [{"model": "a", "reasons": "r"}],
        "records": [3, 8], "carried by": None, "stopped": "s", "target": 0.9,
        "next": {"model": "b", "epochs": 3, "seconds": 1.0, "why": "w"},
    },
    "quantised": {name: {
        "test_accuracy": 0.5, "size": 900.0, "compute": 1e6, "reward": 0.4, "evaluations": 8, "genotype": CELL,
        "policy": {"stem": "w8a8"}, "integer": {"test_accuracy": 0.5}, "curve": [0.1, 0.4],
    } for name in ("joint", "eight")},
    "stages": [{"name": "search", "ended": "cap", "epochs": [2, 2]}], "edge_ops": {"cell": [["none"]] * 6},
}  # fmt: skip


class Stopped(BaseException):
    """Reading is over and something heavy would begin."""


def stop(*_, **__):
    raise Stopped


def corpus(folder):
    """Makes whole files of every kind in a folder: `run`, `half`, `page` (of all kinds), `zoo` and `bench.jsonl`."""
    run, page, zoo = folder / "run", folder / "page", folder / "zoo"
    shutil.copytree(GOLDEN / "run-0.5.0", run)
    shutil.copytree(run, folder / "half")  # a run that was killed before its end
    (folder / "half/result.json").unlink()
    for name in ("images.npz", "image.png"):
        shutil.copy(GOLDEN / name, folder)
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    made = {
        "result.json": result | MORE, "at_work.json": AT_WORK, "spaces/found.json": LEVEL,
        "sensitivity.json": {"methods": SENSITIVITY}, "cluster/found.json": CLUSTERS,
        "search/trials.jsonl": {"trial": 0, "scores": [0.5], "seconds": 1.0, "architecture": "a"},
    }  # fmt: skip
    for name, value in made.items():
        (page / name).parent.mkdir(parents=True, exist_ok=True)
        (page / name).write_text(json.dumps(value), encoding="utf-8")
    network = {name: (run / "train/found" / name).read_bytes() for name in ("network.json", "weights.npz")}
    facts = {
        "genotype": CELL, "space": "nasbench201", "data": "images", "shape": [8, 8, 1], "num_classes": 3,
        "accuracy": 0.5, "parameters": 2801, "flops": 2e6, "licence": "MIT",
    }  # fmt: skip
    entries.add(zoo, entries.NETWORKS, "one", facts, network)
    sums = entries.read(zoo, entries.NETWORKS, "one")[0]["sha256"]
    entries.note(zoo, entries.COSTS, "one", "cpu", facts={**COST, "sha256": sums["weights.npz"]})
    entries.add(zoo, entries.TABLES, "theirs", {"models": 1}, {"models.jsonl": json.dumps(LISTED).encode() + b"\n"})
    (folder / "bench.jsonl").write_text("".join(json.dumps(line) + "\n" for line in BENCHMARK), encoding="utf-8")


def resealed(content):
    """What edits a file of a zoo, and its checksum with it."""
    with contextlib.suppress(ValueError, AttributeError, RecursionError, TypeError):
        facts = json.loads(content)
        facts.pop("digest", None)
        return entries.sealed(facts).encode("utf-8", "surrogatepass")
    return content


def sealed_json(content, random):
    """A sealed file of a zoo, damaged, most often under a checksum that agrees."""
    found = mutations.damaged_json(content, random)
    return resealed(found) if random.random() < 0.8 else found


READS = (["report", "run", "run"], ["train", "run", "--show"], ["predict", "run", "image.png"])
PAGE = (["report", "page"],)
AGAIN, ON = [*OLD_SEARCH, "run"], [*OLD_SEARCH, "half"]
LISTS = (["zoo", "list", "zoo"], ["zoo", "show", "zoo", "one"], ["zoo", "show", "zoo", "theirs"])
KINDS = {  # file -> how it is damaged, and who reads it
    "run/config.yaml": (mutations.damaged_yaml, (*READS, ["evaluate", "run"], AGAIN)),
    "run/result.json": (mutations.damaged_json, (*READS, ["zoo", "add", "new", "run"], AGAIN)),
    "run/environment.json": (mutations.damaged_json, (READS[0], AGAIN)),
    "half/environment.json": (mutations.damaged_json, (ON,)),
    "half/search/found.json": (mutations.damaged_json, (ON,)),
    "half/train/found/result.json": (mutations.damaged_json, (ON,)),
    "page/result.json": (mutations.damaged_json, PAGE),
    "page/at_work.json": (mutations.damaged_json, PAGE),
    "page/spaces/found.json": (mutations.damaged_json, PAGE),
    "page/sensitivity.json": (mutations.damaged_json, PAGE),
    "page/cluster/found.json": (mutations.damaged_json, PAGE),
    "page/search/trials.jsonl": (mutations.damaged_lines, PAGE),
    "run/search/metrics.jsonl": (mutations.damaged_lines, READS[:1]),
    "run/search/genotypes.jsonl": (mutations.damaged_lines, READS[:1]),
    "run/train/found/result.json": (mutations.damaged_json, (READS[0], ["zoo", "add", "new", "run"])),
    "run/train/found/network.json": (
        mutations.damaged_json,
        (READS[2], ["evaluate", "run"], ["export", "run", "--out", "x", "--quiet"], ["zoo", "add", "new", "run"]),
    ),
    "run/train/found/weights.npz": (mutations.damaged_archive, (READS[2], ["evaluate", "run"])),
    "images.npz": (mutations.damaged_archive, (["evaluate", "run"],)),
    "zoo/networks/one/entry.json": (sealed_json, (*LISTS[:2], ["zoo", "measure", "zoo", "--quiet"])),
    "zoo/costs/one/cpu.json": (sealed_json, LISTS[:2]),
    "zoo/tables/theirs/entry.json": (sealed_json, LISTS),
    "zoo/tables/theirs/models.jsonl": (mutations.damaged_lines, LISTS[:1]),
    "bench.jsonl": (mutations.damaged_lines, (["report", "bench.jsonl"],)),
}


PAGES = [name for name in KINDS if name.startswith("page/")]  # which take ten times as long as others


def run():
    """Tries as many damaged files as the second argument says, in the folder of the first.

    Prints a line of JSON before each, number and name, and one after it with its status and what is wrong beside.
    """
    folder, number = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    corpus(folder)
    lighten(pytest.MonkeyPatch(), folder)
    os.chdir(folder)
    for words in {" ".join(words): words for _, commands in KINDS.values() for words in commands}.values():
        status, _, said = answer(words)
        assert (status, said) == (0, ""), words  # what is whole is read
    whole = {name: pathlib.Path(name).read_bytes() for name in KINDS}
    order = 6 * [name for name in KINDS if name not in PAGES] + PAGES
    for at in range(number):
        name = order[at % len(order)]
        print(json.dumps([at, name]), flush=True)
        print(json.dumps([at, name, *try_one(folder, whole, name, random.Random(at))]), flush=True)


def answer(words):
    """The status, what was printed and what was said about it; of a command that would have begun something, 0."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            status = main(words)
        except Stopped:
            status = 0
        except SystemExit as exit:
            status = exit.code
    return status, out.getvalue(), err.getvalue()


def try_one(folder, whole, name, random):
    """Damages one file of a corpus and asks a command that reads it; what is wrong with the answer, or None."""
    damage, commands = KINDS[name]
    path, content, words = folder / name, whole[name], random.choice(commands)
    if random.random() < 0.03:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(damage(content, random))
    if name == "zoo/tables/theirs/models.jsonl" and path.is_file() and random.random() < 0.8:
        entry = json.loads(whole["zoo/tables/theirs/entry.json"])
        entry["sha256"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
        (folder / "zoo/tables/theirs/entry.json").write_bytes(resealed(json.dumps(entry).encode()))
    try:
        status, _, err = answer(words)
        good = status == 0 or (status == 2 and err.startswith("jnas: ") and err.strip().count("\n") == 0)
        return status, None if good else f"{words} after {status}: {err}"
    except Exception as error:
        return 1, f"{words}: {type(error).__name__}: {''.join(traceback.format_exc()[-1500:])}"
    finally:
        if path.is_dir():
            path.rmdir()
        for one in {name, "zoo/tables/theirs/entry.json"}:
            (folder / one).write_bytes(whole[one])


def lighten(monkeypatch, folder):
    """Takes away what is heavy behind reading: the shapes of a network, its use, and the drawing of charts."""
    from matplotlib.figure import Figure

    from jnas.recipes import driver, models
    from jnas.recipes.tasks import export, predict
    from jnas.recipes.zoo import networks

    archive = np.load(folder / "run/train/found/weights.npz")
    weights: dict = {}
    for name in archive.files[1:] if archive.files[0] == "leaves" else [n for n in archive.files if n != "leaves"]:
        *keys, last = name.removeprefix("tree['").removesuffix("']").split("']['")
        place = weights
        for key in keys:
            place = place.setdefault(key, {})
        place[last] = archive[name]
    plan = functools.cache(lambda: plan_of(*planned[0]))  # of one search, whose settings cannot be hashed
    plan_of, planned = driver._planned, []
    monkeypatch.setattr(driver, "_planned", lambda *given: planned.append(given) or plan())
    monkeypatch.setattr(driver, "report", types.SimpleNamespace(write_report=stop))
    monkeypatch.setattr(driver.train_network, "random_cells", lambda *_: [])
    monkeypatch.setattr(driver.train_network.trainer, "train", stop)
    monkeypatch.setattr(models.quantised, "shapes", lambda *_: weights)  # those of the corpus, whatever the network
    monkeypatch.setattr(predict.models, "answer", stop)
    monkeypatch.setattr(models, "evaluate", stop)
    monkeypatch.setattr(export, "export_network", stop)
    monkeypatch.setattr(networks, "costs", types.SimpleNamespace(flops=stop, latency=stop, median_seconds=stop))
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: file.write("<svg></svg>"))
