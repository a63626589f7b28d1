"""Training of a found network under its policy, and what it does with fixed ranges and in integers."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnas import data, nets
from jnas.distributed.environment import environment
from jnas.errors import UserError
from jnas.nets.quant import integer
from jnas.nets.quant.units import Path, UnitOf, Units, calibrate, rules
from jnas.recipes import train_network, trainer
from jnas.recipes.classification import training_loss
from jnas.recipes.joint.plan import units_of
from jnas.recipes.settings import Training
from jnas.spaces.policy import Method
from jnas.types import Array, Aux, Context, Examples, Loss, PyTree

CALIBRATION = 256  # training images whose ranges are taken


class Quantised(NamedTuple):
    """A found network and the policy of its units."""

    net: nets.Network
    units: Units
    methods: tuple[Method, ...]
    columns: np.ndarray  # [num_units] int32, indices of `methods`


def quantised_loss(one: Quantised, smoothing: float) -> Loss:
    """Cross-entropy of a found network under its policy, over `Examples`; alpha is the empty pytree.

    Args:
      one: the network and its policy.
      smoothing: of the labels.

    Returns:
      The loss.
    """

    def loss(weights, alpha, batch: Examples, context: Context) -> tuple[Array, Aux]:
        quant = rules(one.units, one.methods, one.columns)
        return training_loss(one.net, {"params": weights, "quant": quant}, batch, context, smoothing=smoothing)

    return loss


def train(
    prepared: train_network.Prepared,
    policy: dict[str, Method],
    unit_of: UnitOf,
    splits: data.Splits,
    training: Training,
    folder: pathlib.Path,
    seed: int,
    steps_per_call: int | None = None,
) -> dict[str, Any]:
    """Train from scratch with quantised weights and activations, fix the ranges, and measure on the test images once.

    Resumes, and does nothing if done. Batch norms are folded before ranges are taken, on training images.

    Args:
      prepared: from `train_network.prepare`.
      policy: the method of each unit; units that the network lacks are passed over.
      unit_of: which unit a layer belongs to.
      splits: the data.
      training: the settings; drop path and the auxiliary head are not used.
      folder: of this network, `RUN/train/NAME`.
      seed: of weights, order and augmentation.
      steps_per_call: see `train.chunks_of`.

    Returns:
      The result, as written to `folder/result.json`: beside what `train_network.train` gives, `policy`, and `integer`
      with the accuracy in integers and the share of test images on which it agrees, or the sentence that says why there
      is none.
    """
    one = _quantised(prepared, policy, unit_of, splits.train.shape)

    def fit() -> PyTree:
        source = data.supervised_source(splits.train, batch_size=training.batch_size, augment=prepared.augment)
        loss, optimiser = quantised_loss(one, training.smoothing), functools.partial(trainer.sgd_of, training)
        job = trainer.job_of(one.net, loss, optimiser, source, splits.train, training)
        key, title = jax.random.fold_in(jax.random.key(seed), 1), f"train {folder.name}"
        return trainer.train(job, key, folder=folder, title=title, steps_per_call=steps_per_call)

    about = {
        "genotype": prepared.genotype, "space": prepared.space.name, "seed": seed,
        "policy": {name: str(policy[name]) for name in one.units.names}, **train_network.about_training(training),
    }  # fmt: skip
    return train_network.once(folder, fit, lambda of: _measured(one, of, splits, prepared.augment), None, about)


def _quantised(
    prepared: train_network.Prepared, policy: dict[str, Method], unit_of: UnitOf, shape: tuple[int, int, int]
) -> Quantised:
    net = prepared.net
    if not isinstance(net, nets.Network):
        raise UserError(f"a network of {prepared.space.name} has no units that a policy could name: use one of cells")
    of = units_of(net, shape, unit_of)
    methods = tuple(dict.fromkeys(policy[name] for name in of.names))
    return Quantised(net, of, methods, np.array([methods.index(policy[name]) for name in of.names], np.int32))


def _measured(one: Quantised, weights: PyTree, splits: data.Splits, augment: data.Augment) -> dict[str, Any]:
    """What the network does on the test images with ranges that no batch changes, and in integers."""
    folded, stats = integer.fold(weights["params"], weights["batch_stats"])
    variables: dict[str, Any] = {"params": folded, "batch_stats": stats}
    sample = splits.train.part(np.arange(min(CALIBRATION, len(splits.train))))
    images = data.augment(augment, None, jnp.asarray(sample.images), sample.shape)
    quant = rules(one.units, one.methods, one.columns)
    seen = calibrate(one.net, {**variables, "quant": quant}, images, one.units)
    ranges = {path: {"activation_range": row} for path, row in seen.items()}
    fixed = {**variables, "quant": rules(one.units, one.methods, one.columns, extra=ranges)}
    apply = jax.jit(functools.partial(one.net.apply, train=False))
    predicted = _predictions(lambda images: apply(fixed, images).main, splits.test, augment)
    return {
        "test_accuracy": float(np.mean(predicted == splits.test.labels)),
        "integer": in_integers(one, variables, seen, splits.test, augment, predicted),
    }


def in_integers(
    one: Quantised, variables: Mapping[str, Any], seen: Mapping[Path, Array], test: data.Dataset,
    augment: data.Augment, predicted: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
    """What the network does in integers on the device that is there.

    Args:
      one: the network and its policy.
      variables: `params` and `batch_stats`, the batch norms folded.
      seen: the ranges of all inputs, from `units.calibrate`.
      test: the test images.
      augment: its normalisation is used.
      predicted: `[num_images]`, the classes that fake quantisation gives.

    Returns:
      `test_accuracy` and the `agreement` with `predicted`; or `refused`, the sentence that says why there is none.
    """
    try:
        layers = integer.integer_layers(variables["params"], one.units, one.methods, one.columns, seen)
    except ValueError as error:
        return {"refused": str(error)}
    run = jax.jit(integer.integer_apply(one.net, variables["params"], variables["batch_stats"], layers))
    try:
        found = _predictions(run, test, augment)
    except jax.errors.JaxRuntimeError as error:
        device = environment()["device"]
        reason = str(error).strip().partition("\n")[0]
        return {"refused": f"{device} cannot run this network in integers ({reason}): measure it on a CPU"}
    return {"test_accuracy": float(np.mean(found == test.labels)), "agreement": float(np.mean(found == predicted))}


def _predictions(logits: Callable[[Array], Array], dataset: data.Dataset, augment: data.Augment) -> np.ndarray:
    """The class of each image, in batches of one size."""
    batches = data.padded(dataset, min(250, len(dataset)))
    rows = [
        np.argmax(logits(data.augment(augment, None, jnp.asarray(images), dataset.shape)), -1)
        for images in batches.images
    ]
    return np.concatenate(rows)[: len(dataset)]
