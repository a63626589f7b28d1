"""The settings of a search by trials."""

import dataclasses
from typing import Literal

from jnas.recipes.costs import check_names
from jnas.recipes.settings import LARGE, MANY, POSITIVE, Training, settings


@settings(max_retries=(0, MANY), lease_seconds=(POSITIVE, LARGE), rungs=(1, 5), eta=(2, 10), limits=(POSITIVE, LARGE))
class TrialSearch:
    """A search by trials: what proposes architectures, what judges them, and how the best is trained afterwards."""

    data: str = "fashion-mnist-slice"
    image_size: int | None = None  # side to which the images of a folder are resized
    space: str = "nasbench201"
    seed: int = 0
    searcher: Literal["random", "evolution", "gaussian_process", "tpe", "nsga2"] = "evolution"  # proposes architectures
    population: int = 8  # of evolution and NSGA-II; architectures drawn at random before a model is asked
    num_evaluations: int = 16  # complete trials
    ask_size: int = 1  # architectures asked at once
    rungs: int = 1  # of successive halving, where trainings are judged and nothing stands beside; 1: trial.epochs alone
    eta: int = 3  # from rung to rung one in so many architectures is promoted, and trained for so many times the epochs
    # what judges an architecture
    objective: Literal["training", "own_training", "shared_weights", "table"] = "training"  # or FILE.py:NAME
    # Of the images that judge: exp(-loss), the geometric mean of the probability of the true class, or the share right.
    score: Literal["likelihood", "accuracy"] = "likelihood"
    trial: Training = Training(channels=6, depth=1, epochs=1, batch_size=32)  # or of the supernet that trials share
    train_images: int = 1024  # of the training images, for the trials
    validation: float = 1000  # share of the training images that judges, none of those; from 2 on: so many of them
    table: str = ""  # a CSV file, see `truth_table.table`
    table_column: str = "score"  # of that file, larger is better
    # what it costs
    # Name -> weight, taken off the score: of a million parameters or flops (operations an image), of a millisecond of
    # latency (an image), of a megabyte of memory (at work).
    costs: dict[str, float] = dataclasses.field(default_factory=dict)
    # Name -> the most that what is tried may cost, in the units of costs.
    limits: dict[str, float] = dataclasses.field(default_factory=dict)
    beside: list[str] = dataclasses.field(default_factory=list)  # names, minimised beside it: there is a Pareto front
    # trials that go wrong
    max_failures: int = 10  # at which the search ends
    max_retries: int = 3  # of a trial whose worker died
    lease_seconds: float = 60.0  # without a sign of life, after which a worker elsewhere counts as dead
    # afterwards
    random_cells: int = 3  # drawn at random and trained in the same way
    train: Training = Training()
    steps_per_call: int | None = None

    def __post_init__(self):
        check_names((*self.costs, *self.limits, *self.beside))
        if self.costs and self.beside:
            raise ValueError("costs are taken off the score and beside stand next to it: set one of them")
        if (self.objective == "table") != bool(self.table):
            raise ValueError(f"objective is {self.objective} and table {self.table!r}: set both for a table, or none")

    @property
    def budgets(self) -> tuple[int, ...]:
        """The epochs of each rung."""
        halved = self.objective in ("training", "own_training") and not self.beside
        return tuple(self.trial.epochs * self.eta**rung for rung in range(self.rungs if halved else 1))
