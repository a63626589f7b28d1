"""The settings of searches and trainings: plain frozen data, checked when it is built.

Names are looked up in one place each (`learner_of`, `spaces.by_name`, `data.load`); the library below takes values.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, dataclass_transform

import jax
import numpy as np

from jnas import data
from jnas.types import Key

T = TypeVar("T")
MANY, LARGE = 2**31 - 1, 10**9
POSITIVE, BELOW_ONE = math.nextafter(0.0, 1.0), math.nextafter(1.0, 0.0)
# The least and the greatest value of a number by its name. The greatest are far beyond use: they keep a slip of a key
# from taking all time and memory.
BOUNDS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1), "epochs": (1, 10**5),
    **dict.fromkeys(["steps", "batch_size", "steps_per_call", "checkpoint_every", "record_every"], (1, MANY)),
    **dict.fromkeys(("eigenvalue_every", "patience", "train_images", "num_evaluations", "window"), (1, MANY)),
    **dict.fromkeys(["image_size", "height", "width", "shrink", "channels", "head_channels", "dimension"], (1, 2**12)),
    **dict.fromkeys(("depth", "head_depth", "inner_steps", "num_runs", "repeats"), (1, 1000)),
    **dict.fromkeys(("terms", "random_cells", "crop", "cutout"), (0, 2**13)),
    **dict.fromkeys(["learning_rate", "final_learning_rate", "weight_decay", "auxiliary", "damping"], (0, LARGE)),
    **dict.fromkeys(("alpha_scale", "beta_decay", "tolerance", "entropy", "imitation"), (0, LARGE)),
    **dict.fromkeys(("clip", "offset", "neumann_step", "temperature"), (POSITIVE, LARGE)),
    **dict.fromkeys(("warmup", "heavy_ball", "drop_path", "smoothing"), (0, BELOW_ONE)),
    "validation": (POSITIVE, MANY), "initial": (POSITIVE, 1), "floor": (0, 1), "power": (0, 100),
    **dict.fromkeys(("at_once", "probes", "ask_size"), (1, 2**16)), "population": (2, 2**16), "queue": (0, 2**16),
    "eigenvalue_growth": (1, LARGE), "max_failures": (1, MANY),
}  # fmt: skip


def bounds_of(own: Mapping[str, tuple[float, float]], name: str) -> tuple[float, float]:
    """The least and the greatest value of a setting, of a dataclass with bounds of its own."""
    return own.get(name) or BOUNDS.get(name, (-LARGE, LARGE))


def bounded(settings: Any, **own: tuple[float, float]) -> None:
    """Refuses numbers of a dataclass outside `BOUNDS` or its own ones, also inside lists and tables; null is none."""
    for name, value in vars(settings).items():
        low, high = bounds_of(own, name)
        for number in (leaf for leaf in jax.tree.leaves(value) if type(leaf) in (int, float)):
            if not low <= number <= high:  # as NaN
                shown = number if isinstance(number, float) or abs(number) < 10**40 else "an integer of many digits"
                most = "a number below 1" if high == BELOW_ONE else f"at most {high:,}"
                least = "a positive number" if low == POSITIVE else f"at least {low:,}"
                what = (most if number > high else least) if abs(number) < math.inf else "a finite number"
                raise ValueError(f"{name} is {shown}: give {what}")
            if name == "validation" and (1 <= number < 2 or (number > 1 and number != int(number))):
                raise ValueError(f"validation is {number}: give a share below 1, or a number of images from 2 on")


@dataclass_transform(frozen_default=True)
def settings(**own: tuple[float, float]) -> Callable[[type[T]], type[T]]:
    """Make a class a frozen dataclass that refuses numbers as `bounded` does, before what it checks itself."""

    def make(kind: Any) -> Any:
        checks = getattr(kind, "__post_init__", lambda self: None)

        def check(self: Any) -> None:
            bounded(self, **own)
            checks(self)

        kind.__post_init__, kind.own_bounds = check, own
        return dataclasses.dataclass(frozen=True)(kind)

    return make


def share(validation: float, total: int) -> float:
    """The share of so many training images that `validation` says: itself below 1, and else so many of them."""
    part = validation if validation < 1 else validation / total
    if not 0 < round(part * total) < total:
        raise ValueError(f"validation is {validation:g} and the data have {total} training images: leave some of both")
    return part


def held_out(train: data.Dataset, count: int, validation: float, key: Key) -> tuple[data.Dataset, data.Dataset]:
    """`count` of the training images and, of the others, those that `validation` says, drawn at random."""
    needed = count + round(share(validation, len(train)) * len(train))
    if needed > len(train):
        raise ValueError(
            f"train_images and validation are {needed} together and {train.name} has {len(train)} training images: "
            "take fewer"
        )
    order = np.asarray(jax.random.permutation(key, len(train)), np.int32)
    return train.part(order[:count]), train.part(order[count:needed])


@settings()
class Coefficient:
    """The coefficient of a momentum, `max(floor, initial * (1 + step / offset)^-power)`; see `bilevel.decaying`."""

    initial: float = 0.9  # at the first step
    offset: float | None = None  # steps; null: a quarter of the planned ones, and at most 100
    power: float = 2 / 3  # exponent of its fall; 0: it stays as it is
    floor: float = 0.0  # below which it never falls


@settings()
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


@settings()
class Augmentation:
    """What happens to a training image."""

    crop: int = 4  # pixels of black border to cut from
    flip: bool = True
    cutout: int = 0  # side of the blanked square

    def of(self, examples: data.Dataset) -> data.Augment:
        """What happens to these images, normalised by their mean and deviation."""
        return data.Augment(self.crop, self.flip, self.cutout, *data.normalisation(examples))


@settings()
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
