"""Networks that give their features to the heads of other tasks."""

from typing import NamedTuple

from jnas.nets.chain import FoundNetwork
from jnas.recipes import chains
from jnas.recipes.settings import Training
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
