"""`jnas select` as a user runs it, on one draw of the zoo and one task after the other, beside the table of `table.py`.

The zoo is a copy of some networks, drawn by the seed, without records; it keeps those of the tasks before, so that from
the second or third task on the predictor has records to learn from. Seconds are processor time of the whole command,
its start and all compilation included; the share is that of the time of trying all in the table.

    taskset -c 0 python experiments/zoo/live.py --zoo ZOO --tasks birds.npz cars.npz --out runs/live

Result, hardware, time: README.md beside this file.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import numpy as np
import replay
import table

from jnas.recipes.zoo import entries


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoo", required=True, type=pathlib.Path)
    parser.add_argument("--tasks", nargs="+", required=True, type=pathlib.Path)
    parser.add_argument("--out", default="runs/live", type=pathlib.Path)
    parser.add_argument("--table", nargs="+", default=["experiments/zoo/table.jsonl"], type=pathlib.Path)
    parser.add_argument("--results", default="experiments/zoo/live.jsonl", type=pathlib.Path)
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    names = entries.names(arguments.zoo, entries.NETWORKS)
    random = np.random.default_rng(arguments.seed)
    kept = sorted(random.choice(names, min(arguments.networks, len(names)), replace=False).tolist())
    zoo = arguments.out / f"zoo-{arguments.seed}"
    for name in kept:
        for kind in (entries.NETWORKS, entries.COSTS):
            shutil.copytree(arguments.zoo / kind / name, zoo / kind / name, dirs_exist_ok=True)
    lines = [line for path in arguments.table for line in table.read(path)]
    replay.pay_compilation(lines)
    for task in arguments.tasks:
        offered = [line for line in lines if line["task"] == task.stem and line["network"] in kept]
        table.append(
            arguments.results, {"seed": arguments.seed, "task": task.stem} | chosen(arguments, task, zoo, offered)
        )


def chosen(arguments, task, zoo, offered):
    """One run, and what trying all comes to in the table."""
    total = float(replay.costs_of(offered)[:, -1].sum())
    rates, shares = (sorted({line[key] for line in offered}) for key in ("learning rate", "frozen"))
    run = arguments.out / f"{task.stem}-{arguments.seed}"
    words = [
        "select", task, "--zoo", zoo, f"frozen={shares}", f"learning_rates={rates}", f"epochs={offered[0]['epochs']}",
        "fine_tuning.batch_size=32", f"seed={arguments.seed}", "--out", run,
    ]  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "JNAS_CACHE_DIR": str(run) + "-cache"}
    subprocess.run([sys.executable, "-m", "jnas", *map(str, words)], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    result = json.loads((run / "result.json").read_text())
    best = max(offered, key=lambda line: line["validation"][-1])
    source = max(
        (line for line in offered if (line["frozen"], line["learning rate"]) == (shares[0], rates[len(rates) // 2])),
        key=lambda line: line["source accuracy"],
    )
    return {
        "network": result["found"]["model"], "test": round(result["found"]["test_accuracy"], 4),
        "validation": round(result["found"]["validation_accuracy"], 4), "trying all": best["test"][-1],
        "most accurate at its source": source["test"][-1], "records": result["selection"]["records"][0],
        "seconds": round(seconds, 1), "share": round(seconds / total, 3),
        "tried": [[t["model"], t["epochs"], round(t["test_accuracy"], 4)] for t in result["selection"]["trials"]],
    }  # fmt: skip


if __name__ == "__main__":
    main()
