"""`Network`: the supernet of a space and the network of a found cell, as one Flax module."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jnas.nets.cell import Cell
from jnas.nets.edges import STRATEGIES, Strategy
from jnas.nets.heads import AuxiliaryHead, Classifier, ImageNetStem, ResidualReduction, SmallImageStem
from jnas.nets.ops import operator, operator_of
from jnas.spaces.cell import CellSpace
from jnas.spaces.operators import Operator

REDUCE = "reduce"  # the cell that halves the resolution
RESIDUAL = "residual"  # the block that does so where no cell is searched for it


class Logits(NamedTuple):
    """Class scores before the softmax."""

    main: jax.Array  # [batch, num_classes] float32
    auxiliary: jax.Array | None = None  # [batch, num_classes] float32; None without the head, and in evaluation


class Network(nn.Module):
    """Stem, blocks and classifier. Use `network_for` unless you want a layout of your own.

    ```
    logits, changed = net.apply({"params": params, "batch_stats": batch_stats}, image, mix, train=True, drop_path=0.1,
                                rngs={"drop_path": key}, mutable=["batch_stats"])
    logits = net.apply({"params": params, "batch_stats": batch_stats}, image, mix, train=False)
    ```
    `drop_path` may be a traced scalar, so that a schedule of it does not compile again.

    Attributes:
      space: a search space (then `mix` is needed) or a fixed cell of one.
      layout: the blocks in order, each a name in `space.cells` or "residual"; "reduce" and "residual" halve the
        resolution and double the channels.
      channels: of a node in the first block.
      num_classes: length of the logits.
      stem_kind: "small_image" keeps the resolution, "imagenet" divides it by 8.
      stem_multiplier: channels of the small-image stem in units of `channels`.
      project_inputs: every cell projects its inputs to its own channels and resolution.
      affine: whether batch norms inside the cells learn scale and bias.
      normalise_pools: whether a batch norm follows a pool.
      normalise_features: whether the classifier starts with batch norm and ReLU.
      auxiliary: whether there is a second classifier after block `2 * len(layout) // 3`.
      remat: recompute in the backward pass: a mixed edge of a supernet (but not its dense convolutions), a whole cell
        of a found network. None: supernets do, for it takes a tenth of the memory and, on a CPU, less time.
      edge_strategy: how the mixed edges of a cell are computed, with the same weights: "scan" is a loop over them if
        all candidates say that they are fast in one (`Operator.loops`), "unroll" writes them out, "merge" joins those
        that leave one state into wider operations, which suits matrix units. "switch" is "scan" for a mix that is
        one-hot on every edge, or zero: the chosen operators alone are computed, and the others keep their statistics.
      dtype: of the computation, float32 or bfloat16; parameters, statistics and logits are float32.
      operators: those of the space that are the user's own, taken from it. Equal spaces may carry other ones; networks
        with other ones are not equal, and share no compiled program.
    """

    space: CellSpace
    layout: tuple[str, ...]
    channels: int
    num_classes: int
    stem_kind: Literal["small_image", "imagenet"] = "small_image"
    stem_multiplier: int = 3
    project_inputs: bool = True
    affine: bool = True
    normalise_pools: bool = False
    normalise_features: bool = False
    auxiliary: bool = False
    remat: bool | None = None
    edge_strategy: Strategy = "scan"
    dtype: Any = jnp.float32
    operators: tuple[Operator, ...] = ()

    def __post_init__(self) -> None:
        self.operators = self.space.operators
        super().__post_init__()
        for block in self.layout:
            if block not in (*self.space.cells, RESIDUAL):
                raise ValueError(
                    f"unknown block {block!r} in the layout: use {', '.join(self.space.cells)} or residual."
                )
        for name in ("channels", "num_classes", "stem_multiplier"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: use at least 1.")
        if self.stem_kind not in ("small_image", "imagenet"):
            raise ValueError(f"unknown stem {self.stem_kind!r}: use small_image or imagenet.")
        if self.edge_strategy not in STRATEGIES:
            raise ValueError(f"unknown edge strategy {self.edge_strategy!r}: use one of {', '.join(STRATEGIES)}.")
        for op in self.space.ops:
            # An unknown operator fails here, not when the network is traced.
            operator(operator_of(op, self.operators), channels=self.channels)

    @nn.compact
    def __call__(
        self,
        image: jax.Array,
        mix: dict[str, jax.Array] | None = None,
        *,
        train: bool,
        drop_path: jax.Array | float = 0.0,
        features: bool = False,
    ) -> Any:
        """Classifies images, or gives what the classifier and other heads read.

        Args:
          image: `[batch, height, width, any]` float, normalised.
          mix: for every cell of the space the weights `[num_edges, num_ops]` of its operators, see `spaces.mixture`;
            None for a fixed space.
          train: normalise by the batch and update the running statistics (collection `batch_stats`).
          drop_path: probability in [0, 1), a number or `[]` float32, with which an example loses an edge in training.
          features: stop before the classifier, which then has no parameters.

        Returns:
          Logits; with `features` a dict from each of `strides` to the last state there, `[batch, ceil(height / stride),
          ceil(width / stride), any]`.

        Raises:
          ValueError: if a mix is missing or has a wrong shape, or `drop_path` is a number outside [0, 1).
        """
        self._check(mix, drop_path)
        # A plain zero is known now: no masks are drawn and no key is needed.
        rate = None if isinstance(drop_path, (int, float)) and drop_path == 0 else drop_path
        states, levels = self._stem(image.astype(self.dtype), train)
        last = dict(zip(levels, states, strict=True))
        channels, auxiliary = self.channels, None
        # In a supernet the edges are recomputed one by one, see Cell.
        make_cell = nn.remat(Cell, static_argnums=(3,)) if self.remat and self.space.is_fixed else Cell
        for index, block in enumerate(self.layout):
            halves = block in (REDUCE, RESIDUAL)
            channels = 2 * channels if halves else channels
            if block == RESIDUAL:
                state = ResidualReduction(channels, self.dtype, name=f"block_{index}")(states[-1], train)
            else:
                cell = make_cell(
                    self.space,
                    block,
                    channels,
                    reduction=halves,
                    halvings=tuple(levels[-1] - level for level in levels) if self.project_inputs else None,
                    affine=self.affine,
                    normalise_pools=self.normalise_pools,
                    edge_strategy=self.edge_strategy,
                    remat=self.remat is not False,
                    dtype=self.dtype,
                    name=f"block_{index}",
                )
                state = cell(states, None if mix is None else mix[block], train, rate)
            states, levels = (*states[1:], state), (*levels[1:], levels[-1] + halves)
            last[levels[-1]] = state
            if self.auxiliary and train and not features and index == 2 * len(self.layout) // 3:
                head = AuxiliaryHead(self.num_classes, self.stem_kind != "imagenet", self.dtype, name="auxiliary_head")
                auxiliary = head(state, train)
        if features:
            return {2**level: last[level] for level in sorted(last)}
        classifier = Classifier(self.num_classes, self.normalise_features, self.dtype, name="classifier")
        return Logits(classifier(states[-1], train), auxiliary)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image from one place of a state to the next, for every resolution that the network has."""
        halvings = sum(block in (REDUCE, RESIDUAL) for block in self.layout)
        first = (2, 3)[-self.space.num_inputs :] if self.stem_kind == "imagenet" else (0,)
        return tuple(2**level for level in (*first, *range(first[-1] + 1, first[-1] + halvings + 1)))

    def _stem(self, image: jax.Array, train: bool) -> tuple[tuple[jax.Array, ...], tuple[int, ...]]:
        """The first `num_inputs` states and how often each has been halved."""
        if self.stem_kind == "imagenet":
            states, levels = ImageNetStem(self.channels, self.dtype, name="stem")(image, train), (2, 3)
        else:
            channels = self.stem_multiplier * self.channels
            states, levels = SmallImageStem(channels, self.dtype, name="stem")(image, train), (0,)
        missing = max(0, self.space.num_inputs - len(states))
        states, levels = (*states[:1] * missing, *states), (*levels[:1] * missing, *levels)
        return states[-self.space.num_inputs :], levels[-self.space.num_inputs :]

    def _check(self, mix: dict[str, jax.Array] | None, drop_path: jax.Array | float) -> None:
        if isinstance(drop_path, (int, float)) and not 0 <= drop_path < 1:
            raise ValueError(f"drop_path is {drop_path}: use a probability of at least 0 and less than 1.")
        if mix is None:
            return  # the cells know whether they can do without
        shape = (self.space.num_edges, len(self.space.ops))
        for cell in self.space.cells:
            if cell not in mix or mix[cell].shape != shape:
                found = mix[cell].shape if cell in mix else None
                raise ValueError(f"mix[{cell!r}] has shape {found}: pass one of shape {shape} for each cell.")
