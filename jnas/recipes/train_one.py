"""Training of one named architecture from scratch: what `jnas train` does."""

import pathlib
from typing import Any, NamedTuple

from jax.sharding import Mesh

from jnas import data
from jnas.recipes import chains, run_folder, train_network
from jnas.recipes.settings import Training, settings
from jnas.spaces import networks

KIND: str = "train"  # of the run
PAGE = False


class Plan(NamedTuple):
    """What is trained, on what."""

    prepared: train_network.Prepared
    splits: data.Splits


@settings()
class TrainOne:
    """Training of one named architecture: what `jnas train` reads."""

    genotype: str
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
    space = networks.network_space(config.space)
    splits = run_folder.load_data(config.data, config.image_size)
    return Plan(chains.prepare(space, networks.from_string(space, config.genotype), splits, config.train), splits)


def search(config: TrainOne, plan: Plan, path: pathlib.Path) -> dict[str, Any]:
    """What was to be found is given."""
    return {"genotype": plan.prepared.genotype, "space": plan.prepared.space.name}


def finish(
    config: TrainOne, plan: Plan, found: dict[str, Any], path: pathlib.Path, mesh: Mesh | None = None
) -> dict[str, Any]:
    """The named network, trained, see `driver.Recipe`."""
    trained = train_network.train_each({"named": plan.prepared}, plan.splits, config, path / "train", mesh)["named"]
    return {
        **found, "seed": config.seed, "found": trained, "random": [], "data": train_network.describe(plan.splits)
    }  # fmt: skip
