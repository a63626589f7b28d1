"""Training of one named architecture from scratch, or of a quantised network further: what `jnas train` does."""

import dataclasses
import os
import pathlib
from typing import Any, NamedTuple

from jax.sharding import Mesh

from jnas import data
from jnas.errors import UserError
from jnas.recipes import chains, flat, models, quantised, run_folder, train_network
from jnas.recipes.settings import Training, settings
from jnas.recipes.zoo import finetune
from jnas.spaces import networks

KIND: str = "train"  # of the run


class Plan(NamedTuple):
    """What is trained, on what."""

    prepared: train_network.Prepared
    splits: data.Splits
    model: models.Model | None = None  # a quantised network that is trained further


@settings()
class TrainOne:
    """Training of one named architecture: what `jnas train` reads."""

    genotype: str  # or the folder of a quantised network, which is trained further at its widths
    data: str = "fashion-mnist-slice"
    image_size: int | None = None
    space: str = "nasbench201"
    seed: int = 0
    train: Training = Training()
    steps_per_call: int | None = None


def plan(config: TrainOne, mesh: Mesh | None = None) -> Plan:
    """Build and check the network, see `driver.Recipe`.

    Raises:
      UserError, ValueError: for settings that do not fit each other or the data.
    """
    splits = run_folder.load_data(config.data, config.image_size)
    if os.path.isdir(config.genotype):  # which may be longer than a path can be
        return _further(config, splits, mesh)
    space = networks.network_space(config.space)
    return Plan(chains.prepare(space, networks.from_string(space, config.genotype), splits, config.train), splits)


def search(config: TrainOne, plan: Plan, path: pathlib.Path) -> dict[str, Any]:
    """What was to be found is given."""
    return {"genotype": plan.prepared.genotype, "space": plan.prepared.space.name}


def finish(
    config: TrainOne, plan: Plan, found: dict[str, Any], path: pathlib.Path, mesh: Mesh | None = None
) -> dict[str, Any]:
    """The named network, trained, see `driver.Recipe`."""
    if plan.model is None:
        trained = train_network.train_each({"named": plan.prepared}, plan.splits, config, path / "train", mesh)["named"]
    else:
        model, examples = plan.model, plan.splits.train
        classes = model.facts["num_classes"], list(model.facts.get("class_names") or ())
        anew = classes != (examples.num_classes, list(examples.class_names))
        training = dataclasses.replace(config.train, auxiliary=0.0)  # the network has no such head

        def start(key):
            point, stats = finetune.start(model, plan.prepared.net, key, examples.shape, anew=anew)
            return point._replace(weights=flat.ravel(point.weights)), stats

        trained = quantised.train(
            plan.prepared, model.facts["quantisation"], plan.splits, training, path / "train" / "named",
            config.seed, config.steps_per_call, start,
        )  # fmt: skip
    return {
        **found, "seed": config.seed, "found": trained, "random": [], "data": train_network.describe(plan.splits)
    }  # fmt: skip


def further(run: str) -> dict[str, Any]:
    """The settings that train the network of a run further if it is quantised; else none."""
    try:
        folder = models.network_folder(run)
    except UserError:  # nothing is trained there, or it is a genotype
        return {}
    facts = models.read_facts(folder)
    return {"genotype": str(folder), "train": facts["training"]} if "quantisation" in facts else {}


def _further(config: TrainOne, splits: data.Splits, mesh: Mesh | None) -> Plan:
    model = models.load_model(config.genotype, space=getattr(config.space, "part", None))
    if model.policy is None:
        raise UserError(f"{config.genotype} holds no quantised network to train further: give the genotype")
    if mesh is not None:
        raise UserError("a quantised network is trained on one device: leave out --mesh")
    splits = data.Splits(*(models.as_read_by(model, part) for part in splits))
    net, own = finetune.adapted(model, splits.train.num_classes)
    for name in ("channels", "depth", "stem"):
        if getattr(config.train, name) != getattr(own, name):
            raise UserError(f"train.{name} is {getattr(config.train, name)} and the network has {getattr(own, name)}")
    augment = train_network.augment_of(splits, config.train)
    augment = dataclasses.replace(augment, mean=tuple(model.facts["mean"]), std=tuple(model.facts["std"]))
    space = networks.network_space(model.facts["space"])
    return Plan(train_network.Prepared(net, model.facts["genotype"], space, augment), splits, model)
