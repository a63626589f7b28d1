"""Training of a fixed network from scratch: the found cell, random ones, or a named architecture."""

import dataclasses
import functools
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from jnas import data, distributed, files, nets, spaces
from jnas.nets.chain import FoundNetwork
from jnas.recipes import run_folder, trainer
from jnas.recipes.classification import evaluate
from jnas.recipes.settings import Training
from jnas.train.weights import save_tree
from jnas.types import Array, Key, PyTree

NETWORK, WEIGHTS = "network.json", "weights.npz"
REFUSED = 200  # random architectures in a row that are not allowed, after which no more are drawn


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A network about to be trained, and everything that rebuilds it."""

    net: FoundNetwork
    genotype: str
    space: spaces.Space
    augment: data.Augment


def prepare(space: spaces.CellSpace, arch: Array, splits: data.Splits, training: Training) -> Prepared:
    """Build the network of an architecture, touching no disk.

    Raises:
      ValueError: for settings that fit neither each other nor the data.
    """
    net = network(spaces.fix(space, arch), training, splits.train.num_classes)
    return Prepared(net, spaces.to_string(space, arch), space, augment_of(splits, training))


def augment_of(splits: data.Splits, training: Training) -> data.Augment:
    """What happens to the training images.

    Raises:
      ValueError: if there is no batch of them.
    """
    data.supervised_source(splits.train, batch_size=training.batch_size, augment=data.Augment())  # checks the size
    return training.augmentation.of(splits.train)


def network(fixed: spaces.CellSpace, training: Training, num_classes: int) -> nets.Network:
    """The network around a fixed cell that the settings describe."""
    return nets.network_for(
        fixed, channels=training.channels, depth=training.depth, auxiliary=training.auxiliary > 0, stem=training.stem,
        num_classes=num_classes,
    )  # fmt: skip


def train(
    prepared: Prepared,
    splits: data.Splits,
    training: Training,
    folder: pathlib.Path,
    seed: int,
    steps_per_call: int | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """Train on all training images, measure on the test images once, at the end; resumes, and does nothing if done.

    Args:
      prepared: from `prepare`.
      splits: the data.
      training: the settings.
      folder: of this network, `RUN/train/NAME`: metrics, checkpoints, network.json, weights.npz, result.json.
      seed: of weights, order and augmentation; equal seeds see equal batches.
      steps_per_call: see `train.chunks_of`.
      mesh: of the devices, see `fit`.

    Returns:
      The result, as written to `folder/result.json`.
    """
    net, augment = prepared.net, prepared.augment

    def fit() -> PyTree:
        key = jax.random.fold_in(jax.random.key(seed), 1)
        job, title = job_of(net, splits.train, augment, training), f"train {folder.name}"
        return trainer.train(job, key, folder=folder, title=title, steps_per_call=steps_per_call, mesh=mesh)

    def measure(weights: PyTree) -> dict[str, Any]:
        test, seen = (evaluate(net, weights, part, augment) for part in (splits.test, splits.train))
        return {"test_accuracy": test["accuracy"], "test_loss": test["loss"], "train_accuracy": seen["accuracy"]}

    names = {"genotype": prepared.genotype, "space": prepared.space.name}
    about = about_training(training) | names | {"seed": seed}
    return once(folder, fit, measure, facts_of(prepared, splits, training), about)


def facts_of(prepared: Prepared, splits: data.Splits, training: Training) -> dict[str, Any]:
    """Everything that rebuilds a network, for `network.json`, and what it reads."""
    return {
        "genotype": prepared.genotype, "space": prepared.space.name, "training": dataclasses.asdict(training),
        "num_classes": splits.train.num_classes, "shape": splits.train.shape,
        "class_names": list(splits.train.class_names), "mean": prepared.augment.mean, "std": prepared.augment.std,
    }  # fmt: skip


def job_of(net: nn.Module, examples: data.Dataset, augment: data.Augment, training: Training) -> trainer.Job:
    """The training of a classifier on some images, as the settings say."""
    num_steps = training.epochs * (len(examples) // training.batch_size)
    drop_path = optax.linear_schedule(0.0, training.drop_path, num_steps) if training.drop_path else None
    loss = trainer.classifier_loss(
        net, auxiliary_weight=training.auxiliary, smoothing=training.smoothing, drop_path=drop_path
    )
    source = data.supervised_source(examples, batch_size=training.batch_size, augment=augment)
    return trainer.job_of(net, loss, functools.partial(trainer.sgd_of, training), source, examples, training)


def about_training(training: Training) -> dict[str, Any]:
    """What a result says about the settings."""
    return {"channels": training.channels, "depth": training.depth, "epochs": training.epochs}


def once(
    folder: pathlib.Path,
    fit: Callable[[], PyTree],
    measure: Callable[[PyTree], dict[str, Any]],
    facts: dict[str, Any],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Train a network and measure it, or read what was measured if that is done.

    Args:
      folder: of the network, `RUN/train/NAME`: gets weights.npz, network.json and result.json.
      fit: trains the weights, `params`, `batch_stats` and what else there is, or goes on.
      measure: weights to what the result says of them.
      facts: of network.json, everything that rebuilds the network.
      about: what the result says beside.

    Returns:
      The result, as written to `folder/result.json`.
    """
    done = run_folder.read_json(folder / run_folder.RESULT)
    if done is not None:
        return done
    files.prepare_folder(folder)
    started = time.monotonic()
    weights = fit()
    if distributed.is_first():
        print(f"{folder.name}: measuring", file=sys.stderr, flush=True)
    measured = measure(weights)
    distributed.from_first(lambda: save_tree(folder / WEIGHTS, weights))
    run_folder.write_json(folder / NETWORK, facts)
    result = {
        "name": folder.name, **about, "parameters": nets.count_parameters(weights["params"]), **measured,
        "seconds": round(time.monotonic() - started, 2),
    }  # fmt: skip
    run_folder.write_json(folder / run_folder.RESULT, result)
    return result


