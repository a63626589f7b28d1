"""Training of a fixed network from scratch: the found cell, random ones, or a named architecture."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jnas import bilevel, data, distributed, files, nets, spaces
from jnas.errors import UserError
from jnas.recipes import run_folder
from jnas.recipes.classification import TrainingBatch, classifier_loss, evaluate
from jnas.recipes.config import build
from jnas.recipes.settings import Training, TrainOne
from jnas.train import fit
from jnas.types import Array, Key, Source

NETWORK, WEIGHTS = "network.json", "weights.npz"


def run(config: TrainOne, folder: str | pathlib.Path, *, mesh: Mesh | None = None) -> dict[str, Any]:
    """Train one named architecture in a run folder; run again, it resumes, or returns what it found.

    Args:
      config: what to train and how.
      folder: of the run.
      mesh: of the devices, see `fit`.

    Returns:
      The result, as written to `result.json`.

    Raises:
      UserError: for settings that do not fit each other, the data or the folder.
    """
    with run_folder.as_user_input():
        space = spaces.network_space(config.space)
        arch = spaces.from_string(space, config.genotype)
        splits = run_folder.load_data(config.data, config.image_size)
        prepared = prepare(space, arch, splits, config.train)
        distributed.check_batch(config.train.batch_size, mesh, "train.batch_size")
    path = run_folder.begin(folder, config, "train")
    result = train(prepared, splits, config.train, path / "train" / "named", config.seed, config.steps_per_call, mesh)
    summary = {
        "genotype": result["genotype"], "space": space.name, "seed": config.seed, "found": result, "random": [],
        "data": describe(splits),
    }  # fmt: skip
    run_folder.write_json(path / run_folder.RESULT, summary)
    return summary


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A network about to be trained, and everything that rebuilds it."""

    net: nets.FoundNetwork
    genotype: str
    space: spaces.NetworkSpace
    augment: data.Augment


def prepare(space: spaces.NetworkSpace, arch: Array, splits: data.Splits, training: Training) -> Prepared:
    """Build the network of an architecture, touching no disk.

    Raises:
      ValueError: for settings that fit neither each other nor the data.
    """
    data.supervised_source(splits.train, batch_size=training.batch_size, augment=data.Augment())  # checks the size
    mean, std = data.normalisation(splits.train)
    change = training.augmentation
    return Prepared(
        network(spaces.fix(space, arch), training, splits.train.num_classes),
        spaces.to_string(space, arch),
        space,
        data.Augment(change.crop, change.flip, change.cutout, mean, std),
    )


