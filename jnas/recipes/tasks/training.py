"""The training for a task, its backbone, and of which a task says what is its own: `jnas train --task`."""

import dataclasses
import functools
import pathlib
import types
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh

from jnas import data
from jnas.nets.chain import FoundNetwork
from jnas.recipes import chains, driver, train_network, trainer
from jnas.recipes.settings import Training
from jnas.recipes.tasks.settings import Optimisation, TrainDetector, TrainEmbedding
from jnas.spaces import networks
from jnas.types import Loss, PyTree, Source


class Plan(NamedTuple):
    """A training for a task, built and checked before anything is written."""

    net: nn.Module
    loss: Loss  # over the batches of `source`
    source: Source
    examples: data.Dataset  # of an epoch
    facts: dict[str, Any]  # network.json: everything that rebuilds the network
    data: dict[str, Any]  # what the report says about the data
    measure: Callable[[PyTree, pathlib.Path, pathlib.Path], dict[str, Any]]  # weights, folders of run and network


class Task(Protocol):
    """What a found network can be put to: a module such as `recipes.tasks.detect`."""

    TASK: str  # its name
    SHOWN: tuple[str, ...]  # metrics of the progress line

    def plan(self, config: Any) -> Plan:
        """Build and check, touching no disk; a ValueError is an answer to the user."""
        ...


def of(task: Task) -> driver.Recipe:
    """The recipe of a training for a task: what `driver.run` runs."""

    def search(config: Any, plan: Plan, path: pathlib.Path) -> dict[str, Any]:
        return {"genotype": plan.facts["genotype"], "space": plan.facts["space"]}

    def finish(config: Any, plan: Plan, found: dict[str, Any], path: pathlib.Path, mesh: Mesh | None) -> dict[str, Any]:
        place, names = path / "train" / "named", {**found, "seed": config.seed}

        def fit() -> PyTree:
            optimiser = functools.partial(adamw, config.train)
            job = trainer.job_of(plan.net, plan.loss, optimiser, plan.source, plan.examples, config.train)
            return trainer.train(
                job, jax.random.fold_in(jax.random.key(config.seed), 1), folder=place, title=f"train {task.TASK}",
                shown=task.SHOWN, steps_per_call=config.steps_per_call, mesh=mesh,
            )  # fmt: skip

        depth, epochs = plan.facts["settings"]["depth"], config.train.epochs
        about = {**names, "channels": config.channels, "depth": depth, "epochs": epochs}
        result = train_network.once(place, fit, lambda of: plan.measure(of, path, place), plan.facts, about)
        return {"task": task.TASK, **names, "found": result, "random": [], "data": plan.data}

    whole: Any = types.SimpleNamespace(KIND="train", plan=lambda config, mesh: task.plan(config), search=search)
    whole.finish = finish
    return whole


def adamw(settings: Optimisation, num_steps: int) -> optax.GradientTransformation:
    """AdamW behind a bound of the gradient's norm, its rate rising linearly and then falling to 0 as a cosine.

    Args:
      settings: rates and bounds.
      num_steps: of the whole training.

    Returns:
      The transformation.

    Reference: Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """
    warmup = min(round(settings.warmup * num_steps), num_steps - 1)
    rate = optax.warmup_cosine_decay_schedule(
        settings.learning_rate / 100 if warmup else settings.learning_rate,
        settings.learning_rate,
        warmup,
        num_steps,
    )
    return optax.chain(optax.clip_by_global_norm(settings.clip), optax.adamw(rate, weight_decay=settings.weight_decay))


class Backbone(NamedTuple):
    """A network and the names that rebuild it."""

    net: FoundNetwork
    space: str
    genotype: str
    depth: int


def backbone(space_name: str, genotype: str, *, channels: int, depth: int | None, stem) -> Backbone:
    """The network of an architecture, without anything learned.

    Args:
      space_name: as `spaces.network_space` reads it.
      genotype: as `spaces.from_string` reads it.
      channels: of the first cell or layer.
      depth: cells, or cells a stage, or repetitions of a layer; None: the fewest that make three resolutions.
      stem: "small_image" or "imagenet".

    Returns:
      The network, with names as its space writes them.

    Raises:
      ValueError: if a name is unknown, or the settings do not fit each other.
    """
    space = networks.network_space(space_name)
    arch = networks.from_string(space, genotype)
    depth = depth or (3 if "reduce" in getattr(space, "cells", ()) else 1)
    training = Training(channels=channels, depth=depth, stem=stem)
    return Backbone(
        chains.network(networks.fix(space, arch), training, 1), space.name, networks.to_string(space, arch), depth
    )


def backbone_of(config: TrainDetector | TrainEmbedding) -> Backbone:
    """The network that the settings of a task name."""
    return backbone(config.space, config.genotype, channels=config.channels, depth=config.depth, stem=config.stem)


def facts_of(task: str, config: TrainDetector | TrainEmbedding, dataset: Any, augment: Any) -> dict[str, Any]:
    """Everything that rebuilds the network of a task, for `network.json`, and what it reads."""
    of = backbone_of(config)
    names = {"genotype": of.genotype, "space": of.space}
    return {
        "task": task, **names, "settings": {**dataclasses.asdict(config), **names, "depth": of.depth},
        "shape": dataset.shape, "num_classes": dataset.num_classes, "class_names": list(dataset.class_names),
        "mean": augment.mean, "std": augment.std,
    }  # fmt: skip