def train_each(
    prepared: Mapping[str, Prepared], splits: data.Splits, config: Any, folder: pathlib.Path, mesh: Mesh | None
) -> dict[str, dict[str, Any]]:
    """Train several networks in the same way: what a search found, and random ones beside it.

    Args:
      prepared: what to train by its name, in this order.
      splits: the data.
      config: of the search; its `train`, `seed` and `steps_per_call` are used.
      folder: that gets one folder a name.
      mesh: of the devices, see `fit`.

    Returns:
      The result of each, see `train`.
    """
    return {
        name: train(one, splits, config.train, folder / name, config.seed, config.steps_per_call, mesh)
        for name, one in prepared.items()
    }


def random_cells(
    space: spaces.CellSpace, key: Key, num: int, without: Sequence[str] = (),
    allowed: Callable[[np.ndarray], bool] | None = None,
) -> list[Array]:  # fmt: skip
    """Architectures drawn uniformly from those that may stand beside what was found.

    Args:
      space: of the architectures.
      key: of the draw.
      num: how many.
      without: operators that none of them holds.
      allowed: what else a search asked of an architecture; None: nothing.

    Returns:
      Those whose output depends on the input, that hold none of `without` and are allowed; fewer than `num`, and a
      line on the standard error, after `REFUSED` in a row that are not allowed.
    """
    left = {cell: [[op for op in edge.ops if op not in without] for edge in space.edges(cell)] for cell in space.cells}
    narrow, found, refused = spaces.narrow(space, left), list[Array](), 0
    while len(found) < num and refused < REFUSED:
        key, now = jax.random.split(key)
        for drawn in spaces.sample(narrow, now, num):
            if len(found) < num and refused < REFUSED and spaces.is_connected(narrow, drawn):
                arch = spaces.from_string(space, spaces.to_string(narrow, drawn))
                kept = allowed is None or allowed(np.asarray(arch))
                found, refused = [*found, *[arch] * kept], 0 if kept else refused + 1
    if len(found) < num:
        print(f"{len(found)} of {num} random cells: {REFUSED} in a row are not within the limits", file=sys.stderr)
    return found


def describe(splits: data.Splits, validation: int = 0, shrink: int = 1) -> dict[str, Any]:
    """What the report says about the data, `validation` of its training images the upper level's, shrunk for search."""
    train, test = splits
    searched = (*(side // shrink for side in train.shape[:2]), train.shape[2])
    return {
        "name": train.name, "train": len(train) - validation, **({"validation": validation} if validation else {}),
        "test": len(test), "shape": train.shape, "num_classes": train.num_classes,
        "largest_class": float(np.bincount(test.labels).max() / len(test)),  # share of the test images
        **({"searched_shape": searched} if shrink > 1 else {}),
    }  # fmt: skip
