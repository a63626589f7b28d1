"""Choosing a network of a zoo, and how to fine-tune it, for a new task: predict, choose, fine-tune, record, update."""

import dataclasses
import datetime
import json
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jnas import data, files
from jnas.data.description import describe
from jnas.distributed.environment import environment
from jnas.errors import UserError
from jnas.files.urls import masked
from jnas.recipes import models, run_folder, train_network
from jnas.recipes.classification import evaluate
from jnas.recipes.settings import share
from jnas.recipes.zoo import candidates, entries, finetune, networks
from jnas.recipes.zoo.place import writable
from jnas.recipes.zoo.ranking import NAMES, TASK, Choice, carrying, ranked, records_of
from jnas.recipes.zoo.settings import Selection

KIND: str = "select"  # of the run
BEGUN = "records.json"
INTERVAL = 1.6449  # deviations on either side of the mean: 90 % of a normal distribution


class Plan(NamedTuple):
    """What is chosen from, for which images."""

    splits: data.Splits
    train: data.Dataset  # of the training images those to learn from
    validation: data.Dataset  # and those that choose among the trials
    kept: list[candidates.Candidate]  # within the limits
    complaints: list[str]  # what the zoo holds beside, damaged


def plan(config: Selection, mesh: Mesh | None = None) -> Plan:
    """The candidates for the data, see `driver.Recipe`; what the limits need and nobody measured is measured.

    Raises:
      UserError: if nothing keeps the limits, or the data or the zoo cannot be used.
    """
    splits = run_folder.load_data(config.data, config.image_size)
    inner = 1 - share(config.validation, len(splits.train))
    train, validation = data.split(splits.train, jax.random.key(config.seed), inner)
    kept, complaints = allowed(config)
    check_budget(config, kept, len(train))
    return Plan(splits, train, validation, kept, complaints)


def search(config: Selection, plan: Plan, path: pathlib.Path) -> dict[str, Any]:
    """Fine-tune the likely best and learn from each, see `driver.Recipe`; what is done is not done again."""
    started, task = time.monotonic(), task_name(plan.train)
    rest = list_choices(config, plan.kept, plan.train)
    # Those at the start of the run, kept: a run that goes on must rank as it did before it wrote records of its own.
    begun = run_folder.read_json(path / BEGUN)
    records, more = records_of(config.zoo) if begun is None else (begun, [])
    run_folder.write_json(path / BEGUN, records)
    spent, trials = 0.0, []
    ranking: list[dict[str, Any]] = []
    while rest and len(trials) < config.trials:
        affordable = [choice for choice in rest if config.budget is None or spent + choice.seconds <= config.budget]
        if not affordable:
            break
        order, predicted = ranked(config, affordable, records, task=task)
        ranking = ranking or [described(affordable[at], predicted, at, affordable) for at in order[: config.top]]
        first = int(order[0])
        choice = affordable[first]
        place = path / "train" / f"trial-{len(trials) + 1}"
        begin_trial(place, choice)
        trial = try_one(config, choice, (plan.train, plan.validation), place)
        trials.append(trial | {"predicted": described(choice, predicted, first, affordable)})
        spent += choice.seconds
        record = {
            "task": task, "features": dict(zip(NAMES, map(float, choice.features), strict=True)),
            "score": trial["test_accuracy"], "model": choice.candidate.name, "seconds": trial["seconds"],
        }  # fmt: skip
        if writable(config.zoo):
            entries.note(config.zoo, entries.RECORDS, "", facts=record)
        records = [*records, record]
        rest = [other for other in rest if other is not choice]
    return {
        "ranking": ranking, "trials": trials, "left out": more + plan.complaints,
        "records": [len(records), config.least_records], "carried by": carrying(config, records),
        "seconds": round(time.monotonic() - started, 2),
    }  # fmt: skip


