"""What the layers of a network hold and do, and what every candidate operator of a supernet would add."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jnas.nets.chain import FoundNetwork
from jnas.nets.layers import Conv, DepthwiseConv, Linear
from jnas.nets.quant.units import Path, Place, check_built_in, place_of
from jnas.spaces.cell import NONE, place
from jnas.spaces.chain import ChainSpace
from jnas.spaces.networks import NetworkSpace


class Sizes(NamedTuple):
    """What a layer, or everything in a unit, holds and does for one image."""

    weights: int  # numbers in kernels
    products: int  # multiply-accumulates
    channels: int  # output channels, each with a scale and a bias


class LayerShape(NamedTuple):
    """What one layer computes for one image."""

    kind: type[nn.Module]  # Conv, DepthwiseConv or Linear
    size: int  # of its window
    stride: int
    dilation: int
    inputs: tuple[int, ...]  # (height, width, channels), or (channels,)
    outputs: tuple[int, ...]

    def sizes(self) -> Sizes:
        """What it holds and does."""
        weights = self.size**2 * (1 if self.kind is DepthwiseConv else self.inputs[-1]) * self.outputs[-1]
        return Sizes(weights, weights * int(np.prod(self.outputs[:-1])), self.outputs[-1])


def layer_shapes(net: FoundNetwork, image_shape: tuple[int, int, int]) -> dict[Path, LayerShape]:
    """What each layer of a found network computes; nothing is computed.

    Args:
      net: a network of a fixed space.
      image_shape: `(height, width, channels)`.

    Returns:
      By the path of each layer.

    Raises:
      ValueError: if an edge has an operator of the user's own.
    """
    check_built_in(net)
    found: dict[Path, LayerShape] = {}

    def note(call, args, kwargs, context):
        y = call(*args, **kwargs)
        module = context.module
        if isinstance(module, (Conv, DepthwiseConv, Linear)) and context.method_name == "__call__":
            window = (1, 1, 1) if isinstance(module, Linear) else (module.size, module.stride, module.dilation)
            found[module.path] = LayerShape(type(module), *window, args[0].shape[1:], y.shape[1:])
        return y

    def run(key):
        with nn.intercept_methods(note):
            return net.init(key, jnp.zeros((1, *image_shape)), train=False)

    jax.eval_shape(run, jax.random.key(0))
    return found


def layer_sizes(net: FoundNetwork, image_shape: tuple[int, int, int]) -> dict[Path, Sizes]:
    """What each layer of a found network costs, see `layer_shapes`."""
    return {path: layer.sizes() for path, layer in layer_shapes(net, image_shape).items()}


def candidate_sizes(
    net: FoundNetwork,
    image_shape: tuple[int, int, int],
    measure: Callable[[LayerShape], Sequence[float]] = LayerShape.sizes,
) -> dict[Place, np.ndarray]:
    """What every candidate operator of a supernet would add, and what is there in any case.

    What a layer of a chain adds depends on the widths before it. Here each operator is counted in the chain that has it
    in every layer that may have it, and in the others their first candidates.

    Args:
      net: a supernet.
      image_shape: `(height, width, channels)`.
      measure: of a layer; what it gives is summed over the layers of an operator.

    Returns:
      The sums by where the layers stand; what does not depend on the cell, projections and residual blocks, is at
      places without an operator.
    """
    result: dict[Place, np.ndarray] = {}
    ops = [op for op in net.space.ops if op != NONE]
    for op in ops:
        fixed = net.clone(space=_everywhere(net.space, op))
        for path, layer in layer_shapes(fixed, image_shape).items():
            where = place_of(fixed, path)
            if where.op == op or (not where.op and op == ops[0]):
                result[where] = np.asarray(measure(layer)) + result.get(where, 0)
    return result


def _everywhere(space: NetworkSpace, op: str) -> NetworkSpace:
    if isinstance(space, ChainSpace):
        return ChainSpace(tuple((op,) if op in words else words[:1] for words in space.layers))
    rows = {cell: {row: op for row, edge in enumerate(space.edges(cell)) if op in edge.ops} for cell in space.cells}
    return place(space, rows)
