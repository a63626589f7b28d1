"""Found networks under quantisation policies: trained, read back, with fixed ranges and in integers."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jnas import data, nets
from jnas.bilevel.problem import Init
from jnas.distributed.environment import environment
from jnas.nets.chain import FoundNetwork
from jnas.nets.quant import integer
from jnas.nets.quant.fake import quantise_affine
from jnas.nets.quant.packed import packed
from jnas.nets.quant.sizes import layer_sizes
from jnas.nets.quant.units import Path, Units, calibrate, methods_of, per_block, per_edge, rules, shared, units
from jnas.recipes import train_network, trainer
from jnas.recipes.classification import cross_entropy
from jnas.recipes.costs import CONSTANTS, median_seconds
from jnas.recipes.settings import Training
from jnas.spaces.policy import EIGHT, Method, method_of
from jnas.types import Array, PyTree

CALIBRATION = 256  # training images whose ranges are taken
UNITS_OF = {"shared": shared, "edges": per_edge, "blocks": per_block}  # by the word of the setting `units`


class Quantised(NamedTuple):
    """A found network and the policy of its units."""

    net: FoundNetwork
    units: Units
    methods: tuple[Method, ...]
    columns: np.ndarray  # [num_units] int32, indices of `methods`

    def by_layer(self) -> dict[Path, Method]:
        """The method of each layer that there is after the training."""
        found = methods_of(self.units, self.methods, self.columns)
        return {path: method for path, method in found.items() if path[0] != "auxiliary_head"}


def of_facts(net: Any, facts: Mapping[str, Any]) -> Quantised | None:
    """A found network under the policy that its `network.json` holds.

    Args:
      net: the network.
      facts: `quantisation` says by `units`, a name of `UNITS_OF`, what the units are, and by `policy` the method of
        each; those that the network lacks are passed over.

    Returns:
      Both; None: the facts are those of a network of floating-point numbers.

    Raises:
      ValueError: if a unit has no method.
    """
    if (said := facts.get("quantisation")) is None:
        return None
    of = units(net, nets.shapes(net, tuple(facts["shape"]))["params"], UNITS_OF[said["units"]])
    policy = {name: method_of(text) for name, text in said["policy"].items()}
    if missing := [name for name in of.names if name not in policy]:
        raise ValueError(f"the policy has no method for unit {missing[0]!r}: give each of {', '.join(of.names)} one")
    methods = tuple(dict.fromkeys(policy[name] for name in of.names))
    return Quantised(net, of, methods, np.array([methods.index(policy[name]) for name in of.names], np.int32))


# Below, where there is no policy (None) the weights are all that there is.


def shapes(one: Quantised | None, net: Any, shape: tuple[int, int, int]) -> PyTree:
    """The shapes of what `calibrated` gives, for a network that reads images of this shape."""
    found, row = nets.shapes(net, shape), jax.ShapeDtypeStruct((2,), jnp.float32)
    if one is None:
        return found
    return found | {"ranges": dict.fromkeys(map("/".join, one.by_layer()), row)}


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


def packed_weights(one: Quantised, of: Mapping[str, PyTree]) -> tuple[tuple[np.ndarray, ...], Callable[..., PyTree]]:
    """Weights as integers at their widths, batch norms folded, for a file.

    Args:
      one: the network and its policy.
      of: from `variables`.

    Returns:
      The arrays, and the function from them to what the network is applied with, see `quant.packed`.
    """
    params, stats = integer.fold(of["params"], of["batch_stats"])
    kept = {"params": {name: part for name, part in params.items() if name != "auxiliary_head"}, "batch_stats": stats}
    methods = {layer.kernel: one.by_layer().get(layer.path, EIGHT) for layer in one.units.layers}
    arrays, unpack = packed(kept, methods)
    rounding = {path: functools.partial(_rounded, rule) for path, rule in flatten_dict(of["quant"]).items()}
    return arrays, lambda stored: {**unpack(stored), "quant": unflatten_dict(rounding)}


def size(one: Quantised, shape: tuple[int, int, int]) -> float:
    """The bytes of the weights at their widths, as `costs.costs` counts them."""
    methods = one.by_layer()
    return sum(
        part.weights * methods[path].weight_bits / 8 + CONSTANTS * part.channels
        for path, part in layer_sizes(one.net, shape).items()
    )


def train(
    prepared: train_network.Prepared, quantisation: Mapping[str, Any], splits: data.Splits, training: Training,
    folder: pathlib.Path, seed: int, steps_per_call: int | None = None, start: Init | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train with quantised weights and activations, fix the ranges, and measure on the test images once.

    Resumes, and does nothing if done.

    Args:
      prepared: from `train_network.prepare`.
      quantisation: `units` and `policy`, see `of_facts`.
      splits: the data.
      training: the settings; drop path and the auxiliary head are not used.
      folder: of this network, `RUN/train/NAME`.
      seed: of weights, order and augmentation.
      steps_per_call: see `train.chunks_of`.
      start: see `trainer.job_of`.

    Returns:
      The result, as written to `folder/result.json`: beside what `train_network.train` gives, `policy`, and `integer`
      with the accuracy in integers and the share of test images on which it agrees, or the sentence that says why there
      is none.
    """
    facts = train_network.facts_of(prepared, splits, training) | {"quantisation": dict(quantisation)}
    one: Any = of_facts(prepared.net, facts)
    policy = {name: quantisation["policy"][name] for name in one.units.names}
    facts["quantisation"]["policy"] = policy

    def fit() -> PyTree:
        job = job_of(one, splits.train, prepared.augment, training, start)
        key, title = jax.random.fold_in(jax.random.key(seed), 1), f"train {folder.name}"
        weights = trainer.train(job, key, folder=folder, title=title, steps_per_call=steps_per_call)
        return calibrated(one, weights, splits.train, prepared.augment)

    about = {
        "genotype": prepared.genotype, "space": prepared.space.name, "seed": seed, "policy": policy,
        **train_network.about_training(training),
    }  # fmt: skip
    return train_network.once(folder, fit, lambda of: _measured(one, of, splits.test, prepared.augment), facts, about)


