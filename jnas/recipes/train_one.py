"""Training of one named architecture from scratch: what `jnas train` does."""

import dataclasses
import pathlib
from typing import Any

from jax.sharding import Mesh

from jnas import distributed
from jnas.recipes import chains, run_folder, train_network
from jnas.recipes.settings import Training, bounded
from jnas.spaces import networks


@dataclasses.dataclass(frozen=True)
class TrainOne:
    """Training of one named architecture: what `jnas train` reads."""

    genotype: str
    data: str = "fashion-mnist-slice"
    image_size: int | None = None
    space: str = "nasbench201"
    seed: int = 0
    train: Training = Training()  # noqa: RUF009 - frozen
    steps_per_call: int | None = None

    def __post_init__(self):
        bounded(self)


def run(config: TrainOne, folder: str | pathlib.Path, *, mesh: Mesh | None = None) -> dict[str, Any]:
    """Train one named architecture in a run folder; run again, it resumes, or returns what it found.

    Args:
      config: what to train and how.
      folder: of the run.
      mesh: of the devices, see `fit`.

    Returns:
      The result, as written to `result.json`.

    Raises:
      UserError: for settings that do not fit each other, the data or the folder.
    """
    with run_folder.as_user_input():
        space = networks.network_space(config.space)
        arch = networks.from_string(space, config.genotype)
        splits = run_folder.load_data(config.data, config.image_size)
        prepared = chains.prepare(space, arch, splits, config.train)
        distributed.check_batch(config.train.batch_size, mesh, "train.batch_size")
    with run_folder.alone(folder, config, "train") as path:
        place = path / "train" / "named"
        result = train_network.train(prepared, splits, config.train, place, config.seed, config.steps_per_call, mesh)
        summary = {
            "genotype": result["genotype"], "space": space.name, "seed": config.seed, "found": result, "random": [],
            "data": train_network.describe(splits),
        }  # fmt: skip
        run_folder.write_json(path / run_folder.RESULT, summary)
        return summary
