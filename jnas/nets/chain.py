"""Networks of chain spaces, and their supernets: one layer after the other, in three stages."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jnas.nets.cell import drop_path_scale
from jnas.nets.heads import AuxiliaryHead, Classifier, ImageNetStem, SmallImageStem
from jnas.nets.layers import Conv, ConvNorm, DepthwiseConv, Linear, at_least_float32, batch_norm
from jnas.nets.network import Logits, Network
from jnas.nets.ops import operator
from jnas.spaces.chain import ChainSpace, Layer, fully_connected, layer_of
from jnas.spaces.networks import candidates


def layer_channels(layer: Layer, channels: int) -> int:
    """Channels of a layer's output in a stage of `channels`, at least 1."""
    return max(1, round(layer.width * channels))


class State(NamedTuple):
    """What a layer of a supernet reads: as many channels as there may be, zeros where there are fewer."""

    x: jax.Array  # [batch, height, width, channels]
    width: jax.Array | None = None  # [] int32: how many channels, the first ones, are there; None: all


def check_groups(space: ChainSpace, channels: int) -> None:
    """Refuses a chain space in which some network has groups that do not divide a layer's channels.

    Args:
      space: fixed or not.
      channels: of the first stage; later ones have twice and four times as many.

    Raises:
      ValueError: naming the layer.
    """
    layers = [layer_of(word) for word in space.ops]
    sides = {channels, *(layer_channels(layer, channels) for layer in layers)}
    for word, layer in zip(space.ops, layers, strict=True):
        odd = next((side for side in sorted(sides) if layer.groups and side % layer.groups), None)
        if odd:
            raise ValueError(
                f"layer {word!r} may meet {odd} channels, which {layer.groups} groups do not divide: "
                f"choose channels so that they do (they are {channels})."
            )