def job_of(
    one: Quantised, examples: data.Dataset, augment: data.Augment, training: Training, start: Init | None = None
) -> trainer.Job:
    """The training of a network under its policy, see `trainer.job_of`."""
    source = data.supervised_source(examples, batch_size=training.batch_size, augment=augment)
    loss = trainer.classifier_loss(one.net, smoothing=training.smoothing, beside=while_training(one))
    return trainer.job_of(
        one.net, loss, functools.partial(trainer.sgd_of, training), source, examples, training, start=start
    )


def _rounded(rule: Any, x: Array, kernel: Array) -> tuple[Array, Array]:
    """What a rule makes of an input, beside a kernel that is on its levels already."""
    return quantise_affine(x, rule.activation_bits, limits=rule.activation_range), kernel


def _seen(weights: Mapping[str, PyTree]) -> dict[Path, Array]:
    return {tuple(path.split("/")): row for path, row in weights["ranges"].items()}


def _measured(one: Quantised, weights: PyTree, test: data.Dataset, augment: data.Augment) -> dict[str, Any]:
    """What the network does on the test images with ranges that no batch changes, and in integers."""
    fixed, apply = variables(one, weights), jax.jit(functools.partial(one.net.apply, train=False))
    logits = _logits(lambda images: apply(fixed, images).main, test, augment)
    predicted = logits.argmax(-1)
    params, stats = integer.fold(weights["params"], weights["batch_stats"])
    folded = {"params": params, "batch_stats": stats}
    return {
        "test_accuracy": float(np.mean(predicted == test.labels)),
        "test_loss": float(cross_entropy(jnp.asarray(logits), jnp.asarray(test.labels))),
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
      `test_accuracy`, the `agreement` with `predicted`, and `latency`, the milliseconds of one image on this device; or
      `refused`, the sentence that says why there is none.
    """
    try:
        layers = integer.integer_layers(variables["params"], one.units, one.methods, one.columns, seen)
    except ValueError as error:
        return {"refused": str(error)}
    run = jax.jit(integer.integer_apply(one.net, variables["params"], variables["batch_stats"], layers))
    try:
        found = _logits(run, test, augment).argmax(-1)
    except jax.errors.JaxRuntimeError as error:
        device = environment()["device"]
        reason = str(error).strip().partition("\n")[0]
        return {"refused": f"{device} cannot run this network in integers ({reason}): measure it on a CPU"}
    image = data.augment(augment, None, jnp.asarray(test.images[:1]), test.shape)
    return {
        "test_accuracy": float(np.mean(found == test.labels)), "agreement": float(np.mean(found == predicted)),
        "latency": 1e3 * median_seconds(lambda: run(image), 20),
    }  # fmt: skip


def _logits(apply: Callable[[Array], Array], dataset: data.Dataset, augment: data.Augment) -> np.ndarray:
    """`[num_images, num_classes]`, in batches of one size."""
    batches = data.padded(dataset, min(250, len(dataset)))
    rows = [apply(data.augment(augment, None, jnp.asarray(images), dataset.shape)) for images in batches.images]
    return np.concatenate(rows)[: len(dataset)]
