"""What every task does with its folder: train, keep, measure, and write the page; `jnas train --task` runs it."""

import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh

from jnas import data, distributed, files, nets, report
from jnas.recipes import run_folder, train_network, trainer
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


def run(task: Task, config: Any, folder: str | pathlib.Path, *, mesh: Mesh | None = None) -> dict[str, Any]:
    """Train for a task in a run folder; run again, it resumes, or returns what it found.

    Args:
      task: what the network is trained for.
      config: what to train, on which data, and how.
      folder: of the run.
      mesh: of the devices, see `fit`.

    Returns:
      The result, as written to `result.json`; `found` has what was measured.

    Raises:
      UserError: for settings that do not fit each other, the data or the folder.
    """
    with run_folder.as_user_input():
        plan = task.plan(config)
        distributed.check_batch(config.train.batch_size, mesh, "train.batch_size")
    with run_folder.alone(folder, config, "train") as path:
        summary = run_folder.read_json(path / run_folder.RESULT)
        if summary is None:
            place = files.prepare_folder(path / "train" / "named")
            job = trainer.job_of(
                plan.net, plan.loss, functools.partial(adamw, config.train), plan.source, plan.examples, config.train
            )
            started, key = time.monotonic(), jax.random.fold_in(jax.random.key(config.seed), 1)
            title, per_call = f"train {task.TASK}", config.steps_per_call
            weights = trainer.train(
                job, key, folder=place, title=title, shown=task.SHOWN, steps_per_call=per_call, mesh=mesh
            )
            distributed.from_first(lambda: save_tree(place / train_network.WEIGHTS, weights))
            run_folder.write_json(place / train_network.NETWORK, plan.facts)
            names = {"genotype": plan.facts["genotype"], "space": plan.facts["space"], "seed": config.seed}
            result = {
                "name": place.name, **names, "parameters": nets.count_parameters(weights["params"]),
                "channels": config.channels, "depth": plan.facts["settings"]["depth"], "epochs": config.train.epochs,
                **plan.measure(weights, path, place), "seconds": round(time.monotonic() - started, 2),
            }  # fmt: skip
            run_folder.write_json(place / run_folder.RESULT, result)
            summary = {"task": task.TASK, **names, "found": result, "random": [], "data": plan.data}
            run_folder.write_json(path / run_folder.RESULT, summary)
        distributed.from_first(lambda: str(report.write_report(path)))  # also of a run that was cut off before its page
        return summary


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
