"""The training for a task, of which a task says what is its own: the recipe of `jnas train --task`."""

import functools
import pathlib
import time
import types
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh

from jnas import data, distributed, files, nets
from jnas.recipes import driver, run_folder, train_network, trainer
from jnas.recipes.tasks.settings import Optimisation
from jnas.train.weights import save_tree
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
        del config, path
        return {"genotype": plan.facts["genotype"], "space": plan.facts["space"]}

    def finish(config: Any, plan: Plan, found: dict[str, Any], path: pathlib.Path, mesh: Mesh | None) -> dict[str, Any]:
        place = files.prepare_folder(path / "train" / "named")
        optimiser = functools.partial(adamw, config.train)
        job = trainer.job_of(plan.net, plan.loss, optimiser, plan.source, plan.examples, config.train)
        started, key = time.time(), jax.random.fold_in(jax.random.key(config.seed), 1)
        title, per_call = f"train {task.TASK}", config.steps_per_call
        weights = trainer.train(
            job, key, folder=place, title=title, shown=task.SHOWN, steps_per_call=per_call, mesh=mesh
        )
        distributed.from_first(lambda: save_tree(place / train_network.WEIGHTS, weights))
        run_folder.write_json(place / train_network.NETWORK, plan.facts)
        names = {**found, "seed": config.seed}
        result = {
            "name": place.name, **names, "parameters": nets.count_parameters(weights["params"]),
            "channels": config.channels, "depth": plan.facts["settings"]["depth"], "epochs": config.train.epochs,
            **plan.measure(weights, path, place), "seconds": round(time.time() - started, 2),
        }  # fmt: skip
        run_folder.write_json(place / run_folder.RESULT, result)
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
