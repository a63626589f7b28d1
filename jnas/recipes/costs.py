"""What a network costs: parameters, operations, memory and time; and an architecture under a policy, by a model of the
target: bytes, bit operations, latency.
"""

import functools
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jnas import nets
from jnas.errors import UserError
from jnas.files.reading import json_of
from jnas.files.schemas import Positive
from jnas.nets.chain import ChainNetwork, FoundNetwork
from jnas.nets.quant.sizes import LayerShape, candidate_sizes, layer_shapes
from jnas.nets.quant.units import UnitOf, place_of
from jnas.spaces import networks
from jnas.spaces.chain import ChainSpace
from jnas.spaces.policy import EIGHT, Method
from jnas.types import Array, PyTree

CONSTANTS = 8  # bytes an output channel: its scale and its bias, float32
Shape = tuple[int, int, int]  # (height, width, channels) of an image


def parameters(net: nn.Module, shape: Shape) -> float:
    """The number of parameters, without an auxiliary head; nothing is computed."""
    return nets.count_parameters(nets.shapes(net, shape)["params"])


def flops(net: nn.Module, shape: Shape) -> float:
    """Operations of the forward pass of one image, two for a multiply-add, as XLA counts the program it is given."""
    return float(dict(_lowered(net, shape).cost_analysis() or {}).get("flops", 0.0))


def memory(net: nn.Module, shape: Shape) -> float:
    """The bytes of the forward pass of one image as it is compiled for this machine: weights, image and all between."""
    of: Any = _lowered(net, shape).compile().memory_analysis()
    return float(of.argument_size_in_bytes + of.output_size_in_bytes + of.temp_size_in_bytes)


def latency(net: nn.Module, shape: Shape, *, weights: PyTree = None, repeats: int = 20) -> float:
    """The seconds of a forward pass of one image on this machine: for workers that are alike and have it idle.

    Args:
      net: the network.
      shape: of an image.
      weights: of the network; None: zeros.
      repeats: timed calls, after one that is not; the median counts.
    """
    if weights is None:
        weights = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), nets.shapes(net, shape))
    apply, images = jax.jit(functools.partial(_forward, net)), jnp.zeros((1, *shape))
    return median_seconds(lambda: apply(weights, images), repeats)


OF_A_NETWORK = {"parameters": parameters, "flops": flops, "memory": memory, "latency": latency}


