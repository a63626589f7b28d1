"""What every network of a zoo comes to on small tasks, measured once: the table on which `replay.py` compares rules.

Each network is fine-tuned on each task with each setting, to the end of every rung, and measured there on validation
and test images; also what a rule may know before: LogME of its frozen features, accuracy at its source, size. A line is
a network, task and setting; what the file has is not measured again, and a fine-tuning that was cut off goes on.

    python experiments/zoo/table.py --zoo ZOO --tasks birds.npz cars.npz --out runs/table

TASKS: any data that `jnas search data=...` takes. `--only NAME` measures some of the networks, so that several processes
share the work, each with `--results` of its own. Seconds are processor time of one core without compilation, which
stands beside them: programs that an earlier line compiled are not compiled again, and a rule of `replay.py` pays for
each of them once, as the first line did.

Result, hardware, time: README.md beside this file.
"""  # noqa: E501

import argparse
import itertools
import json
import pathlib
import time

import jax

from jnas import data
from jnas.data.description import describe
from jnas.data.load import load
from jnas.distributed.cache import enable_compilation_cache
from jnas.recipes import config, models
from jnas.recipes.classification import evaluate
from jnas.recipes.zoo import candidates, finetune, networks
from jnas.recipes.zoo.settings import FineTuning


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoo", required=True)
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--out", default="runs/table")
    parser.add_argument("--results", default="experiments/zoo/table.jsonl")
    parser.add_argument("--only", nargs="*", help="names of networks")
    parser.add_argument("--rungs", type=int, nargs="+", default=[2, 6, 18], help="epochs")
    parser.add_argument("--frozen", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    enable_compilation_cache()
    jax.monitoring.register_event_duration_secs_listener(note_compilation)
    results = pathlib.Path(arguments.results)
    had = {(line["task"], line["network"], line["frozen"], line["learning rate"]) for line in read(results)}
    there, _ = candidates.of_zoo(arguments.zoo)
    grid = itertools.product(arguments.frozen, arguments.rates)
    asked = itertools.product(arguments.tasks, [one for one in there if not one.table], list(grid))
    for task, candidate, (frozen, rate) in asked:
        name = pathlib.PurePath(task).stem
        if (name, candidate.name, frozen, rate) in had or candidate.name not in (arguments.only or [candidate.name]):
            continue
        own = {"frozen": frozen, "learning_rate": rate, "batch_size": arguments.batch}
        line = {"task": name, "network": candidate.name, "frozen": frozen, "learning rate": rate}
        append(results, line | measured(arguments, candidate, load(task), config.build(FineTuning, own)))


def measured(arguments, candidate, splits, settings):
    """One line of the table."""
    model = networks.load(arguments.zoo, candidate.name).model
    train, validation = data.split(models.as_read_by(model, splits.train), jax.random.key(arguments.seed), 0.8)
    test = models.as_read_by(model, splits.test)
    spent = Spent()
    seen = describe(train, finetune.features_of(model), model.weights)
    look, compiling = spent.seconds()
    line = {
        "task facts": {key: value for key, value in seen._asdict().items() if key not in ("logme", "nearest_centroid")},
        "logme": seen.logme, "nearest centroid": seen.nearest_centroid, "look": look,
        "compiling": {"look": compiling, "tune": 0.0},
        "source": candidate.data, "source accuracy": candidate.accuracy,
        "parameters": candidate.parameters, "flops": candidate.flops,
        "epochs": arguments.rungs, "steps": [], "validation": [], "test": [], "seconds": [],
    }  # fmt: skip
    name = f"{splits.train.name}-{candidate.name}-{settings.frozen:g}-{settings.learning_rate:g}"
    folder = pathlib.Path(arguments.out) / name
    spent = Spent()
    tune = finetune.prepare(model, train, validation, settings, arguments.rungs, folder, arguments.seed)
    for rung, epochs in enumerate(arguments.rungs):
        validated = tune(rung)["test_accuracy"]
        seconds, compiling = spent.seconds()
        line["seconds"].append(seconds)
        line["compiling"]["tune"] += compiling
        tuned = models.load_model(folder)
        tested = evaluate(tuned.net, tuned.weights, test, models.normalisation_of(tuned))["accuracy"]
        line["validation"].append(round(validated, 4))
        line["test"].append(round(tested, 4))
        line["steps"].append(epochs * (len(train) // min(settings.batch_size, len(train))))
        spent = Spent()  # the test images are no part of it
    return line


class Spent:
    """Processor time from its making on, that of compiling apart."""

    compiled = 0.0  # seconds of all compilations of this process

    def __init__(self):
        self.started, self.before = time.process_time(), Spent.compiled

    def seconds(self):
        """Seconds without compilation, and those of compilation."""
        compiling = Spent.compiled - self.before
        return round(time.process_time() - self.started - compiling, 2), round(compiling, 2)


def note_compilation(event, seconds, **_):
    if event == "/jax/core/compile/backend_compile_duration":
        Spent.compiled += seconds


def read(path):
    """The lines of a file; a torn last one is left out."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def append(path, line):
    """Write a line of JSON, at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