class GroupedConv(nn.Module):
    """Dense convolutions side by side, each of its own part of the channels, without bias.

    Attributes:
      channels: of the output.
      size: side of the kernel in pixels.
      groups: parts; 1 is an ordinary convolution.
      dilation: distance of neighbouring taps in pixels.
      dtype: of the computation.
    """

    channels: int
    size: int
    groups: int = 1
    dilation: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves `[batch, height, width, in]`, `in` a multiple of `groups`."""
        part = self.channels // self.groups
        parts = [
            Conv(part, self.size, dilation=self.dilation, dtype=self.dtype)(each)
            for each in jnp.split(x, self.groups, axis=-1)
        ]
        return parts[0] if self.groups == 1 else jnp.concatenate(parts, axis=-1)


class ConvLayer(nn.Module):
    """A convolution with attributes.

    ```
    plain          ReLU, KxK in groups, batch norm
    one a channel  ReLU, depthwise KxK, 1x1, batch norm
    expanded       ReLU, 1x1 to e times the channels, batch norm, ReLU, KxK in groups or depthwise, batch norm,
                   ReLU, 1x1, batch norm; the input is added where its channels are as many
    ```

    In a supernet an input may have fewer channels than it has room for. Then the layer computes what one for that many
    channels does whose kernels are cut to them: inside an expansion, of every group the first channels.

    Attributes:
      layer: the attributes.
      channels: of the output.
      dtype: of the computation.

    Reference:
      Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
    """

    layer: Layer
    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool, drop_path: jax.Array | float | None = None, width: jax.Array | None = None
    ) -> jax.Array:
        """Maps `[batch, height, width, in]` to `[batch, height, width, channels]`.

        With `drop_path`, a probability, an example loses the branch beside its input, in training; the draw comes from
        the random stream "drop_path". With `width`, [] int32, only so many first channels of the input are there, and
        the others are 0.
        """
        layer, given, groups = self.layer, x, self.layer.groups or 1
        room = layer.expansion * x.shape[-1]
        # Batch norms fill what is not there.
        cut = lambda x: x if width is None else x * _first(room, layer.expansion * width, groups, x.dtype)
        if layer.expansion > 1:
            x = cut(ConvNorm(room, name="expand", dtype=self.dtype)(x, train))
        elif width is not None and groups > 1:
            x = cut(_apart(x, width, groups))
        x = nn.relu(x)
        inside = room if layer.expansion > 1 else self.channels
        if layer.groups is None:
            x = DepthwiseConv(layer.kernel, dilation=layer.dilation, name="filter", dtype=self.dtype)(x)
            x = x if layer.expansion > 1 else Conv(self.channels, name="mix", dtype=self.dtype)(x)
        else:
            x = GroupedConv(inside, layer.kernel, layer.groups, layer.dilation, self.dtype, name="filter")(x)
        x = batch_norm(x, train, affine=True, dtype=self.dtype)
        if layer.expansion == 1:
            return x
        x = ConvNorm(self.channels, name="project", dtype=self.dtype)(cut(x), train)
        if width is not None:
            beside = given[..., : self.channels]
            return x if beside.shape != x.shape else x + jnp.where(width == self.channels, beside, jnp.zeros_like(x))
        if given.shape != x.shape:
            return x
        if train and drop_path is not None:
            x = drop_path_scale(self.make_rng("drop_path"), drop_path, (x.shape[0], 1, 1, 1), self.dtype) * x
        return given + x


def _first(channels: int, width: jax.Array, groups: int, dtype: Any) -> jax.Array:
    """1 for the first `width / groups` channels of each group and else 0, [1, 1, 1, channels]."""
    there = jnp.arange(channels, dtype=jnp.int32) % (channels // groups) < width // groups
    return there.astype(dtype)[None, None, None]


def _apart(x: jax.Array, width: jax.Array, groups: int) -> jax.Array:
    """The first `width` channels in groups, each moved to the beginning of one of the groups of all channels."""
    channel = jnp.arange(x.shape[-1], dtype=jnp.int32)
    part = x.shape[-1] // groups
    return jnp.take(x, channel // part * (width // groups) + channel % part, axis=-1, mode="clip")


class ChainNetwork(nn.Module):
    """Stem, layers and classifier; before the layers at a third and two thirds a convolution of stride 2.

    Each of these convolutions (ReLU, 3x3, batch norm) doubles the channels. A fully connected layer is a ReLU, the mean
    over pixels and a linear layer, whose output stands at every pixel. The interface is that of `Network`.

    A supernet has all candidates of each layer, and a mix takes one. Candidates may be of different widths: a state has
    room for the widest, and zeros in the channels that are not there. So the supernet computes what the network of the
    mix does that has the same weights and statistics, cut to the channels that are there. Under a quantisation policy
    one thing differs: the range of a kernel is that of the whole kernel.

    Attributes:
      space: a fixed chain, or one with a choice (then `mix` is needed).
      channels: of the first stage.
      num_classes: length of the logits.
      depth: how often each layer stands in a row.
      stem_kind: "small_image" keeps the resolution, "imagenet" divides it by 8.
      auxiliary: whether there is a second classifier at two thirds of the layers.
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    space: ChainSpace
    channels: int
    num_classes: int
    depth: int = 1
    stem_kind: Literal["small_image", "imagenet"] = "small_image"
    auxiliary: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("channels", "num_classes", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: use at least 1.")
        if self.stem_kind not in ("small_image", "imagenet"):
            raise ValueError(f"unknown stem {self.stem_kind!r}: use small_image or imagenet.")
        check_groups(self.space, self.channels)

    @nn.compact
    def __call__(
        self,
        image: jax.Array,
        mix: Mapping[str, jax.Array] | None = None,
        *,
        train: bool,
        drop_path: jax.Array | float = 0.0,
        features: bool = False,
    ) -> Any:
        """Classifies images, or gives what the classifier and other heads read.

        Args:
          image: `[batch, height, width, any]` float, normalised.
          mix: for each `layer_index` float32 `[num_candidates]`, 1 for the one that is taken and else 0, see
            `spaces.networks.one_hot`; None to initialise, and for a fixed chain, which reads none.
          train: normalise by the batch and update the running statistics (collection `batch_stats`).
          drop_path: probability in [0, 1) with which an example loses a branch that has its input beside it.
          features: stop before fully connected layers and the classifier, which then have no parameters.

        Returns:
          Logits; with `features` a dict from each of `strides` to the last state there.

        Raises:
          ValueError: if the mix is not that of the space, or `drop_path` is a number outside [0, 1).
        """
        rate, rows = self._checked(drop_path, mix)
        state = State(self._stem(image.astype(self.dtype), train))
        channels, stage, auxiliary = self.channels, 0, None
        last = {self.strides[0]: state.x}
        for index, words in enumerate(self.space.layers):
            for _ in range((index == self._thirds[0]) + (index == self._thirds[1])):
                channels, stage = 2 * channels, stage + 1
                state = State(ConvNorm(channels, 3, 2, dtype=self.dtype, name=f"reduce_{stage}")(state.x, train))
            for repeat in range(0 if features and fully_connected(words[0]) else self.depth):
                name = f"layer_{index}" if self.depth == 1 else f"layer_{index}_{repeat}"
                names = [name if self.space.is_fixed else f"{name}_{word}" for word in words]
                made = [self._layer(*of, channels, state, train, rate) for of in zip(words, names, strict=True)]
                state = made[0] if self.space.is_fixed else _taken(made, rows[f"layer_{index}"])
            last[self.strides[0] << stage] = state.x
            if self.auxiliary and train and not features and index == self._thirds[1]:
                head = AuxiliaryHead(self.num_classes, self.stem_kind != "imagenet", self.dtype, name="auxiliary_head")
                auxiliary = head(state.x, train)
        if features:
            return last
        there = None if state.width is None else _first(state.x.shape[-1], state.width, 1, self.dtype)
        classifier = Classifier(self.num_classes, True, self.dtype, name="classifier")
        return Logits(classifier(state.x, train, there), auxiliary)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image from one place of a state to the next, for every resolution with a layer or a stem."""
        first = 8 if self.stem_kind == "imagenet" else 1
        between = (2 * first,) * (self._thirds[0] < self._thirds[1])  # a chain of one layer has none there
        return (first, *between, 4 * first)

    @property
    def _thirds(self) -> tuple[int, int]:
        return len(self.space.layers) // 3, 2 * len(self.space.layers) // 3

    def _stem(self, image: jax.Array, train: bool) -> jax.Array:
        make = ImageNetStem if self.stem_kind == "imagenet" else SmallImageStem
        return make(self.channels, self.dtype, name="stem")(image, train)[-1]

    def _layer(self, word: str, name: str, channels: int, state: State, train: bool, rate) -> State:
        layer, x = layer_of(word), state.x
        if layer.op == "conv":
            made = ConvLayer(layer, layer_channels(layer, channels), self.dtype, name=name)
            return State(made(x, train, rate, state.width))
        if outputs := fully_connected(word):
            mean = jnp.mean(nn.relu(x).astype(at_least_float32(self.dtype)), (1, 2))
            y = Linear(outputs, name=name)(mean).astype(self.dtype)
            return State(jnp.broadcast_to(y[:, None, None], (*x.shape[:-1], outputs)))
        made = operator(word, channels=channels, dtype=self.dtype, name=name)(x, train)
        return State(made, None if layer.kernel else state.width)

    def _checked(self, drop_path: jax.Array | float, mix: Mapping[str, jax.Array] | None) -> tuple[Any, Any]:
        """The rate, None for 0, and the mix, to initialise one of zeros."""
        known = isinstance(drop_path, (int, float))
        needed = {place: (len(words),) for place, words in candidates(self.space).items()}
        if known and not 0 <= drop_path < 1:
            raise ValueError(f"drop_path is {drop_path}: give one in [0, 1).")
        if mix is None and self.is_initializing():
            mix = {place: jnp.zeros(shape) for place, shape in needed.items()}
        given = {place: row.shape for place, row in (mix or {}).items()}
        if given != needed and not self.space.is_fixed:
            raise ValueError(f"the mix has the rows {given}: {self.space.name[:60]} needs {needed}.")
        return None if known and drop_path == 0 else drop_path, mix


def _taken(made: list[State], row: jax.Array) -> State:
    """The state that a mix takes of those of all candidates of a layer, with room for the widest."""
    sides = [state.x.shape[-1] for state in made]
    pad = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, max(sides) - x.shape[-1])))
    # A product of matrices would round the states where units multiply in less than float32.
    x = jnp.sum(jnp.stack([weight.astype(s.x.dtype) * pad(s.x) for weight, s in zip(row, made, strict=True)]), 0)
    if len(set(sides)) == 1 and all(state.width is None for state in made):
        return State(x)
    widths = [jnp.int32(side) if state.width is None else state.width for side, state in zip(sides, made, strict=True)]
    return State(x, jnp.sum(row.astype(jnp.int32) * jnp.stack(widths)))


FoundNetwork = Network | ChainNetwork