def network(fixed: spaces.NetworkSpace, training: Training, num_classes: int) -> nets.FoundNetwork:
    """The network around a fixed cell, or of a fixed chain, that the settings describe."""
    if isinstance(fixed, spaces.ChainSpace):
        return nets.chain_network(
            fixed,
            channels=training.channels,
            depth=training.depth,
            num_classes=num_classes,
            auxiliary=training.auxiliary > 0,
            stem=training.stem,
        )
    return nets.network_for(
        fixed,
        channels=training.channels,
        depth=training.depth,
        num_classes=num_classes,
        auxiliary=training.auxiliary > 0,
        stem=training.stem,
    )


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
      steps_per_call: see `fit`.
      mesh: of the devices, see `fit`.

    Returns:
      The result, as written to `folder/result.json`.
    """
    done = run_folder.read_json(folder / run_folder.RESULT)
    if done is not None:
        return done
    files.prepare_folder(folder)
    steps_per_epoch = len(splits.train) // training.batch_size
    num_steps = training.epochs * steps_per_epoch
    rate = optax.cosine_decay_schedule(
        training.learning_rate, num_steps, training.final_learning_rate / max(training.learning_rate, 1e-30)
    )
    learner = bilevel.supervised(
        classifier_loss(prepared.net, auxiliary_weight=training.auxiliary, smoothing=training.smoothing),
        lambda key: _start(prepared.net, key, splits.train.shape),
        optax.chain(
            optax.identity() if training.clip is None else optax.clip_by_global_norm(training.clip),
            optax.add_decayed_weights(training.weight_decay),
            optax.sgd(rate, training.heavy_ball or None, nesterov=training.nesterov and training.heavy_ball > 0),
        ),
        one_vector=True,
    )
    started = time.time()
    state = fit(
        learner,
        _source(splits.train, training, prepared.augment, num_steps),
        key=jax.random.fold_in(jax.random.key(seed), 1),
        num_steps=num_steps,
        hooks=run_folder.hooks(folder, f"train {folder.name}", "loss", "accuracy"),
        checkpoint_dir=folder / "checkpoints",
        checkpoint_every=steps_per_epoch,
        steps_per_call=steps_per_call,
        mesh=distributed.mesh_of_one(mesh, training.batch_size),
    )
    if mesh is not None:  # what follows is measured once and not by every device
        state = distributed.to_host(state)
    test = evaluate(prepared.net, state.point.weights, state.variables, splits.test, prepared.augment)
    seen = evaluate(prepared.net, state.point.weights, state.variables, splits.train, prepared.augment)
    tree = {"params": state.point.weights, "batch_stats": state.variables}
    distributed.from_first(lambda: files.save_tree(folder / WEIGHTS, tree))
    run_folder.write_json(folder / NETWORK, {
        "genotype": prepared.genotype, "space": prepared.space.name, "training": dataclasses.asdict(training),
        "num_classes": splits.train.num_classes, "shape": splits.train.shape,
        "class_names": list(splits.train.class_names), "mean": prepared.augment.mean, "std": prepared.augment.std,
    })  # fmt: skip
    result = {
        "name": folder.name, "genotype": prepared.genotype, "space": prepared.space.name,
        "parameters": nets.count_parameters(state.point.weights), "channels": training.channels, "depth":
        training.depth,
        "epochs": training.epochs, "test_accuracy": test["accuracy"], "test_loss": test["loss"],
        "train_accuracy": seen["accuracy"], "seconds": round(time.time() - started, 2), "seed": seed,
    }  # fmt: skip
    run_folder.write_json(folder / run_folder.RESULT, result)
    return result


def train_each(
    named: Sequence[tuple[str, Array]],
    space: spaces.CellSpace,
    splits: data.Splits,
    config: Any,
    folder: pathlib.Path,
    mesh: Mesh | None,
) -> dict[str, dict[str, Any]]:
    """Train several architectures in the same way: what a search found, and random ones beside it.

    Args:
      named: `(name, architecture)`, in the order of training.
      space: of the architectures.
      splits: the data.
      config: of the search; its `train`, `seed` and `steps_per_call` are used.
      folder: that gets one folder a name.
      mesh: of the devices, see `fit`.

    Returns:
      The result of each, see `train`.
    """
    return {
        name: train(
            prepare(space, arch, splits, config.train),
            splits, config.train, folder / name, config.seed, config.steps_per_call, mesh,
        )
        for name, arch in named
    }  # fmt: skip


def rebuild(facts: Mapping[str, Any], space: spaces.NetworkSpace | None = None) -> nets.FoundNetwork:
    """The network that was trained, from its `network.json`.

    Args:
      facts: what the file holds.
      space: of the network; None: it is found by its name, which cannot be if it has operators of the user's own.

    Returns:
      The network.

    Raises:
      UserError: if there is no space of that name, or the one given has another.
    """
    if space is not None and space.name != facts["space"]:
        raise UserError(f"the network is of space {facts['space']!r} and not {space.name!r}: give that space")
    found = spaces.network_space(facts["space"]) if space is None else space
    fixed = spaces.fix(found, spaces.from_string(found, facts["genotype"]))
    return network(fixed, build(Training, facts["training"]), facts["num_classes"])


def measure(
    folder: str | pathlib.Path, dataset: data.Dataset, *, space: spaces.NetworkSpace | None = None
) -> dict[str, float]:
    """Loss and accuracy of a trained network on a data set.

    Args:
      folder: of the network, `RUN/train/NAME`.
      dataset: images of the shape and classes that it was trained on.
      space: of the network, see `rebuild`.

    Returns:
      See `classification.evaluate`.

    Raises:
      UserError: if the folder holds no trained network or the data do not fit it.
    """
    path = pathlib.Path(folder)
    facts = run_folder.read_json(path / NETWORK)
    if facts is None:
        raise UserError(f"{path} holds no trained network ({NETWORK} is missing): name a finished run")
    if tuple(facts["shape"]) != dataset.shape or facts["num_classes"] != dataset.num_classes:
        raise UserError(
            f"{dataset.name} has images {dataset.shape} of {dataset.num_classes} classes and the network reads "
            f"{tuple(facts['shape'])} of {facts['num_classes']}: give data like those it was trained on"
        )
    net = rebuild(facts, space)
    params, stats = jax.eval_shape(lambda key: nets.initialise(net, key, dataset.shape), jax.random.key(0))
    tree = files.load_tree(path / WEIGHTS, {"params": params, "batch_stats": stats})
    augment = data.Augment(mean=tuple(facts["mean"]), std=tuple(facts["std"]))
    return evaluate(net, tree["params"], tree["batch_stats"], dataset, augment)


def random_cells(space: spaces.CellSpace, key: Key, num: int) -> list[Array]:
    """Architectures drawn uniformly from those whose output depends on the input."""
    drawn: list[Array] = []
    while len(drawn) < num:
        key, now = jax.random.split(key)
        drawn += [arch for arch in spaces.sample(space, now, num) if spaces.is_connected(space, arch)]
    return drawn[:num]


def describe(splits: data.Splits, validation: int = 0) -> dict[str, Any]:
    """What the report says about the data; `validation` of the training images were the upper level's."""
    train, test = splits
    return {
        "name": train.name, "train": len(train) - validation, **({"validation": validation} if validation else {}),
        "test": len(test), "shape": train.shape, "num_classes": train.num_classes,
    }  # fmt: skip


def _start(net: nets.FoundNetwork, key: Key, shape: tuple[int, int, int]):
    params, stats = nets.initialise(net, key, shape)
    return bilevel.Point(params, ()), stats


def _source(dataset: data.Dataset, training: Training, augment: data.Augment, num_steps: int) -> Source:
    """Batches with the drop-path probability of their step, which grows linearly."""
    plain = data.supervised_source(dataset, batch_size=training.batch_size, augment=augment)

    def batch(arrays, step, key) -> TrainingBatch:
        rate = training.drop_path * step.astype(jnp.float32) / num_steps if training.drop_path else None
        return TrainingBatch(plain.batch(arrays, step, key), rate)

    return plain._replace(batch=batch)
