"""Choosing a network of a zoo, and how to fine-tune it, for a new task: order, fine-tune, record, learn, go on."""

import dataclasses
import datetime
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jnas import data, distributed, files
from jnas.data.description import describe
from jnas.distributed.environment import environment
from jnas.errors import Diverged, UserError
from jnas.files.urls import masked
from jnas.recipes import models, run_folder, train_network
from jnas.recipes.classification import evaluate
from jnas.recipes.settings import share
from jnas.recipes.zoo import candidates, entries, finetune, networks, records
from jnas.recipes.zoo.place import writable
from jnas.recipes.zoo.ranking import PRIORS, Choice, Expected, carrying, enough, prior_ranks, ranked, standings
from jnas.recipes.zoo.rungs import Done, next_step, worth
from jnas.recipes.zoo.settings import Selection

KIND: str = "select"  # of the run
BEGUN = "records.json"


class Plan(NamedTuple):
    """What is chosen from, for which images."""

    splits: data.Splits
    train: data.Dataset  # of the training images those to learn from
    validation: data.Dataset  # and those that choose among the trials
    kept: list[candidates.Candidate]  # within the limits
    complaints: list[str]  # what the zoo holds beside, damaged
    epochs: tuple[int, ...]  # at the end of each rung, without those that the budget allows nobody


def plan(config: Selection, mesh: Mesh | None = None) -> Plan:
    """The candidates for the data, see `driver.Recipe`; what the limits need and nobody measured is measured.

    Raises:
      UserError: if nothing keeps the limits, or the data or the zoo cannot be used.
    """
    splits = run_folder.load_data(config.data, config.image_size)
    inner = 1 - share(config.validation, len(splits.train))
    train, validation = data.split(splits.train, jax.random.key(config.seed), inner)
    kept, complaints = allowed(config)
    return Plan(splits, train, validation, kept, complaints, affordable(config, kept, len(train)))


def search(config: Selection, plan: Plan, path: pathlib.Path) -> dict[str, Any]:
    """Fine-tune by `rungs.next_step` and learn from each, see `driver.Recipe`; what is done is not done again."""
    started, task = time.monotonic(), task_name(plan.train)
    # Those at the start of the run, kept: a run that goes on must rank as it did before it wrote records of its own.
    begun = run_folder.read_json(path / BEGUN)
    known, more = records.of_zoo(config.zoo) if begun is None else (begun, [])
    run_folder.write_json(path / BEGUN, known)
    choices = list_choices(config, plan, known)
    costs = np.array([[choice.seconds(rung) for rung in range(len(plan.epochs))] for choice in choices])
    tuners: dict[int, Callable[[int], dict[str, Any]]] = {}
    done: list[Done] = []
    trials: list[dict[str, Any]] = []
    ranking: list[dict[str, Any]] = []
    while True:
        order, expected = ranked(config, choices, known)
        about = describer(config, plan, choices, expected)
        ranking = ranking or [about(int(at), -1) for at in order[: config.top]]
        step, end = next_step(
            order.tolist(), costs, done, trials=config.trials, eta=config.eta, target=config.target_accuracy,
            budget=config.budget,
        )  # fmt: skip
        if end or step is None:
            break
        choice, said = choices[step.choice], about(step.choice, step.rung)
        say(f"{choice.candidate.name} {step.why}, up to epoch {said['epochs']}; {said['reasons']}")
        if step.choice not in tuners:
            tuners[step.choice] = tuner(config, plan, choice, path / "train" / f"trial-{len(tuners) + 1}")
        result = tuners[step.choice](step.rung)
        score = result["test_accuracy"]
        say(f"{choice.candidate.name} has {100 * score:.2f} % of the validation images")
        done.append(Done(step.choice, step.rung, score))
        trials.append({**result, "model": choice.candidate.name, "predicted": said, "why": step.why})
        if "diverged" not in result:
            took = sum(trial["seconds"] for trial in trials if trial["name"] == result["name"])
            known = [*known, noted(config, task, choice, step.rung, score, took)]
    say(end)
    return {
        "ranking": ranking, "trials": trials, "left out": more + plan.complaints, "target": config.target_accuracy,
        "records": [len(known), config.least_records], "carried by": carrying(config, known), "stopped": end,
        "next": None if step is None else about(step.choice, step.rung) | {"why": step.why},
        "seconds": round(time.monotonic() - started, 2),
    }  # fmt: skip


