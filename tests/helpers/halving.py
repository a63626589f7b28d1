"""A recipe of its own: random search in stages, each of which trains for longer and keeps the better half.

`driver.run(halving, Halving(...), folder)` does the rest: the data, the folder, its lock and its settings, the way on
after a kill, the training of the found cell beside random ones, the result and the page.
"""

import dataclasses
import functools
import pathlib
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jnas import data, files, searchers, spaces
from jnas.recipes import run_folder
from jnas.recipes.settings import Training, bounded, share
from jnas.recipes.trials.objectives import short_training

KIND: str = "halving"  # of the run


@dataclasses.dataclass(frozen=True)
class Halving:
    """Random search with successive halving."""

    data: str = "fashion-mnist-slice"
    image_size: int | None = None
    space: str = "nasbench201"
    seed: int = 0
    cells: int = 8  # drawn at random for the first stage
    stages: int = 3  # each with half of the cells of the one before, trained for twice as many epochs
    stage: Training = Training(channels=4)  # noqa: RUF009 - of the first one
    validation: float = 0.2  # share of the training images that judge
    random_cells: int = 1  # drawn at random and trained in the same way
    train: Training = Training()  # noqa: RUF009 - frozen
    steps_per_call: int | None = None

    def __post_init__(self):
        bounded(self, stages=(1, 8), cells=(2**self.stages, 1000))


class Plan(NamedTuple):
    """What the stages share."""

    space: spaces.CellSpace
    without: tuple[str, ...]  # operators that are not derived: none
    num_outer: int  # images that judge
    train: data.Dataset
    validation: data.Dataset


def describe(config: Halving) -> str:
    """The method in the words of a table."""
    return f"random search, {config.cells} cells halved in {config.stages} stages"


def plan(config: Halving, splits: data.Splits, space: spaces.CellSpace, mesh: Mesh | None = None) -> Plan:
    """Build and check, see `driver.CellSearch`; the short trainings run on one device."""
    del mesh
    train, validation = data.split(
        splits.train, jax.random.key(config.seed), 1 - share(config.validation, len(splits.train))
    )
    data.supervised_source(train, batch_size=config.stage.batch_size, augment=data.Augment())  # checks the size
    return Plan(space, (), len(validation), train, validation)


def search(config: Halving, plan: Plan, path: pathlib.Path) -> dict[str, Any]:
    """The stages, see `driver.CellSearch`; each score is kept, and no cell is trained twice in one stage."""
    started, key = time.time(), jax.random.fold_in(jax.random.key(config.seed), 1)
    place, draw = files.prepare_folder(path / "search") / "scores.json", searchers.random(plan.space)
    scores: dict[str, list[float]] = run_folder.read_json(place) or {}
    cells = [spaces.to_string(plan.space, arch) for arch in draw.ask(draw.init(), key, config.cells)]
    trained = 0
    for stage in range(config.stages):
        training = dataclasses.replace(config.stage, epochs=config.stage.epochs * 2**stage)
        judge = functools.cache(functools.partial(short_training, plan.space, plan.train, plan.validation, training))
        for name in cells:
            if len(scores.setdefault(name, [])) == stage:
                arch = np.asarray(spaces.from_string(plan.space, name), np.int32)
                scores[name].append(judge()(arch, jax.random.fold_in(key, stage)).score)
                run_folder.write_json(place, scores)
        trained += len(cells)
        cells = sorted(cells, key=lambda name: -scores[name][stage])[: max(len(cells) // 2, 1)]
    arch = spaces.from_string(plan.space, cells[0])
    return {
        "genotype": cells[0], "steps": trained, "seconds": round(time.time() - started, 2),
        "derivation": f"the best after {config.stages} stages", "connected": spaces.is_connected(plan.space, arch),
    }  # fmt: skip
