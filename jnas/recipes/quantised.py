"""Found networks under quantisation policies: trained, read back, with fixed ranges and in integers."""

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
from jnas.nets.quant.units import Path, Units, calibrate, per_edge, rules, shared, units
from jnas.recipes import train_network, trainer
from jnas.recipes.classification import evaluate
from jnas.recipes.settings import Training
from jnas.spaces.policy import Method, method_of
from jnas.types import Array, PyTree

CALIBRATION = 256  # training images whose ranges are taken
UNITS_OF = {"shared": shared, "edges": per_edge}  # by the word of the setting `units`


class Quantised(NamedTuple):
    """A found network and the policy of its units."""

    net: nets.Network
    units: Units
    methods: tuple[Method, ...]
    columns: np.ndarray  # [num_units] int32, indices of `methods`


def of_policy(net: Any, policy: Mapping[str, Method], kind: str, shape: tuple[int, int, int]) -> Quantised:
    """A found network under a policy.

    Args:
      net: the network.
      policy: the method of each unit; units that the network lacks are passed over.
      kind: of units, a name of `UNITS_OF`.
      shape: of an image.

    Returns:
      Both.

    Raises:
      UserError: for a network that is not of cells.
      ValueError: if a unit has no method.
    """
    if not isinstance(net, nets.Network):
        raise UserError("a network of a chain has no units that a policy could name: use one of cells")
    of = units(net, nets.shapes(net, shape)["params"], UNITS_OF[kind])
    if missing := [name for name in of.names if name not in policy]:
        raise ValueError(f"the policy has no method for unit {missing[0]!r}: give each of {', '.join(of.names)} one")
    methods = tuple(dict.fromkeys(policy[name] for name in of.names))
    return Quantised(net, of, methods, np.array([methods.index(policy[name]) for name in of.names], np.int32))


def of_facts(net: Any, facts: Mapping[str, Any]) -> Quantised | None:
    """A network under the policy that its `network.json` holds; None: that of a network of floating-point numbers."""
    if (said := facts.get("quantisation")) is None:
        return None
    policy = {name: method_of(text) for name, text in said["policy"].items()}
    return of_policy(net, policy, said["units"], tuple(facts["shape"]))


# Below, where there is no policy (None) the weights are all that there is.


def shapes(one: Quantised | None, net: Any, shape: tuple[int, int, int]) -> PyTree:
    """The shapes of what `calibrated` gives, for a network that reads images of this shape."""
    found, row = nets.shapes(net, shape), jax.ShapeDtypeStruct((2,), jnp.float32)
    if one is None:
        return found
    used = ["/".join(layer.path) for layer in one.units.layers if layer.path[0] != "auxiliary_head"]
    return found | {"ranges": dict.fromkeys(used, row)}


def while_training(one: Quantised | None) -> dict[str, PyTree]:
    """The collection that makes a training quantise, by the range of each batch; beside `params`."""
    return {} if one is None else {"quant": rules(one.units, one.methods, one.columns)}


def calibrated(one: Quantised | None, weights: dict[str, PyTree], examples: data.Dataset, augment: data.Augment):
    """Weights with the ranges of the inputs of all layers, fixed on training images, as the collection `ranges`.

    Args:
      one: the network and its policy.
      weights: `params` and `batch_stats`.
      examples: the training images.
      augment: its normalisation is used.

    Returns:
      The weights, as `weights.npz` holds them.
    """
    if one is None:
        return weights
    sample = examples.part(np.arange(min(CALIBRATION, len(examples))))
    images = data.augment(augment, None, jnp.asarray(sample.images), sample.shape)
    seen = calibrate(one.net, weights | while_training(one), images, one.units)
    return weights | {"ranges": {"/".join(path): row for path, row in seen.items()}}


def variables(one: Quantised | None, weights: dict[str, PyTree]) -> dict[str, PyTree]:
    """What a network is applied with: `params`, `batch_stats`, and under a policy `quant`, rules with fixed ranges."""
    if one is None:
        return weights
    ranges = {path: {"activation_range": row} for path, row in _seen(weights).items()}
    quant = rules(one.units, one.methods, one.columns, extra=ranges)
    return {"params": weights["params"], "batch_stats": weights["batch_stats"], "quant": quant}


def train(
    prepared: train_network.Prepared, policy: dict[str, Method], kind: str, splits: data.Splits, training: Training,
    folder: pathlib.Path, seed: int, steps_per_call: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train with quantised weights and activations, fix the ranges, and measure on the test images once.

    Resumes, and does nothing if done.

    Args:
      prepared: from `train_network.prepare`.
      policy: see `of_policy`.
      kind: of its units.
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
    one = of_policy(prepared.net, policy, kind, splits.train.shape)
    methods = {name: str(policy[name]) for name in one.units.names}

    def fit() -> PyTree:
        source = data.supervised_source(splits.train, batch_size=training.batch_size, augment=prepared.augment)
        loss = trainer.classifier_loss(one.net, smoothing=training.smoothing, beside=while_training(one))
        job = trainer.job_of(one.net, loss, functools.partial(trainer.sgd_of, training), source, splits.train, training)
        key, title = jax.random.fold_in(jax.random.key(seed), 1), f"train {folder.name}"
        weights = trainer.train(job, key, folder=folder, title=title, steps_per_call=steps_per_call)
        return calibrated(one, weights, splits.train, prepared.augment)

    facts = train_network.facts_of(prepared, splits, training) | {"quantisation": {"units": kind, "policy": methods}}
    about = {
        "genotype": prepared.genotype, "space": prepared.space.name, "seed": seed, "policy": methods,
        **train_network.about_training(training),
    }  # fmt: skip
    return train_network.once(folder, fit, lambda of: _measured(one, of, splits.test, prepared.augment), facts, about)


def _seen(weights: Mapping[str, PyTree]) -> dict[Path, Array]:
    return {tuple(path.split("/")): row for path, row in weights["ranges"].items()}


def _measured(one: Quantised, weights: PyTree, test: data.Dataset, augment: data.Augment) -> dict[str, Any]:
    """What the network does on the test images with ranges that no batch changes, and in integers."""
    fixed, apply = variables(one, weights), jax.jit(functools.partial(one.net.apply, train=False))
    measured = evaluate(one.net, fixed, test, augment)
    predicted = _predictions(lambda images: apply(fixed, images).main, test, augment)
    params, stats = integer.fold(weights["params"], weights["batch_stats"])
    folded = {"params": params, "batch_stats": stats}
    return {
        "test_accuracy": measured["accuracy"], "test_loss": measured["loss"],
        "integer": in_integers(one, folded, _seen(weights), test, augment, predicted),
    }  # fmt: skip


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