def finish(
    config: Selection, plan: Plan, found: dict[str, Any], path: pathlib.Path, mesh: Mesh | None = None
) -> dict[str, Any]:
    """The chosen trial measured on the test images, once, see `driver.Recipe`.

    It is one that reached the target, else the best of those trained for longest, see `rungs.worth`.

    Raises:
      Diverged: if every fine-tuning did.
    """
    seconds = found.pop("seconds")
    last = {trial["name"]: trial for trial in found["trials"]}.values()  # of each the longest, whose weights are kept
    sound = [trial for trial in last if "diverged" not in trial] or list(last)
    best = max(sound, key=lambda trial: worth(trial["test_accuracy"], trial["epochs"], config.target_accuracy))
    if "diverged" in best:
        raise Diverged(best["diverged"])
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
        "selection": {**found, "candidates": front, "chosen": best["name"],
                      "ended": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")},
    }  # fmt: skip


def say(words: str) -> None:
    """A line on the way."""
    if distributed.is_first():
        print(f"select: {words}", file=sys.stderr, flush=True)


def noted(config: Selection, task: str, choice: Choice, rung: int, score: float, seconds: float) -> dict[str, Any]:
    """The record of a fine-tuning at the end of a rung, also written to the zoo where that can be."""
    record = {
        "task": task, "features": choice.row(rung), "score": score, "model": choice.candidate.name, "seconds": seconds,
    }  # fmt: skip
    if writable(config.zoo):
        entries.note(config.zoo, entries.RECORDS, "", facts=record)
    return record


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
    limits = candidates.limits_of(config, device)
    # What needs no time first: nobody waits for the times of what is left out anyway.
    here = candidates.within(here, limits._replace(latency=None, throughput=None, training=None))
    timed = (config.budget, config.target_accuracy, limits.latency, limits.throughput, limits.training)
    if any(value is not None for value in timed):
        here = measured(config, here, device)
    return candidates.within(here, limits), complaints


def device_of(config: Selection) -> str:
    """The device whose times count."""
    return config.device or str(environment()["device"])


