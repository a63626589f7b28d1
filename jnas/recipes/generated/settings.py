"""The settings of a search over generated spaces, and inside the one that it chooses."""

import dataclasses
import math
from typing import Literal

from jnas.recipes.costs import check_names
from jnas.recipes.settings import LARGE, MANY, POSITIVE, Training, settings

_SETS = ("kernels", "widths", "expansions", "groups", "dilations")  # of the strategy convolutions
_SHORT, _LONG = Training(channels=4, epochs=2), Training()


@settings(initial=(2, MANY), budget=(2, MANY))
class ModelLevel:
    """One level's search by a probability model."""

    initial: int = 4  # drawn at random before the model is asked; at least 2
    budget: int = 8  # evaluations, those included
    acquisition: Literal["improvement", "information"] = "improvement"  # expected, by which the model chooses
    # Converged: for so many iterations in a row neither a hyper-parameter, as log(0.05 + h), nor the incumbent's
    # posterior, in standard deviations of the scores, moved by more than the tolerance, nor was the incumbent replaced.
    tolerance: float = 0.2
    patience: int = 3  # iterations, see tolerance

    def __post_init__(self):
        if self.initial > self.budget:
            raise ValueError(f"initial is {self.initial} of a budget of {self.budget}: give at least 2 and no more")


@settings(**{**dict.fromkeys((*_SETS, "depths"), (1, 1000)), "nodes": (1, 8), "widths": (POSITIVE, 100)})
class Strategies:
    """What generates spaces: the arguments of `layer_types` of `jnas.spaces.families.generated` and the like.

    `names` are some of layer_types_and_depth, layer_types, convolutions and topologies; spaces of your own are given as
    `space=FILE.py:NAME`, in the place of all of these.
    """

    names: str = "layer_types_and_depth layer_types convolutions topologies"  # strategies
    types: str = "skip_connect max_pool_3x3 nor_conv_3x3 sep_conv_3x3"  # of a layer
    depths: tuple[int, ...] = (2, 4)  # numbers of layers
    depth: int = 3  # of the strategy layer_types
    kernels: tuple[tuple[int, ...], ...] = ((3,), (3, 5))  # sides of a convolution, in pixels; a set a space
    widths: tuple[tuple[float, ...], ...] = ((1.0,), (0.5, 1.0))  # factors of the channels
    expansions: tuple[tuple[int, ...], ...] = ((1,), (1, 3))  # of an inverted bottleneck
    groups: tuple[tuple[int | None, ...], ...] = ((1,), (1, None))  # of channels; null: one filter a channel
    dilations: tuple[tuple[int, ...], ...] = ((1,), (1, 2))  # pixels between two taps
    operators: str = "skip_connect nor_conv_1x1 nor_conv_3x3 avg_pool_3x3"  # of the strategy topologies
    nodes: tuple[int, ...] = (2,)  # of its cells

    def __post_init__(self):
        for name in ("names", "types", "operators", "depths", "nodes", *_SETS):
            value = getattr(self, name)
            values = value.split() if isinstance(value, str) else value
            if not 0 < len(values) <= 10 or () in values:  # 2^10 sets of types
                raise ValueError(f"{name} is {value!r}: give 1 to 10 values")
        count = math.prod(sum(map(len, getattr(self, name))) for name in _SETS)
        if count > 10**5:
            raise ValueError(f"{', '.join(_SETS)} combine to {count:,} layers: give fewer values")


@settings(samples=(1, 2**16), quantile=(0, 1), limits=(POSITIVE, LARGE))
class SpaceSearch:
    """A search for a space by a model of spaces, then for a network in it by a model of networks."""

    data: str = "fashion-mnist-slice"
    image_size: int | None = None  # side to which the images of a folder are resized
    space: str = "generated"  # name of the family, for reports and folders; or FILE.py:NAME, a list of spaces
    seed: int = 0
    strategies: Strategies = Strategies()  # what generates the spaces
    # the performance of a space
    samples: int = 3  # networks drawn from it
    summary: Literal["mean", "quantile"] = "mean"  # of their scores
    quantile: float = 0.75  # of their scores; 1: the best
    # What the model of spaces learns from: the score of every network drawn, or only the summary of each space.
    evidence: Literal["networks", "summaries"] = "networks"
    # The score of a network, of images held out of the training ones after a short training on others: exp(-loss), the
    # geometric mean of the probability of the true class, or the share that is right.
    score: Literal["likelihood", "accuracy"] = "likelihood"
    train_images: int = 1000  # images to train on
    validation: float = 500  # share of the training images that is held out; from 2 on: so many of them
    judge: Training = _SHORT  # the short training
    # what a network costs, as it is trained in the end
    # Name -> weight, taken off a network's score: of a million parameters or flops (operations an image), of a
    # millisecond of latency (an image), of a megabyte of memory (at work).
    costs: dict[str, float] = dataclasses.field(default_factory=dict)
    # Name -> the most that a network may cost, in the units of costs.
    limits: dict[str, float] = dataclasses.field(default_factory=dict)
    # the two levels
    outer: ModelLevel = ModelLevel(4, 10)  # of spaces
    inner: ModelLevel = ModelLevel(4, 10)  # of networks
    # afterwards
    random_cells: int = 2  # networks drawn at random from spaces drawn at random, and trained in the same way
    train: Training = _LONG
    steps_per_call: int | None = None

    def __post_init__(self):
        check_names((*self.costs, *self.limits))
        if self.summary == "quantile" and self.evidence == "networks":
            raise ValueError("the networks one by one say what their mean is: give evidence=summaries for a quantile")