def finish(
    config: Selection, plan: Plan, found: dict[str, Any], path: pathlib.Path, mesh: Mesh | None = None
) -> dict[str, Any]:
    """The best trial measured on the test images, once, see `driver.Recipe`."""
    seconds = found.pop("seconds")
    best = max(found["trials"], key=lambda trial: trial["test_accuracy"])
    best["validation_accuracy"] = best["test_accuracy"]
    model = models.load_model(path / "train" / best["name"])
    with run_folder.as_user_input():
        test = models.as_read_by(model, plan.splits.test)
    measured = evaluate(model.net, model.weights, test, models.normalisation_of(model))
    front = [
        {"model": c.name, "accuracy": c.accuracy, "parameters": c.parameters, "flops": c.flops} for c in plan.kept
    ]  # fmt: skip
    return {
        "genotype": best["genotype"], "space": best["space"], "method": "selection", "seed": config.seed,
        "seconds": seconds, "random": [],
        "found": {**best, "test_accuracy": measured["accuracy"], "test_loss": measured["loss"]},
        "data": train_network.describe(plan.splits, len(plan.validation)),
        "selection": {**found, "candidates": front,
                      "ended": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")},
    }  # fmt: skip


def begin_trial(place: pathlib.Path, choice: Choice) -> None:
    """Note what a trial is of, so that a run that goes on credits no trial to another network.

    Raises:
      UserError: if its folder was begun with another choice, because the zoo has changed meanwhile.
    """
    chosen = {"model": choice.candidate.name, "settings": dataclasses.asdict(choice.settings)}
    chosen = json.loads(json.dumps(chosen))
    before = run_folder.read_json(place / "choice.json")
    if before is not None and before != chosen:
        raise UserError(
            f"{place} was begun with {before['model']} and {chosen['model']} is chosen now, for the zoo has changed: "
            "give another folder with --out"
        )
    files.prepare_folder(place)
    run_folder.write_json(place / "choice.json", chosen)


def allowed(config: Selection) -> tuple[list[candidates.Candidate], list[str]]:
    """The networks of the zoo whose weights are here and that keep the limits; and what was left out as damaged.

    Raises:
      UserError: if there is none.
    """
    found, complaints = candidates.of_zoo(config.zoo)
    here = [candidate for candidate in found if not candidate.table]
    if not here:
        raise UserError(f"{masked(config.zoo)} has no network with weights: add some with jnas zoo add ZOO RUN")
    device = device_of(config)
    if config.budget is not None or config.max_latency or config.min_throughput or config.min_training:
        here = measured(config, here, device)
    return candidates.within(here, candidates.limits_of(config, device)), complaints


def device_of(config: Selection) -> str:
    """The device whose times count."""
    return config.device or str(environment()["device"])


def check_budget(config: Selection, kept: Sequence[candidates.Candidate], num_examples: int) -> None:
    """Raises a UserError unless some candidate's fine-tuning fits into the budget."""
    if config.budget is None:
        return
    device = device_of(config)
    steps = min(s.epochs * max(1, num_examples // s.batch_size) for s in config.grid())
    least = min((step * steps for c in kept if (step := step_seconds(c, device, config)) is not None), default=None)
    if least is None:
        raise UserError(
            f"no step of {config.fine_tuning.batch_size} images was measured on {device!r}: run jnas zoo measure there"
        )
    if least > config.budget:
        raise UserError(
            f"no fine-tuning takes at most {config.budget} seconds (budget): the shortest takes {least:.4g} as measured"
        )


def measured(config: Selection, here: Sequence[candidates.Candidate], device: str) -> list[candidates.Candidate]:
    """Measures what was never measured on this device; another device's times stay as they are."""
    found = []
    for one in here:
        if device == str(environment()["device"]) and step_seconds(one, device, config) is None:
            costs = networks.measure(
                config.zoo, one.name, batch_size=config.fine_tuning.batch_size, keep=writable(config.zoo)
            )
            one = one._replace(costs=(*one.costs, *costs))
        found.append(one)
    return found


def step_seconds(candidate: candidates.Candidate, device: str, config: Selection) -> float | None:
    """Seconds of a step of fine-tuning on a device, None if it was not measured."""
    size = config.fine_tuning.batch_size
    return min(
        (
            cost.seconds
            for cost in candidate.costs
            if (cost.device, cost.kind, cost.batch_size) == (device, candidates.TRAINING, size)
        ),
        default=None,
    )


def list_choices(config: Selection, kept: Sequence[candidates.Candidate], train: data.Dataset) -> list[Choice]:
    """Every network with every setting, with what a predictor reads: each network looks at the images once."""
    choices = []
    device = device_of(config)
    for candidate in kept:
        model = networks.load(config.zoo, candidate.name).model
        with run_folder.as_user_input():
            images = models.as_read_by(model, train)
        seen = describe(images, finetune.features_of(model), model.weights)
        step = step_seconds(candidate, device, config)
        for settings in config.grid():
            steps = settings.epochs * max(1, len(train) // settings.batch_size)
            row = np.array([
                math.log10(max(candidate.parameters or 1, 1)), math.log10(max(candidate.flops or 1, 1)),
                candidate.accuracy or 0.0, seen.nearest_centroid, seen.logme, settings.frozen,
                math.log10(settings.learning_rate), math.log10(steps),
                *(getattr(seen, name.removeprefix("task: ")) for name in TASK),
            ])  # fmt: skip
            choices.append(Choice(candidate, settings, row, math.nan if step is None else steps * step))
    return choices


def described(choice: Choice, predicted, at: int, among: Sequence[Choice]) -> dict[str, Any]:
    """A choice in words and numbers, for the page."""
    column = NAMES.index("fit: nearest centroid")
    rank = 1 + len({c.candidate.name for c in among if c.features[column] > choice.features[column]})
    number = len({c.candidate.name for c in among})
    one = choice.candidate
    line = {
        "model": one.name, "frozen": choice.settings.frozen, "learning rate": choice.settings.learning_rate,
        "epochs": choice.settings.epochs, "parameters": one.parameters, "seconds": choice.seconds,
        "reasons": f"its frozen features tell {100 * choice.features[column]:.0f} % of the images apart, rank {rank} "
        f"of {number}; {100 * (one.accuracy or 0):.1f} % on what it was trained on",
    }  # fmt: skip
    if predicted is not None:
        mean, std = float(predicted[0][at]), float(predicted[1][at])
        line |= {"mean": mean, "low": mean - INTERVAL * std, "high": mean + INTERVAL * std}
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in line.items()}


def try_one(config: Selection, choice: Choice, sets, folder: pathlib.Path) -> dict[str, Any]:
    """Fine-tune a choice on the training images and measure it on the validation images."""
    model = networks.load(config.zoo, choice.candidate.name).model
    with run_folder.as_user_input():
        train, validation = (models.as_read_by(model, part) for part in sets)
    result = finetune.fine_tune(model, train, validation, choice.settings, folder, config.seed)
    return {**result, "model": choice.candidate.name}


def task_name(train: data.Dataset) -> str:
    """What makes records those of one task: the data and how many images of them."""
    return f"{train.name} ({len(train)} images, {train.num_classes} classes)"
