"""The settings of searches and trainings: plain frozen data, checked when it is built.

Names are looked up in one place each (`learner_of`, `spaces.by_name`, `data.load`); the library below takes values.
"""

import dataclasses
from typing import Literal

from jnas import data


def at_least(bound, settings, *names: str) -> None:
    """Refuses settings of these names that are below a bound, or no numbers; null is none."""
    for name in names:
        if getattr(settings, name) is not None and not getattr(settings, name) >= bound:
            raise ValueError(f"{name} is {getattr(settings, name)}: give at least {bound}")


def positive(settings, *names: str) -> None:
    """Refuses settings of these names that are not above 0; null is none."""
    for name in names:
        if getattr(settings, name) is not None and not getattr(settings, name) > 0:
            raise ValueError(f"{name} is {getattr(settings, name)}: give a positive number")


def within(low, high, settings, *names: str) -> None:
    """Refuses settings of these names outside [low, high)."""
    for name in names:
        if not low <= getattr(settings, name) < high:
            raise ValueError(f"{name} is {getattr(settings, name)}: give a number in [{low}, {high})")


@dataclasses.dataclass(frozen=True)
class Coefficient:
    """The coefficient of a momentum, `max(floor, initial * (1 + step / offset)^-power)`; see `bilevel.decaying`."""

    initial: float = 0.9  # at the first step
    offset: float | None = None  # steps; null: a quarter of the planned ones, and at most 100
    power: float = 2 / 3  # 0: the coefficient stays as it is
    floor: float = 0.0  # below which it never falls


@dataclasses.dataclass(frozen=True)
class Level:
    """The optimiser of one level, behind the momentum that both share."""

    optimiser: Literal["sgd", "adam"]
    learning_rate: float
    final_learning_rate: float  # of the cosine; equal to the first: constant
    warmup: float = 0.0  # share of the steps, at the start, in which this level stands still
    heavy_ball: float = 0.0  # momentum of SGD; none on top of recursive momentum
    weight_decay: float = 0.0  # added to the direction, after the recursion
    clip: float | None = None  # bound of the direction's norm
    coefficient: Coefficient = Coefficient()  # of the momentum of the search

    def __post_init__(self):
        at_least(0, self, "learning_rate", "final_learning_rate", "heavy_ball", "weight_decay")
        within(0, 1, self, "warmup")
        positive(self, "clip")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What happens to a training image."""

    crop: int = 4  # pixels of black border to cut from
    flip: bool = True
    cutout: int = 0  # side of the blanked square

    def __post_init__(self):
        at_least(0, self, "crop", "cutout")

    def of(self, examples: data.Dataset) -> data.Augment:
        """What happens to these images, normalised by their mean and deviation."""
        return data.Augment(self.crop, self.flip, self.cutout, *data.normalisation(examples))


@dataclasses.dataclass(frozen=True)
class Training:
    """How a found or named network is trained: SGD with Nesterov's or plain momentum and a cosine, as DARTS does."""

    channels: int = 8
    depth: int = 1  # cells, or cells a stage for NAS-Bench-201
    epochs: int = 3
    batch_size: int = 64
    learning_rate: float = 0.1
    final_learning_rate: float = 0.0
    heavy_ball: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    clip: float | None = 5.0
    drop_path: float = 0.0  # at the last step; grows linearly from 0
    auxiliary: float = 0.0  # weight of the auxiliary head; 0: none
    smoothing: float = 0.0
    stem: Literal["small_image", "imagenet"] = "small_image"
    augmentation: Augmentation = Augmentation()

    def __post_init__(self):
        at_least(1, self, "channels", "depth", "epochs", "batch_size")
        at_least(0, self, "learning_rate", "final_learning_rate", "weight_decay", "auxiliary")
        positive(self, "clip")
        within(0, 1, self, "drop_path", "smoothing", "heavy_ball")
