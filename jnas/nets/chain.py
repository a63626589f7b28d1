"""Networks of chain spaces: one layer after the other, in three stages."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jnas.nets.cell import drop_path_scale
from jnas.nets.heads import AuxiliaryHead, Classifier, ImageNetStem, SmallImageStem
from jnas.nets.layers import Conv, ConvNorm, DepthwiseConv, batch_norm
from jnas.nets.network import Logits, Network
from jnas.nets.ops import operator
from jnas.spaces.chain import ChainSpace, Layer, layer_of


def layer_channels(layer: Layer, channels: int) -> int:
    """Channels of a layer's output in a stage of `channels`, at least 1."""
    return max(1, round(layer.width * channels))


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
    def __call__(self, x: jax.Array, train: bool, drop_path: jax.Array | float | None = None) -> jax.Array:
        """Maps `[batch, height, width, in]` to `[batch, height, width, channels]`.

        With `drop_path`, a probability, an example loses the branch beside its input, in training; the draw comes from
        the random stream "drop_path".
        """
        layer, given = self.layer, x
        if layer.expansion > 1:
            x = ConvNorm(layer.expansion * x.shape[-1], name="expand", dtype=self.dtype)(x, train)
        x = nn.relu(x)
        inside = x.shape[-1] if layer.expansion > 1 else self.channels
        if layer.groups is None:
            x = DepthwiseConv(layer.kernel, dilation=layer.dilation, name="filter", dtype=self.dtype)(x)
            x = x if layer.expansion > 1 else Conv(self.channels, name="mix", dtype=self.dtype)(x)
        else:
            x = GroupedConv(inside, layer.kernel, layer.groups, layer.dilation, self.dtype, name="filter")(x)
        x = batch_norm(x, train, affine=True, dtype=self.dtype)
        if layer.expansion == 1:
            return x
        x = ConvNorm(self.channels, name="project", dtype=self.dtype)(x, train)
        if given.shape != x.shape:
            return x
        if train and drop_path is not None:
            x = drop_path_scale(self.make_rng("drop_path"), drop_path, (x.shape[0], 1, 1, 1), self.dtype) * x
        return given + x


class ChainNetwork(nn.Module):
    """Stem, layers and classifier; before the layers at a third and two thirds a convolution of stride 2.

    Each of these convolutions (ReLU, 3x3, batch norm) doubles the channels. The interface is that of `Network`.

    Attributes:
      space: a fixed chain.
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
        if not self.space.is_fixed:
            raise ValueError(f"{self.space.name[:60]} leaves something to choose: fix an architecture of it first.")
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
        mix: None = None,
        *,
        train: bool,
        drop_path: jax.Array | float = 0.0,
        features: bool = False,
    ) -> Any:
        """Classifies images, or gives what the classifier and other heads read.

        Args:
          image: `[batch, height, width, any]` float, normalised.
          mix: None: a chain is fixed.
          train: normalise by the batch and update the running statistics (collection `batch_stats`).
          drop_path: probability in [0, 1) with which an example loses a branch that has its input beside it.
          features: stop before the classifier, which then has no parameters.

        Returns:
          Logits; with `features` a dict from each of `strides` to the last state there.

        Raises:
          ValueError: if a mix is given or `drop_path` is a number outside [0, 1).
        """
        known = isinstance(drop_path, (int, float))
        if mix is not None or (known and not 0 <= drop_path < 1):
            raise ValueError(f"drop_path is {drop_path} and mix {mix}: give one in [0, 1) and no mix.")
        rate = None if known and drop_path == 0 else drop_path
        state, channels, stage, auxiliary = self._stem(image.astype(self.dtype), train), self.channels, 0, None
        last = {self.strides[0]: state}
        for index, words in enumerate(self.space.layers):
            for _ in range((index == self._thirds[0]) + (index == self._thirds[1])):
                channels, stage = 2 * channels, stage + 1
                state = ConvNorm(channels, 3, 2, dtype=self.dtype, name=f"reduce_{stage}")(state, train)
            for repeat in range(self.depth):
                name = f"layer_{index}" if self.depth == 1 else f"layer_{index}_{repeat}"
                state = self._layer(words[0], channels, name, state, train, rate)
            last[self.strides[stage]] = state
            if self.auxiliary and train and not features and index == self._thirds[1]:
                head = AuxiliaryHead(self.num_classes, self.stem_kind != "imagenet", self.dtype, name="auxiliary_head")
                auxiliary = head(state, train)
        if features:
            return last
        return Logits(Classifier(self.num_classes, True, self.dtype, name="classifier")(state, train), auxiliary)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image from one place of a state to the next, for every resolution with a layer or a stem."""
        first = 8 if self.stem_kind == "imagenet" else 1
        return (first, 2 * first, 4 * first)

    @property
    def _thirds(self) -> tuple[int, int]:
        return len(self.space.layers) // 3, 2 * len(self.space.layers) // 3

    def _stem(self, image: jax.Array, train: bool) -> jax.Array:
        make = ImageNetStem if self.stem_kind == "imagenet" else SmallImageStem
        return make(self.channels, self.dtype, name="stem")(image, train)[-1]

    def _layer(self, word: str, channels: int, name: str, x: jax.Array, train: bool, rate) -> jax.Array:
        layer = layer_of(word)
        if layer.op == "conv":
            return ConvLayer(layer, layer_channels(layer, channels), self.dtype, name=name)(x, train, rate)
        return operator(word, channels=channels, dtype=self.dtype, name=name)(x, train)


FoundNetwork = Network | ChainNetwork
