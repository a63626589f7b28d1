"""The settings of a search by gradient: plain frozen data, checked when it is built."""

import copy
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

from jnas.recipes.settings import Augmentation, Coefficient, Level, Training, settings


@settings()
class Search:
    """A search by gradient: what it searches, by which estimator and momentum, and how its result is trained."""

    data: str = "fashion-mnist-5k"
    image_size: int | None = None  # side to which the images of a folder are resized
    shrink: int = 2  # by which the sides of the images of the search are less: a step takes about 1 / shrink^2 as long
    space: str = "nasbench201"
    seed: int = 0
    # the supernet
    channels: int = 6
    depth: int = 1
    # the search
    epochs: int = 8
    steps: int | None = None  # in place of epochs; null: so many epochs
    batch_size: int = 16
    validation: float = 0.5  # share of the training images that is the upper level; from 2 on: so many of them
    augmentation: Augmentation = Augmentation(crop=2)
    scheme: Literal["simultaneous", "alternating"] = "simultaneous"  # both levels from one point, or weights first
    inner_steps: int = 1  # weight steps, each on a batch of its own, a step of alpha; an epoch counts steps of alpha
    estimator: Literal[
        "first_order", "finite_difference", "unrolled", "neumann", "conjugate_gradient", "single_loop"
    ] = "single_loop"  # of the hypergradient
    terms: int = 2  # Neumann terms, steps of conjugate gradients, or unrolled steps
    neumann_step: float | None = None  # step size of the Neumann series; null: by power iteration
    damping: float = 1.0  # added to the diagonal of the curvature; single_loop adds more where that is too little
    curvature: Literal["hessian", "gauss_newton", "identity"] = "hessian"  # of the inner loss, that is inverted
    fresh_batches: bool = False  # another inner batch for each Neumann term
    momentum: Literal["storm", "moving_average", "none"] = "moving_average"  # of the direction, on both levels
    weights: Level = Level("sgd", 0.1, 0.001, weight_decay=3e-4, clip=5.0)
    alpha: Level = Level("adam", 0.004, 0.004, weight_decay=1e-3)
    # The third variable of single_loop, its step a share of the largest safe one; it averages without a momentum.
    adjoint: Level = Level("sgd", 1.0, 1.0, coefficient=Coefficient(1.0, power=0.0))
    alpha_scale: float = 1e-3  # standard deviation of the initial alpha
    # what steers alpha beside its gradient; a weight rises from 0 at the first step to this at the last
    beta_decay: float = 5.0  # of the mean over edges of logsumexp(alpha); published: half the number of epochs
    eigenvalue_every: int | None = None  # epochs between two looks at the sharpness in alpha; null: never
    eigenvalue_growth: float = 1.3  # of the sharpness over 4 looks, at which the search goes back and stops
    # derivation
    selection: Literal["alpha", "perturbation"] = "alpha"  # perturbation: by what the supernet loses without it
    without_none: bool = True  # derive without the operator `none`
    # several searches in one program
    num_runs: int = 1  # of the seeds seed, seed + 1, ...
    each: dict[str, list[float]] = dataclasses.field(default_factory=dict)  # a setting -> its value in each run
    # afterwards
    # Drawn at random and trained in the same way; null: 3, or 1 beside a table of cells that were so trained before.
    random_cells: int | None = None
    train: Training = Training(epochs=12)
    # the machine
    remat: bool | None = None  # whether edges are recomputed for gradients; null: those of a supernet
    edges: Literal["auto", "scan", "unroll", "merge"] = "auto"  # scan on a CPU, else merge
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; parameters stay float32
    steps_per_call: int | None = None
    checkpoint_every: int | None = None  # steps; null: once an epoch
    record_every: int | None = None  # steps between two genotypes of the record; null: an epoch

    def __post_init__(self):
        if self.seed + self.num_runs > 2**32:
            raise ValueError(f"seed is {self.seed}: the last of {self.num_runs} runs would have one of 2^32 or more")
        if self.eigenvalue_every and (self.steps or self.record_every):
            raise ValueError("eigenvalue_every counts epochs: leave steps and record_every out")
        alone = {"eigenvalue_every": self.eigenvalue_every, "selection=perturbation": self.selection != "alpha"}
        alone = [name for name, given in alone.items() if given]
        if alone and self.num_runs > 1:
            raise ValueError(f"num_runs is {self.num_runs} and {alone[0]} is for one run: leave one of them out")
        if len(alone) > 1:
            raise ValueError("eigenvalue_every may stop early, selection=perturbation needs the end: set one of them")
        _check_each(self)
        if self.momentum == "storm" and (self.weights.heavy_ball or self.alpha.heavy_ball):
            own = self.weights.heavy_ball or self.alpha.heavy_ball
            raise ValueError(f"heavy_ball is {own} under momentum=storm: set it to 0, or choose another momentum")
        if self.inner_steps > 1 and (self.scheme != "alternating" or self.fresh_batches):
            needed = "scheme=alternating and fresh_batches=false"
            raise ValueError(f"inner_steps is {self.inner_steps}: that needs {needed}; set them")
        if self.fresh_batches and self.estimator != "neumann":
            raise ValueError(f"fresh_batches needs estimator=neumann and this one is {self.estimator}: set it to false")


# What may differ between the runs of one program: numbers that enter it as values. Others shape the program.
_LEVEL = ("learning_rate", "final_learning_rate", "weight_decay", "clip")
_COEFFICIENT = tuple(f"coefficient.{name}" for name in ("initial", "offset", "power", "floor"))
OF_A_RUN = (
    *(f"{level}.{name}" for level in ("weights", "alpha", "adjoint") for name in (*_LEVEL, *_COEFFICIENT)),
    "damping", "neumann_step", "alpha_scale", "beta_decay",
)  # fmt: skip


def with_values(settings: Search, values: Mapping[str, Any]) -> Search:
    """The settings of one run, not checked again; the values, of some of `OF_A_RUN`, may be traced."""
    found = copy.copy(settings)
    for name, value in values.items():
        *path, last = name.split(".")
        holder = found
        for part in path:
            inner = copy.copy(getattr(holder, part))
            object.__setattr__(holder, part, inner)
            holder = inner
        object.__setattr__(holder, last, value)
    return found


def _check_each(settings: Search) -> None:
    for name, values in settings.each.items():
        if name not in OF_A_RUN:
            raise ValueError(f"each: {name!r} cannot differ between runs: choose among {', '.join(OF_A_RUN)}")
        if len(values) != settings.num_runs:
            raise ValueError(f"each: {name} has {len(values)} values for num_runs={settings.num_runs}: give one a run")
        *path, last = name.split(".")
        holder = functools.reduce(getattr, path, settings)
        if getattr(holder, last) is None:
            raise ValueError(f"each: {name} is null, which shapes the program: give it a number too")
        for value in values:
            dataclasses.replace(holder, **{last: value}, **({} if path else {"each": {}}))  # checks it