def median_seconds(call: Callable[[], PyTree], repeats: int) -> float:
    """The median time of a call on the device, one before that compiles left out."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _forward(net: nn.Module, weights: PyTree, images: Array) -> Array:
    logits: Any = net.apply(weights, images, train=False)
    return logits.main


def _lowered(net: nn.Module, shape: Shape) -> jax.stages.Lowered:
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return jax.jit(functools.partial(_forward, net)).lower(nets.shapes(net, shape), images)


# Under a policy -------------------------------------------------------------------------------------------------------


Latency = Callable[[LayerShape, Method], float]  # milliseconds of a layer for one image under a method


class CostModel(NamedTuple):
    """The sizes of everything that an architecture may choose, and the methods it may be quantised by."""

    space: networks.NetworkSpace
    units: tuple[str, ...]
    sizes: np.ndarray  # [num_units + 1, num_ops + 1, 3] int64; last row: no unit; last column: whatever the operator is
    methods: tuple[Method, ...]
    latency: np.ndarray | None  # [num_units + 1, num_ops + 1, num_methods + 1] ms; the last of the fixed method
    cells: Mapping[str, str]  # of each block
    # Of chains, whose layers add more or less by the widths before them, the tables serve to find the largest one, and
    # this counts: words of the layers -> sizes [num_units + 1, 3] int64, last of no unit, and, with latencies,
    # [num_units + 1, num_methods + 1] ms.
    of_chain: Callable[[tuple[str, ...]], tuple[np.ndarray, np.ndarray | None]] | None = None


def cost_model(
    net: FoundNetwork,
    image_shape: tuple[int, int, int],
    units: Sequence[str],
    unit_of: UnitOf,
    methods: Sequence[Method],
    *,
    latency: Latency | None = None,
) -> CostModel:
    """Builds the model of a supernet's found networks.

    What an operator of a cell adds is looked up in tables. What a layer of a chain adds depends on the widths before
    it: the layers of each chain that is asked for are counted.

    Args:
      net: a supernet, as wide and deep as the networks to be found.
      image_shape: `(height, width, channels)`.
      units: the names of the policy's units.
      unit_of: which unit a layer belongs to, as for `nets.units.units`.
      methods: what a policy indexes; those of no unit have 8 bits.
      latency: milliseconds of a layer under each of the methods and under 8 bits; None: no latency.

    Returns:
      The model.
    """
    rows, own = {name: row for row, name in enumerate((*units, ""))}, (*methods, EIGHT)
    measures: list[tuple[Callable[[LayerShape], Sequence[float]], int, Any]] = [(LayerShape.sizes, 3, np.int64)]
    if latency is not None:
        measures.append((lambda layer: [latency(layer, method) for method in own], len(own), np.float64))

    def table_of(measure: Callable[[LayerShape], Sequence[float]], width: int, dtype: Any) -> np.ndarray:
        table = np.zeros((len(rows), len(net.space.ops) + 1, width), dtype)
        for unit, ops in candidate_sizes(net, image_shape, unit_of, measure).items():
            for op, sums in ops.items():
                table[rows[unit], net.space.ops.index(op) if op else len(net.space.ops)] = sums
        return table

    @functools.lru_cache(4096)
    def of_chain(words: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray | None]:
        fixed = net.clone(space=ChainSpace(tuple((word,) for word in words)))
        found = [np.zeros((len(rows), width), dtype) for _, width, dtype in measures]
        for path, layer in layer_shapes(fixed, image_shape).items():
            for sums, (measure, _, _) in zip(found, measures, strict=True):
                sums[rows[unit_of(place_of(fixed, path)) or ""]] += np.asarray(measure(layer))
        return found[0], found[1] if latency is not None else None

    sizes = table_of(*measures[0])
    times = table_of(*measures[1]) if latency is not None else None
    model = CostModel(net.space, tuple(units), sizes, tuple(methods), times, {})
    if isinstance(net, ChainNetwork):
        return model._replace(of_chain=of_chain)
    return model._replace(cells={f"block_{index}": cell for index, cell in enumerate(net.layout)})


def by_products(rates: Mapping[str, float], methods: Sequence[Method]) -> Latency:
    """The latency of a target of which one knows milliseconds for 10^6 products under each method.

    Args:
      rates: by the names of methods.
      methods: that it is asked for.

    Returns:
      The function for `cost_model`.

    Raises:
      UserError: if one of the methods, or "w8a8", is missing.
    """
    for method in (*methods, EIGHT):
        if str(method) not in rates:
            raise UserError(f"the table of latencies lacks {method}: give its milliseconds for 10^6 products")
    return lambda layer, method: layer.sizes().products * rates[str(method)] / 1e6


def read_latency(path: str) -> dict[str, float]:
    """A table of latencies from a JSON file, `{"w8a8": 0.4, "w4a8": 0.25, ...}`.

    Raises:
      UserError: if the file is none.
    """
    try:
        return {name: float(rate) for name, rate in json_of(pathlib.Path(path), dict[str, Positive]).items()}
    except UserError as error:
        raise UserError(
            f'{path} is no table of latencies: write milliseconds for 10^6 products, such as {{"w8a8": 0.4}}'
        ) from error


def operators(model: CostModel, arch: np.ndarray) -> np.ndarray:
    """Which operator an architecture has in each unit.

    Args:
      model: with the units.
      arch: `[num_choices]` of the model's space.

    Returns:
      `[num_units]` int32, indices of the space's operators; -1 where there is none.
    """
    there = networks.candidates(networks.fix(model.space, arch))
    result = []
    for unit in model.units:
        head, _, rest = unit.partition("/")
        # A unit of one block, or of all blocks with the same cell; of a place, or of one operator there.
        unit = "/".join(filter(None, (model.cells.get(head, head), rest)))
        place, _, op = (unit, "", "") if unit in there else unit.rpartition("/")
        found = there.get(place) or ("",)
        result.append(model.space.ops.index(found[0]) if found[0] and op in ("", found[0]) else -1)
    return np.array(result, np.int32)


def costs(model: CostModel, ops: np.ndarray, columns: np.ndarray) -> dict[str, float]:
    """The costs of one candidate.

        size    = sum over layers of weights * bits / 8 + 8 bytes * channels
        compute = sum over layers of products * bits of the weights * bits of the activations

    Args:
      model: from `cost_model`.
      ops: `[num_units]`, from `operators`.
      columns: `[num_units]`, the method of each unit.

    Returns:
      `size` in bytes, `compute` in bit operations an image, `latency` in milliseconds if the model has a table.
    """
    if model.of_chain is None:
        sizes = _looked_up(model.sizes, ops)
        times = None if model.latency is None else _looked_up(model.latency, ops)
    else:  # a layer of no unit has no weights, and passes on as many channels as it is given
        placed = zip(model.units, ops, strict=True)
        words = {unit.partition("/")[0]: model.space.ops[op] for unit, op in placed if op >= 0}
        places = networks.candidates(model.space)
        sizes, times = model.of_chain(tuple(words.get(place, "skip_connect") for place in places))
    table = (*model.methods, EIGHT)
    rows = np.append(columns, len(model.methods))
    bits = np.array([[m.weight_bits, m.activation_bits] for m in table], np.int64)[rows]
    found = {
        "size": float(np.sum(sizes[:, 0] * bits[:, 0]) / 8 + CONSTANTS * np.sum(sizes[:, 2])),
        "compute": float(np.sum(sizes[:, 1] * bits[:, 0] * bits[:, 1])),
    }
    if times is not None:
        found["latency"] = float(np.sum(times[np.arange(len(rows)), rows]))
    return found


def _looked_up(table: np.ndarray, ops: np.ndarray) -> np.ndarray:
    """What there is in each unit, and last in none: in any case, and of the operator there."""
    sums = table[:, -1].copy()
    sums[:-1] += np.where(ops[:, None] >= 0, table[np.arange(len(ops)), np.maximum(ops, 0)], 0)
    return sums


def largest(model: CostModel) -> dict[str, float]:
    """The costs of the network with the largest operator in every unit and 8 bits everywhere: those that count as 1."""
    ops = np.argmax(model.sizes[:-1, :-1, 1], axis=1).astype(np.int32)
    return costs(model, ops, np.full(len(model.units), len(model.methods), np.int32))
