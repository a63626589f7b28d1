"""Training of a found network under its policy, and what it does with fixed ranges and in integers."""

import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jnas import bilevel, data, engine, nets
from jnas.errors import UserError
from jnas.methods import retrain, runs
from jnas.methods.problems import accuracy, cross_entropy
from jnas.methods.settings import Training
from jnas.nets import integer
from jnas.nets.units import UnitOf, Units, calibrate, rules, units
from jnas.spaces.policy import Method
from jnas.types import Array, Aux, Context, Examples, Loss

CALIBRATION = 256  # training images whose ranges are taken


def quantised_loss(
    net: nets.Network, of: Units, methods: Sequence[Method], columns: np.ndarray, smoothing: float
) -> Loss:
    """Cross-entropy of a found network under a policy, over `Examples`; alpha is the empty pytree.

    Args:
      net: a network of a fixed space.
      of: its units.
      methods: what the policy indexes.
      columns: `[num_units]`.
      smoothing: of the labels.

    Returns:
      The loss.
    """

    def loss(weights, alpha, batch: Examples, context: Context) -> tuple[Array, Aux]:
        del alpha
        variables = {"params": weights, "batch_stats": context.variables, "quant": rules(of, methods, columns)}
        logits, updated = net.apply(variables, batch.image, train=True, mutable=["batch_stats"])
        value = cross_entropy(logits.main, batch.label, smoothing)
        return value, Aux(updated["batch_stats"], {"accuracy": accuracy(logits.main, batch.label)})

    return loss


def train(
    prepared: retrain.Prepared,
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
      prepared: from `retrain.prepare`.
      policy: the method of each unit; units that the network lacks are passed over.
      unit_of: which unit a layer belongs to.
      splits: the data.
      training: the settings; drop path and the auxiliary head are not used.
      folder: of this network, `RUN/train/NAME`.
      seed: of weights, order and augmentation.
      steps_per_call: see `engine.fit`.

    Returns:
      The result, as written to `folder/result.json`: beside what `retrain.train` gives, `policy`, and `integer` with
      the accuracy in integers and the share of test images on which it agrees, or the sentence that says why there is
      none.
    """
    done = runs.read_json(folder / runs.RESULT)
    if done is not None:
        return done
    engine.prepare_folder(folder)
    if not isinstance(prepared.net, nets.Network):
        raise UserError(f"a network of {prepared.space.name} has no units that a policy could name: use one of cells")
    net, shape = prepared.net, splits.train.shape
    params, _ = jax.eval_shape(lambda key: nets.initialise(net, key, shape), jax.random.key(0))
    of = units(net, params, unit_of)
    methods = tuple(dict.fromkeys(policy[name] for name in of.names))
    columns = np.array([methods.index(policy[name]) for name in of.names], np.int32)
    steps_per_epoch = len(splits.train) // training.batch_size
    num_steps = training.epochs * steps_per_epoch

    def init(key):
        weights, stats = nets.initialise(net, key, shape)
        return bilevel.Point(weights, ()), stats

    final = training.final_learning_rate / max(training.learning_rate, 1e-30)
    learner = bilevel.supervised(
        quantised_loss(net, of, methods, columns, training.smoothing),
        init,
        optax.chain(
            optax.identity() if training.clip is None else optax.clip_by_global_norm(training.clip),
            optax.add_decayed_weights(training.weight_decay),
            optax.sgd(
                optax.cosine_decay_schedule(training.learning_rate, num_steps, final),
                training.heavy_ball or None,
                nesterov=training.nesterov and training.heavy_ball > 0,
            ),
        ),
        one_vector=True,
    )
    started = time.time()
    state = engine.fit(
        learner,
        data.supervised_source(splits.train, batch_size=training.batch_size, augment=prepared.augment),
        key=jax.random.fold_in(jax.random.key(seed), 1),
        num_steps=num_steps,
        hooks=runs.hooks(folder, f"train {folder.name}", "loss", "accuracy"),
        checkpoint_dir=folder / "checkpoints",
        checkpoint_every=steps_per_epoch,
        steps_per_call=steps_per_call,
    )
    variables = dict(zip(("params", "batch_stats"), integer.fold(state.point.weights, state.variables), strict=True))
    sample = splits.train.part(np.arange(min(CALIBRATION, len(splits.train))))
    quant = rules(of, methods, columns)
    seen = calibrate(net, {**variables, "quant": quant}, _images(sample, prepared.augment), of)
    ranges = {path: {"activation_range": row[:2]} for path, row in seen.items()}
    fixed = {**variables, "quant": rules(of, methods, columns, extra=ranges)}
    apply = jax.jit(functools.partial(net.apply, train=False))
    predicted = _predictions(lambda images: apply(fixed, images).main, splits.test, prepared.augment)
    result = {
        "name": folder.name, "genotype": prepared.genotype, "space": prepared.space.name,
        "policy": {name: str(policy[name]) for name in of.names},
        "parameters": nets.count_parameters(state.point.weights), "channels": training.channels,
        "depth": training.depth, "epochs": training.epochs,
        "test_accuracy": float(np.mean(predicted == splits.test.labels)),
        "integer": _in_integers(net, variables, of, methods, columns, seen, splits.test, prepared.augment, predicted),
        "seconds": round(time.time() - started, 2), "seed": seed,
    }  # fmt: skip
    tree = {"params": state.point.weights, "batch_stats": state.variables}
    engine.from_first(lambda: engine.save_tree(folder / retrain.WEIGHTS, tree))
    runs.write_json(folder / runs.RESULT, result)
    return result


def _in_integers(net, variables, of: Units, methods, columns, seen, test: data.Dataset, augment, predicted: np.ndarray):
    try:
        layers = integer.integer_layers(variables["params"], of, methods, columns, seen)
    except ValueError as error:
        return {"refused": str(error)}
    run = jax.jit(integer.integer_apply(net, variables["params"], variables["batch_stats"], layers))
    found = _predictions(run, test, augment)
    return {"test_accuracy": float(np.mean(found == test.labels)), "agreement": float(np.mean(found == predicted))}


def _images(dataset: data.Dataset, augment: data.Augment) -> Array:
    return data.augment(augment, None, jnp.asarray(dataset.images), dataset.shape)


def _predictions(logits: Callable[[Array], Array], dataset: data.Dataset, augment: data.Augment) -> np.ndarray:
    """The class of each image, in batches of one size."""
    batches = data.padded(dataset, min(250, len(dataset)))
    rows = [
        np.argmax(logits(data.augment(augment, None, jnp.asarray(images), dataset.shape)), -1)
        for images in batches.images
    ]
    return np.concatenate(rows)[: len(dataset)]
