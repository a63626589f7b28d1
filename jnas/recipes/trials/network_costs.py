"""What a network costs, for objectives: parameters, operations, and time on this machine."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnas import nets
from jnas.nets.chain import FoundNetwork

Cost = Callable[[np.ndarray], float]  # of an architecture [num_choices]
Build = Callable[[np.ndarray], FoundNetwork]  # architecture -> its network


def parameters(build: Build, shape: tuple[int, int, int]) -> Cost:
    """The number of parameters, in millions; nothing is computed.

    Args:
      build: architecture -> its network.
      shape: `(height, width, channels)` of an image.
    """
    return lambda arch: nets.count_parameters(_shapes(build(arch), shape)[0]) / 1e6


def flops(build: Build, shape: tuple[int, int, int]) -> Cost:
    """The floating-point operations of one image, in millions, as the compiler counts them in the compiled network.

    Args:
      build: architecture -> its network.
      shape: `(height, width, channels)` of an image.
    """

    def cost(arch: np.ndarray) -> float:
        compiled, _ = _compiled(build(arch), shape, 1)
        counted: Any = compiled.cost_analysis()
        return float(counted["flops"]) / 1e6

    return cost


def latency(build: Build, shape: tuple[int, int, int], *, batch_size: int = 1, repeats: int = 20) -> Cost:
    """The median time of a forward pass on this machine, in milliseconds: for workers that are alike and have it idle.

    Args:
      build: architecture -> its network.
      shape: `(height, width, channels)` of an image.
      batch_size: images at a time.
      repeats: timed calls, after one that is not.
    """

    def cost(arch: np.ndarray) -> float:
        compiled, arguments = _compiled(build(arch), shape, batch_size)
        given = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), arguments)
        jax.block_until_ready(compiled(*given))
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            jax.block_until_ready(compiled(*given))
            times.append(time.perf_counter() - started)
        return 1e3 * statistics.median(times)

    return cost


def _shapes(net: FoundNetwork, shape: tuple[int, int, int]):
    return jax.eval_shape(lambda key: nets.initialise(net, key, shape), jax.random.key(0))


def _compiled(net: FoundNetwork, shape: tuple[int, int, int], batch_size: int):
    """The forward pass, and the shapes of its arguments."""

    def forward(weights, variables, image):
        logits: Any = net.apply({"params": weights, "batch_stats": variables}, image, train=False)
        return logits.main

    arguments = (*_shapes(net, shape), jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32))
    return jax.jit(forward).lower(*arguments).compile(), arguments