def affordable(config: Selection, kept: Sequence[candidates.Candidate], num_examples: int) -> tuple[int, ...]:
    """The epochs of the rungs that some candidate comes to within the budget.

    Raises:
      UserError: if there is none.
    """
    if config.budget is None:
        return config.epochs
    device = device_of(config)
    steps = max(1, num_examples // config.fine_tuning.batch_size)
    least = min((step * steps for c in kept if (step := step_seconds(c, device, config)) is not None), default=None)
    if least is None:
        raise UserError(
            f"no step of {config.fine_tuning.batch_size} images was measured on {device!r}: run jnas zoo measure there"
        )
    found = tuple(epochs for epochs in config.epochs if least * epochs <= config.budget)
    if not found:
        raise UserError(
            f"no fine-tuning takes at most {config.budget} seconds (budget): the shortest takes "
            f"{least * config.epochs[0]:.4g} as measured"
        )
    return found


def measured(config: Selection, here: Sequence[candidates.Candidate], device: str) -> list[candidates.Candidate]:
    """Measures what was never measured on this device; another device's times stay as they are."""
    found = []
    for one in here:
        if device == str(environment()["device"]) and step_seconds(one, device, config) is None:
            say(f"measuring {one.name} on {device}")
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


def list_choices(config: Selection, plan: Plan, known: Sequence[dict[str, Any]]) -> list[Choice]:
    """Every network with every setting, with what orders them.

    Each network looks at the training images once, unless the prior is the accuracy at the source and nothing is
    predicted: then the task is described by its pixels alone.
    """
    choices, device = [], device_of(config)
    look = config.prior != "source" or enough(config, known)
    task = None if look else describe(plan.train)
    for number, (candidate, standing) in enumerate(zip(plan.kept, standings(plan.kept), strict=True), 1):
        features = {
            records.NAMES[0]: math.log10(max(candidate.parameters or 1, 1)),
            records.NAMES[1]: math.log10(max(candidate.flops or 1, 1)),
            records.SOURCE: candidate.accuracy or 0.0,
            records.STANDING: standing,
        }
        if look:
            say(f"network {number} of {len(plan.kept)}, {candidate.name}, looks at the training images")
            model = networks.load(config.zoo, candidate.name).model
            with run_folder.as_user_input():
                images = models.as_read_by(model, plan.train)
            task = describe(images, finetune.features_of(model), model.weights)
            features |= {records.CENTROID: task.nearest_centroid, records.LOGME: task.logme}
        features |= {name: getattr(task, name.removeprefix("task: ")) for name in records.TASK}
        seconds = step_seconds(candidate, device, config)
        for settings in config.grid():
            own = {records.FROZEN: settings.frozen, records.RATE: math.log10(settings.learning_rate)}
            a_pass = max(1, len(plan.train) // settings.batch_size)
            steps = tuple(epochs * a_pass for epochs in plan.epochs)
            choices.append(Choice(candidate, settings, features | own, steps, math.nan if seconds is None else seconds))
    return choices


def describer(
    config: Selection, plan: Plan, choices: Sequence[Choice], expected: Sequence[Sequence[Expected]] | None
) -> Callable[[int, int], dict[str, Any]]:
    """A function of a choice and a rung, to which it may be fine-tuned, to both in words and numbers, for the page."""
    ranks = prior_ranks(config.prior, choices)
    words = {
        records.STANDING: lambda features: f"{100 * features[records.SOURCE]:.1f} % at its source",
        records.LOGME: lambda features: f"LogME {features[records.LOGME]:.3g} of its frozen features",
    }

    def about(at: int, rung: int) -> dict[str, Any]:
        choice = choices[at]
        parts = [
            f"{words[name](choice.features)}, rank {rank[at]} of {max(rank)}"
            for name, rank in zip(PRIORS[config.prior], ranks, strict=True)
        ]
        seconds = choice.seconds(rung, max(rung, 0) - 1)
        return {
            "model": choice.candidate.name, "frozen": choice.settings.frozen,
            "learning rate": choice.settings.learning_rate, "epochs": plan.epochs[rung],
            "parameters": choice.candidate.parameters, "seconds": None if math.isnan(seconds) else seconds,
            "reasons": "; ".join(parts), **({} if expected is None else expected[at][rung]._asdict()),
        }  # fmt: skip

    return about


def tuner(config: Selection, plan: Plan, choice: Choice, folder: pathlib.Path) -> Callable[[int], dict[str, Any]]:
    """What fine-tunes a choice on the training images and measures it on the validation images, see `finetune.prepare`.

    Of a loss that is not finite the result says that it diverged, and other choices go on.
    """
    begin_trial(folder, choice)
    model = networks.load(config.zoo, choice.candidate.name).model
    with run_folder.as_user_input():
        train, validation = (models.as_read_by(model, part) for part in (plan.train, plan.validation))
    tune = finetune.prepare(model, train, validation, choice.settings, plan.epochs, folder, config.seed)

    def to(rung: int) -> dict[str, Any]:
        try:
            return tune(rung)
        except Diverged as error:
            about = {"epochs": plan.epochs[rung], "seconds": 0.0, "diverged": str(error)}
            return {"name": folder.name, "test_accuracy": 0.0, **about}

    return to


def task_name(train: data.Dataset) -> str:
    """What makes records those of one task: the data and how many images of them."""
    return f"{train.name} ({len(train)} images, {train.num_classes} classes)"
