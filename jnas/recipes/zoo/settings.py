"""The settings of choosing a network of a zoo for a new task: plain frozen data, checked when it is built."""

import dataclasses
from typing import Literal

from jnas.recipes.settings import LARGE, MANY, POSITIVE, Augmentation, settings


@settings(learning_rate=(POSITIVE, LARGE), frozen=(0, 1))
class FineTuning:
    """How a trained network is fitted to new images: SGD with Nesterov's momentum and a cosine to 0 for each rung.

    `frozen` is the share of the network's parts, from the stem on, whose weights stand still; 1: all but the
    classifier, which is always new. Running statistics follow the new images in frozen parts, too.
    """

    frozen: float = 0.0  # share of the parts that stand still
    learning_rate: float = 0.05
    batch_size: int = 64
    heavy_ball: float = 0.9
    weight_decay: float = 5e-4
    clip: float | None = 5.0
    augmentation: Augmentation = Augmentation()


_LIMITS = ("max_params", "max_flops", "max_latency", "max_memory", "min_throughput", "min_training")


@settings(
    **dict.fromkeys((*_LIMITS, "budget", "learning_rates"), (POSITIVE, LARGE)),
    target_accuracy=(POSITIVE, 1),
    frozen=(0, 1),
    eta=(2, 10),
    trials=(1, MANY),
    top=(1, MANY),
    least_records=(2, MANY),
)
class Selection:
    """Choosing a network and its hyper-parameters: what `jnas select` reads.

    The candidates are all networks of the zoo within the limits, each with every combination of `frozen` and
    `learning_rates`; `epochs` are the rungs of successive halving over them.
    """

    data: str
    zoo: str = "zoo"  # a folder or a URL
    image_size: int | None = None
    seed: int = 0
    # limits on what was measured; null: none
    max_params: float | None = None  # millions
    max_flops: float | None = None  # 10^9 operations an image, two a multiply-add
    max_latency: float | None = None  # milliseconds of one image alone
    max_memory: float | None = None  # megabytes at work of one image alone
    min_throughput: float | None = None  # images a second in inference
    min_training: float | None = None  # images a second in training
    device: str | None = None  # whose times count; null: this one
    # when it ends
    target_accuracy: float | None = None  # of the validation images, at which it ends; null: with the best of `trials`
    budget: float | None = None  # seconds of fine-tuning in all, as measured steps predict them; null: as it comes
    # what is tried
    frozen: tuple[float, ...] = (0.0, 1.0)  # shares of the parts that stand still
    learning_rates: tuple[float, ...] = (0.01, 0.1)  # at the beginning of each rung
    epochs: tuple[int, ...] = (1, 3, 9)  # passes over the training images at the end of each rung; one: no halving
    eta: int = 3  # from rung to rung one in so many goes on
    trials: int = 9  # candidates on the first rung; with a target others follow
    fine_tuning: FineTuning = FineTuning()  # everything else of a fine-tuning
    validation: float = 0.2  # share of the training images that chooses among the trials; from 2 on: so many of them
    # in which order: by records of fine-tunings, and by the prior where there are too few
    prior: Literal["source", "probe", "both"] = (
        "both"  # accuracy among those of its source, LogME on frozen features, mean of ranks
    )
    predictor: Literal["ridge", "trees", "gp", "hedge"] = "ridge"  # of the accuracy after a fine-tuning
    least_records: int = 20  # in the zoo, of two tasks at least, from which on there is a prediction
    top: int = 5  # candidates to show

    def __post_init__(self):
        if not 0 < len(self.frozen) * len(self.learning_rates) <= 1000:
            raise ValueError("frozen and learning_rates are the grid: give one to 1,000 combinations")
        if not self.epochs or list(self.epochs) != sorted(set(self.epochs)):
            raise ValueError(f"epochs is {list(self.epochs)}: give the rungs of halving, the shortest first")

    def grid(self) -> tuple[FineTuning, ...]:
        """Every combination of hyper-parameters."""
        return tuple(
            dataclasses.replace(self.fine_tuning, frozen=frozen, learning_rate=rate)
            for frozen in self.frozen
            for rate in self.learning_rates
        )
