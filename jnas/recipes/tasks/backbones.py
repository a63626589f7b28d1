"""Networks that give their features to the heads of other tasks."""

import dataclasses
from typing import Any, NamedTuple

from jnas.nets.chain import FoundNetwork
from jnas.recipes import chains
from jnas.recipes.settings import Training
from jnas.recipes.tasks.settings import TrainDetector, TrainEmbedding
from jnas.spaces import networks


class Backbone(NamedTuple):
    """A network and the names that rebuild it."""

    net: FoundNetwork
    space: str
    genotype: str
    depth: int


def backbone(space_name: str, genotype: str, *, channels: int, depth: int | None, stem) -> Backbone:
    """The network of an architecture, without anything learned.

    Args:
      space_name: as `spaces.network_space` reads it.
      genotype: as `spaces.from_string` reads it.
      channels: of the first cell or layer.
      depth: cells, or cells a stage, or repetitions of a layer; None: the fewest that make three resolutions.
      stem: "small_image" or "imagenet".

    Returns:
      The network, with names as its space writes them.

    Raises:
      ValueError: if a name is unknown, or the settings do not fit each other.
    """
    space = networks.network_space(space_name)
    arch = networks.from_string(space, genotype)
    depth = depth or (3 if "reduce" in getattr(space, "cells", ()) else 1)
    training = Training(channels=channels, depth=depth, stem=stem)
    return Backbone(
        chains.network(networks.fix(space, arch), training, 1), space.name, networks.to_string(space, arch), depth
    )


def backbone_of(config: TrainDetector | TrainEmbedding) -> Backbone:
    """The network that the settings of a task name."""
    return backbone(config.space, config.genotype, channels=config.channels, depth=config.depth, stem=config.stem)


def facts_of(task: str, config: TrainDetector | TrainEmbedding, dataset: Any, augment: Any) -> dict[str, Any]:
    """Everything that rebuilds the network of a task, for `network.json`, and what it reads."""
    of = backbone_of(config)
    names = {"genotype": of.genotype, "space": of.space}
    return {
        "task": task, **names, "settings": {**dataclasses.asdict(config), **names, "depth": of.depth},
        "shape": dataset.shape, "num_classes": dataset.num_classes, "class_names": list(dataset.class_names),
        "mean": augment.mean, "std": augment.std,
    }  # fmt: skip
