"""The settings of a search in two stages over groups of operators."""

from typing import Literal

from jnas.recipes.settings import MANY, Augmentation, Level, Training, settings


@settings()
class Stage:
    """The supernet of one stage and how long it is trained."""

    channels: int = 16
    depth: int = 14
    epochs: int = 80  # at most, see patience


@settings(num_samples=(2, MANY), num_groups=(2, MANY))
class GroupedSearch:
    """A search in two stages; the defaults are those of StacNAS on CIFAR-10.

    `groups` is "stacnas" for its four groups, "clustering" to find them on a trained supernet of the whole space, the
    groups themselves as in "max_pool_3x3 avg_pool_3x3, skip_connect, sep_conv_3x3 sep_conv_5x5", the first of each
    standing for it, or empty: then there is one stage over the whole space, on one level.
    """

    data: str = "fashion-mnist-slice"
    image_size: int | None = None  # side to which the images of a folder are resized
    space: str = "darts"
    seed: int = 0
    groups: str = "stacnas"  # stacnas, clustering, groups as in "a b, c d", or empty: one stage over the whole space
    # clustering
    supernet: Stage = Stage(16, 8, 10)  # whose feature maps are compared
    num_groups: int | None = None  # of operators; null: chosen by the silhouette
    num_samples: int = 64  # images whose feature maps are correlated
    # the two stages; with 8 cells instead of 14 no skip connection survives the first one
    first: Stage = Stage(16, 14, 80)  # decides the group of an edge
    second: Stage = Stage(16, 20, 80)  # decides the operator
    # A stage has converged when for so many epochs what is derived has not changed and the smoothed loss has moved by
    # no more than this share of itself; null: a stage takes all its epochs.
    patience: int | None = 10
    tolerance: float = 0.02  # share of the smoothed loss, see patience
    batch_size: int = 64
    augmentation: Augmentation = Augmentation()
    weights: Level = Level("sgd", 0.025, 0.001, heavy_ball=0.9, weight_decay=3e-4, clip=3.0)
    alpha: Level = Level("adam", 3e-4, 3e-4, weight_decay=1e-3)
    alpha_scale: float = 1e-3  # standard deviation of the initial alpha
    # afterwards
    random_cells: int = 3  # drawn at random and trained in the same way
    train: Training = Training()
    # the machine
    remat: bool | None = None  # whether edges are recomputed for gradients; null: those of a supernet
    edges: Literal["auto", "scan", "unroll", "merge"] = "auto"  # scan on a CPU, else merge
    dtype: Literal["float32", "bfloat16"] = "float32"
    steps_per_call: int | None = None
    checkpoint_every: int | None = None  # steps; null: once an epoch
