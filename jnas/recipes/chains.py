"""Networks of chains beside those of cells: for the recipes that take either."""

from jnas import data
from jnas.nets.chain import FoundNetwork, chain_network
from jnas.recipes import train_network
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
        return chain_network(fixed, **train_network.arguments_of(training), num_classes=num_classes)
    return train_network.network(fixed, training, num_classes)
