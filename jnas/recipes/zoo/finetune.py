"""Fine-tuning: a trained network, with a new classifier, fitted to new images."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jnas import bilevel, data, nets
from jnas.nets.chain import FoundNetwork
from jnas.nets.quant.sizes import layer_sizes
from jnas.recipes import chains, quantised, run_folder, train_network, trainer
from jnas.recipes.classification import evaluate
from jnas.recipes.config import build
from jnas.recipes.models import Model, normalisation_of
from jnas.recipes.settings import Training
from jnas.recipes.zoo.settings import FineTuning
from jnas.spaces import networks
from jnas.types import Key, PyTree

CLASSIFIER = "classifier"


def prepare(
    model: Model, train: data.Dataset, validation: data.Dataset, settings: FineTuning, epochs: Sequence[int],
    folder: pathlib.Path, seed: int,
) -> Callable[[int], dict[str, Any]]:  # fmt: skip
    """Fit a trained network to new images, as far as the end of one rung or another.

    Each rung has a cosine of its own, from the learning rate's top to 0, as those of a search by trials have: what is
    measured at the end of a rung are weights whose learning rate has come down, a network that may be kept, and a
    longer fine-tuning goes on from there.

    Args:
      model: the network; its mean and deviation normalise the new images, too.
      train: the images to learn from, see `models.as_read_by`.
      validation: the images to measure on.
      settings: the hyper-parameters.
      epochs: passes over the images at the end of each rung, the fewest first.
      folder: gets metrics and checkpoints and, of the last rung that was asked for, network.json, weights.npz,
        result.json, as a training from scratch does; rung-N/result.json keeps that of each.
      seed: of the classifier, order and augmentation.

    Returns:
      A function of a rung, 0 the first, to the result there; "test_accuracy" is that on `validation`. It goes on from
      the last checkpoint, and does nothing where that rung was measured before. Call it for one rung after the other;
      it raises `Diverged` if the loss is not finite.

    Raises:
      ValueError: if the batch is larger than the data set.

    Reference: Loshchilov, Hutter, "SGDR: Stochastic gradient descent with warm restarts", ICLR 2017.
    """
    net, training = adapted(model, train.num_classes)
    one = quantised.of_facts(net, model.facts)
    augment = dataclasses.replace(normalisation_of(model), **dataclasses.asdict(settings.augmentation))
    size = min(settings.batch_size, len(train))
    ends = [number * (len(train) // size) for number in epochs]
    still = frozen_parts(model, settings.frozen)
    # Last in the chain, or weight decay would move what stands still.
    held = optax.transforms.freeze(bilevel.Point({name: name in still for name in model.weights["params"]}, ()))
    whole = trainer.classifier_loss(net, beside=quantised.while_training(one))

    def loss(params, *rest):
        """Without gradients of what stands still: they need not be computed, and do not count in the norm to clip."""
        return whole({n: jax.lax.stop_gradient(p) if n in still else p for n, p in params.items()}, *rest)

    learner = bilevel.supervised(
        loss,
        lambda key: start(model, net, key, train.shape),
        optax.chain(trainer.sgd_of(as_training(settings), *np.diff(ends, prepend=0).tolist()), held),
    )
    source = data.supervised_source(train, batch_size=size, augment=augment)
    job = trainer.Job(learner, lambda weights: weights, source, size, len(train) // size, ends[-1])
    facts = model.facts | {
        "training": dataclasses.asdict(training), "num_classes": train.num_classes, "shape": train.shape,
        "class_names": list(train.class_names),
    }  # fmt: skip
    about = {
        "genotype": facts["genotype"], "space": facts["space"], **train_network.about_training(training),
        "seed": seed, "frozen": still, "fine_tuning": dataclasses.asdict(settings),
    }  # fmt: skip

    def fit(rung: int) -> PyTree:
        key = jax.random.fold_in(jax.random.key(seed), 2)
        weights = trainer.train(
            job._replace(num_steps=ends[rung]), key, folder=folder, title=f"fine-tune {folder.name}"
        )
        return quantised.calibrated(one, weights, train, augment)

    def measure(weights: PyTree) -> dict[str, Any]:
        measured = evaluate(net, quantised.variables(one, weights), validation, augment)
        return {"test_accuracy": measured["accuracy"], "test_loss": measured["loss"]}

    def to(rung: int) -> dict[str, Any]:
        before = run_folder.read_json(folder / run_folder.RESULT)
        if before is not None and before["epochs"] < epochs[rung]:
            (folder / run_folder.RESULT).unlink()
        return train_network.once(folder, lambda: fit(rung), measure, facts, {**about, "epochs": epochs[rung]})

    return lambda rung: run_folder.kept(folder / f"rung-{rung + 1}" / run_folder.RESULT, lambda: to(rung))


def adapted(model: Model, num_classes: int) -> tuple[FoundNetwork, Training]:
    """The same network for another number of classes, without an auxiliary head, and its settings."""
    space = networks.network_space(model.facts["space"])
    fixed = networks.fix(space, networks.from_string(space, model.facts["genotype"]))
    training = dataclasses.replace(build(Training, model.facts["training"]), auxiliary=0.0)
    return chains.network(fixed, training, num_classes), training


def start(model: Model, net: FoundNetwork, key: Key, shape: tuple[int, int, int], *, anew: bool = True):
    """Where fine-tuning starts: the weights of the model, and a new classifier.

    Args:
      model: the trained network.
      net: the same network for the new classes.
      key: of the classifier.
      shape: of the new images; as many channels as before.
      anew: whether the classifier is; else that of the model goes on.

    Returns:
      `(point, running statistics)`.
    """
    params, stats = nets.initialise(net, key, shape)

    def kept(new: PyTree, old: PyTree) -> PyTree:
        return {name: leaf if anew and name == CLASSIFIER else old[name] for name, leaf in new.items()}

    return bilevel.Point(kept(params, model.weights["params"]), ()), kept(stats, model.weights["batch_stats"])


def frozen_parts(model: Model, share: float) -> list[str]:
    """The names of the network's parts that stand still, in their order from the image on.

    Args:
      model: the network.
      share: of the parts with weights, in [0, 1]; the classifier is none of them.

    Returns:
      Names at the top of the tree of parameters.
    """
    order = [path[0] for path in layer_sizes(model.net, model.shape)]
    parts = [name for name in dict.fromkeys(order) if name != CLASSIFIER and name in model.weights["params"]]
    return parts[: round(share * len(parts))]


def features_of(model: Model):
    """The frozen features of a network, for `data.description.describe`: the last state, averaged over pixels.

    Returns:
      `(weights, pixels [batch, height, width, channels] in [0, 1]) -> [batch, dimension]`.
    """
    mean, std = (np.asarray(model.facts[name], np.float32).reshape(1, 1, 1, -1) for name in ("mean", "std"))

    def features(weights, pixels):
        states = model.net.apply(weights, (pixels - mean) / std, train=False, features=True)
        return jnp.mean(states[max(states)], (1, 2))

    return features


def as_training(settings: FineTuning) -> Training:
    """The hyper-parameters as those of a training."""
    same = ("learning_rate", "batch_size", "heavy_ball", "weight_decay", "clip", "augmentation")
    return Training(**{name: getattr(settings, name) for name in same})
