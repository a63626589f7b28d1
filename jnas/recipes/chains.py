"""Networks of chains beside those of cells: for the recipes that take either."""

from collections.abc import Mapping
from typing import Any

from jnas import data
from jnas.nets.chain import ChainNetwork, FoundNetwork
from jnas.recipes import train_network
from jnas.recipes.config import build
from jnas.recipes.settings import Training
from jnas.recipes.train_network import Prepared
from jnas.spaces import networks
from jnas.spaces.chain import ChainSpace
from jnas.spaces.networks import NetworkSpace
from jnas.types import Array


def prepare(space: NetworkSpace, arch: Array, splits: data.Splits, training: Training) -> Prepared:
    """Build the network of an architecture, as `train_network.prepare` does."""
    net = network(networks.fix(space, arch), training, splits.train.num_classes)
    return Prepared(net, networks.to_string(space, arch), space, train_network.augment_of(splits, training))


def network(fixed: NetworkSpace, training: Training, num_classes: int) -> FoundNetwork:
    """The network around a fixed cell, or of a fixed chain, that the settings describe."""
    if isinstance(fixed, ChainSpace):
        return ChainNetwork(
            fixed, training.channels, num_classes, training.depth, training.stem, auxiliary=training.auxiliary > 0
        )
    return train_network.network(fixed, training, num_classes)


def rebuild(facts: Mapping[str, Any]) -> FoundNetwork:
    """The network that was trained, from its `network.json`.

    Args:
      facts: what the file holds; a space with operators of the user's own comes with its name, see `own.Own`.

    Returns:
      The network.

    Raises:
      UserError: if there is no space of that name.
    """
    space = networks.network_space(facts["space"])
    fixed = networks.fix(space, networks.from_string(space, facts["genotype"]))
    return network(fixed, build(Training, facts["training"]), facts["num_classes"])
