"""The settings of choosing a network of a zoo for a new task: plain frozen data, checked when it is built."""

import dataclasses
from typing import Literal

from jnas.recipes.settings import Augmentation, at_least, positive, within


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """How a trained network is fitted to new images: SGD with Nesterov's momentum and a cosine to 0.

    `frozen` is the share of the network's parts, from the stem on, whose weights stand still; 1: all but the
    classifier, which is always new. Running statistics follow the new images in frozen parts, too.
    """

    frozen: float = 0.0  # share of the parts that stand still
    learning_rate: float = 0.05
    epochs: int = 3
    batch_size: int = 64
    heavy_ball: float = 0.9
    weight_decay: float = 5e-4
    clip: float | None = 5.0
    augmentation: Augmentation = Augmentation()

    def __post_init__(self):
        if not 0 <= self.frozen <= 1:
            raise ValueError(f"frozen is {self.frozen}: give the share of the parts that stand still, in [0, 1]")
        at_least(1, self, "epochs", "batch_size")
        positive(self, "learning_rate", "clip")
        at_least(0, self, "weight_decay")
        within(0, 1, self, "heavy_ball")


@dataclasses.dataclass(frozen=True)
class Selection:
    """Choosing a network and its hyper-parameters: what `jnas select` reads.

    The candidates are all networks of the zoo within the limits, each with every combination of `frozen`,
    `learning_rates` and `epochs`.
    """

    data: str
    zoo: str = "zoo"  # a folder or a URL
    image_size: int | None = None
    seed: int = 0
    # limits on what was measured; null: none
    max_params: float | None = None  # millions
    max_flops: float | None = None  # 10^9 operations an image, two a multiply-add
    max_latency: float | None = None  # milliseconds of one image alone
    min_throughput: float | None = None  # images a second in inference
    min_training: float | None = None  # images a second in training
    device: str | None = None  # whose times count; null: this one
    budget: float | None = None  # seconds of fine-tuning in all, as measured steps predict them; null: as it comes
    # what is tried
    frozen: tuple[float, ...] = (0.0, 1.0)  # shares of the parts that stand still
    learning_rates: tuple[float, ...] = (0.01, 0.1)  # at the beginning
    epochs: tuple[int, ...] = (1, 3)  # passes over the training images
    fine_tuning: FineTuning = FineTuning()  # everything else of a fine-tuning
    trials: int = 1  # fine-tunings, the predictor updated after each; the best on the validation images is kept
    validation: float = 0.2  # share of the training images that choose among the trials
    # how it is chosen
    predictor: Literal["ridge", "trees", "gp", "hedge"] = "ridge"  # of the accuracy after a fine-tuning
    acquisition: Literal["mean", "expected_improvement"] = "mean"  # of the prediction
    least_records: int = 20  # with fewer in the zoo the order is that of the frozen features' separability
    top: int = 5  # candidates to show
    checkpoint_every: int | None = None

    def __post_init__(self):
        positive(self, "max_params", "max_flops", "max_latency", "min_throughput", "min_training", "budget")
        at_least(0, self, "seed")
        at_least(1, self, "trials", "top", "image_size")
        at_least(2, self, "least_records")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation is {self.validation}: give a share of the training images in (0, 1)")
        if not (self.frozen and self.learning_rates and self.epochs):
            raise ValueError("frozen, learning_rates and epochs are the grid: give at least one value of each")
        for frozen in self.frozen:
            dataclasses.replace(self.fine_tuning, frozen=frozen)
        for rate in self.learning_rates:
            dataclasses.replace(self.fine_tuning, learning_rate=rate)
        for epochs in self.epochs:
            dataclasses.replace(self.fine_tuning, epochs=epochs)

    def grid(self) -> tuple[FineTuning, ...]:
        """Every combination of hyper-parameters."""
        return tuple(
            dataclasses.replace(self.fine_tuning, frozen=frozen, learning_rate=rate, epochs=epochs)
            for frozen in self.frozen
            for rate in self.learning_rates
            for epochs in self.epochs
        )
