"""Weights as one vector: estimators and optimisers then run a few operations instead of one for each array."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnas import nets
from jnas.bilevel.problem import Init, Point
from jnas.types import Alpha, Array, Key, PyTree

Unravel = Callable[[Array], PyTree]  # [num_weights] -> the tree of the network's parameters


def start(net: Any, shape: tuple[int, int, int], alpha: Callable[[Key], Alpha] | None = None) -> Init:
    """How a training of a network begins: its parameters as one vector, and its running statistics.

    Args:
      net: a network, or a module around one, see `nets.initialise`.
      shape: of an image.
      alpha: key to architecture parameters; None: there are none.

    Returns:
      `key -> (Point([num_weights], alpha), statistics)`.
    """

    def init(key: Key):
        weights_key, alpha_key = (key, key) if alpha is None else jax.random.split(key)
        params, stats = nets.initialise(net, weights_key, shape)
        return Point(ravel(params), () if alpha is None else alpha(alpha_key)), stats

    return init


def ravel(params: PyTree) -> Array:
    """All parameters in one vector [num_weights], in the order of `jax.tree.leaves`."""
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])


def unravel_of(net: Any, shape: tuple[int, int, int]) -> Unravel:
    """The way back from the vector to the parameters of a network that reads images of this shape.

    Raises:
      ValueError: for a network without parameters, or with parameters of several dtypes.
    """
    leaves, tree = jax.tree.flatten(nets.shapes(net, tuple(shape)).get("params", {}))
    if len({leaf.dtype for leaf in leaves}) != 1:
        found = ", ".join(sorted({str(leaf.dtype) for leaf in leaves})) or "none at all"
        raise ValueError(f"the network has parameters of {found}: one vector needs some, of one dtype")
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def unravel(vector: Array) -> PyTree:
        parts = jnp.split(vector, ends)
        return tree.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])

    return unravel
