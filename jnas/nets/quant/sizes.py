"""What the layers of a network hold and do, and what every candidate operator of a supernet would add."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jnas.nets.layers import Conv, DepthwiseConv, Linear
from jnas.nets.network import Network
from jnas.nets.quant.units import Path, UnitOf, check_built_in, place_of
from jnas.spaces.cell import NONE, CellSpace, place


class Sizes(NamedTuple):
    """What a layer, or everything in a unit, holds and does for one image."""

    weights: int  # numbers in kernels
    products: int  # multiply-accumulates
    channels: int  # output channels, each with a scale and a bias


def layer_sizes(net: Network, image_shape: tuple[int, int, int]) -> dict[Path, Sizes]:
    """What each layer of a found network costs; nothing is computed.

    Args:
      net: a network of a fixed space.
      image_shape: `(height, width, channels)`.

    Returns:
      For the path of each layer, its sizes.

    Raises:
      ValueError: if an edge has an operator of the user's own.
    """
    check_built_in(net)
    found: dict[Path, Sizes] = {}

    def note(call, args, kwargs, context):
        y = call(*args, **kwargs)
        module = context.module
        if isinstance(module, (Conv, DepthwiseConv, Linear)) and context.method_name == "__call__":
            size = 1 if isinstance(module, Linear) else module.size**2
            inputs = 1 if isinstance(module, DepthwiseConv) else args[0].shape[-1]
            weights = size * inputs * y.shape[-1]
            found[module.path] = Sizes(weights, weights * int(np.prod(y.shape[1:-1])), y.shape[-1])
        return y

    def run(key):
        with nn.intercept_methods(note):
            return net.init(key, jnp.zeros((1, *image_shape)), train=False)

    jax.eval_shape(run, jax.random.key(0))
    return found


def candidate_sizes(net: Network, image_shape: tuple[int, int, int], unit_of: UnitOf) -> dict[str, dict[str, Sizes]]:
    """What every candidate operator would add to every unit of a supernet, and what is there in any case.

    Args:
      net: a supernet.
      image_shape: `(height, width, channels)`.
      unit_of: as for `units`.

    Returns:
      `{unit: {operator: sizes}}`; what does not depend on the cell, projections and residual blocks, is under "" in its
      unit, and what belongs to no unit under the unit "".
    """
    result: dict[str, dict[str, Sizes]] = {}
    for op in (op for op in net.space.ops if op != NONE):
        fixed = net.clone(space=_everywhere(net.space, op))
        for path, sizes in layer_sizes(fixed, image_shape).items():
            where = place_of(fixed, path)
            unit = result.setdefault(unit_of(where) or "", {})
            if where.op or op == _first(net.space):
                unit[where.op] = Sizes(*np.add(unit.get(where.op, Sizes(0, 0, 0)), sizes).tolist())
    return result


def _first(space: CellSpace) -> str:
    return next(op for op in space.ops if op != NONE)


def _everywhere(space: CellSpace, op: str) -> CellSpace:
    rows = {cell: {row: op for row, edge in enumerate(space.edges(cell)) if op in edge.ops} for cell in space.cells}
    return place(space, rows)
