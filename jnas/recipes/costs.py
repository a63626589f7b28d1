"""What a network costs: parameters, operations, memory and time; and an architecture under a policy, by a model of the
target: bytes, bit operations, latency.
"""

import functools
import math
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jnas import data, nets
from jnas.errors import UserError
from jnas.files.locks import exclusive
from jnas.files.reading import json_of
from jnas.files.schemas import Positive
from jnas.nets.chain import ChainNetwork, FoundNetwork
from jnas.nets.quant.sizes import LayerShape, candidate_sizes, layer_shapes
from jnas.nets.quant.units import Place, UnitOf, place_of, shared
from jnas.recipes import chains, run_folder
from jnas.recipes.settings import Training
from jnas.spaces import networks
from jnas.spaces.chain import ChainSpace
from jnas.spaces.policy import EIGHT, Method
from jnas.types import Array, PyTree

LATENCIES = "latencies.json"  # in the folder of a run, milliseconds
CONSTANTS = 8  # bytes an output channel: its scale and its bias, float32
PAUSE = 2.0  # seconds between two lines on what the limits refuse
Shape = tuple[int, int, int]  # (height, width, channels) of an image
Price = Callable[[str, networks.NetworkSpace, np.ndarray], float]  # (name in `UNITS`, space, arch [num_choices])
Keeps = Callable[[networks.NetworkSpace, np.ndarray], bool]  # whether a network, (space, arch), is within limits


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
UNITS = {"parameters": 1e-6, "flops": 1e-6, "latency": 1e3, "memory": 1e-6}  # of searches that limit or weigh them


def median_seconds(call: Callable[[], PyTree], repeats: int) -> float:
    """The median time of a call on the device, one before that compiles left out."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def measured_once(path: pathlib.Path) -> Callable[[str, Callable[[], float]], float]:
    """What is measured in a run, each thing once, by one process at a time, and kept in its `LATENCIES`.

    Who shares the run, or takes it up again, reads what was measured: the same thing is never worth two numbers.

    Args:
      path: of the run.

    Returns:
      `(name, measure)` to the number of that name, positive.
    """
    file = path / LATENCIES
    read = lambda: json_of(file, dict[str, Positive]) if file.exists() else {}
    known = read()

    def number(name: str, measure: Callable[[], float]) -> float:
        if name not in known:
            with exclusive(path / ".latencies"):
                known.update(read())
                if name not in known:
                    known[name] = measure()
                    run_folder.write_json(file, known)
        return known[name]

    return number


def check_names(names: Iterable[str]) -> None:
    """Raises a ValueError for a name that is none of `UNITS`."""
    for name in names:
        if name not in UNITS:
            raise ValueError(f"{name!r} is no cost: choose among {', '.join(UNITS)}")


def words(weights: Mapping[str, float], limits: Mapping[str, float], beside: Iterable[str] = ()) -> str:
    """What is taken off a score, stands beside it, and limits what is tried: the end of a method's description."""
    less = [f", less {weight:g} {name}" for name, weight in weights.items()]
    return "".join(
        [*less, *(f", beside {name}" for name in beside), *(f", {name} at most {limits[name]:g}" for name in limits)]
    )


def of_networks(training: Training, examples: data.Dataset, path: pathlib.Path | None) -> Price:
    """What networks cost as they are trained in the end, in `UNITS`, each computed once.

    Args:
      training: says how wide and deep they are.
      examples: say the shape of an image and the number of classes.
      path: of the run, where times are kept, see `measured_once`; None: they are not.

    Returns:
      The function.
    """
    known = dict[tuple[str, str], float]()
    once = (lambda name, measure: measure()) if path is None else measured_once(path)

    def price(name: str, space: networks.NetworkSpace, arch: np.ndarray) -> float:
        genotype = networks.to_string(space, arch)
        if (name, genotype) not in known:
            net = chains.network(networks.fix(space, arch), training, examples.num_classes)
            measure = lambda: UNITS[name] * OF_A_NETWORK[name](net, examples.shape)
            known[name, genotype] = once(genotype, measure) if name == "latency" else measure()
        return known[name, genotype]

    return price


def keeping(limits: Mapping[str, float], price: Price) -> Keeps:
    """Whether a network keeps the limits; says now and then what is refused."""
    refused, said = set[str](), -math.inf

    def keeps(space: networks.NetworkSpace, arch: np.ndarray) -> bool:
        nonlocal said
        for name, most in limits.items():
            if (found := price(name, space, arch)) > most:
                refused.add(networks.to_string(space, arch))
                if time.monotonic() - said >= PAUSE:
                    line = f"limits: {len(refused)} architectures refused, this one for {name} {found:.4g} > {most:g}"
                    print(line, file=sys.stderr, flush=True)
                    said = time.monotonic()
                return False
        return True

    return keeps


def _forward(net: nn.Module, weights: PyTree, images: Array) -> Array:
    logits: Any = net.apply(weights, images, train=False)
    return logits.main


def _lowered(net: nn.Module, shape: Shape) -> jax.stages.Lowered:
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return jax.jit(functools.partial(_forward, net)).lower(nets.shapes(net, shape), images)


# Under a policy -------------------------------------------------------------------------------------------------------


Latency = Callable[[LayerShape, Method], float]  # milliseconds of a layer for one image under a method


class Parts(NamedTuple):
    """What the candidate operators of a supernet add, a row each for every block, and what is there in any case."""

    unit: np.ndarray  # [num_parts], indices of the model's units; their number for what belongs to none
    place: np.ndarray  # [num_parts], indices of `networks.candidates`; -1: there in any case
    op: np.ndarray  # [num_parts], indices of the space's operators
    sizes: np.ndarray  # [num_parts, 3] int64, `Sizes`
    latency: np.ndarray | None  # [num_parts, num_methods + 1] ms; the last of the fixed method


class CostModel(NamedTuple):
    """The sizes of everything that an architecture may choose, and the methods it may be quantised by."""

    space: networks.NetworkSpace
    units: tuple[str, ...]
    methods: tuple[Method, ...]
    parts: Parts
    # Of chains, whose layers add more or less by the widths before them, the parts serve to find the largest one, and
    # this gives those of a chain: words of the layers -> parts, all there in any case.
    of_chain: Callable[[tuple[str, ...]], Parts] | None = None


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

    What an operator of a cell adds is looked up. What a layer of a chain adds depends on the widths before
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
    rows = {name: row for row, name in enumerate((*units, None))}
    places = {name: row for row, name in enumerate(networks.candidates(net.space))}

    def measure(layer: LayerShape) -> list[float]:
        return [*layer.sizes(), *(() if latency is None else (latency(layer, own) for own in (*methods, EIGHT)))]

    def parts_of(found: Sequence[tuple[Place, Any]], *, always: bool) -> Parts:
        at = [-1 if always or not where.op else places[str(shared(where))] for where, _ in found]
        op = [-1 if row < 0 else net.space.ops.index(where.op) for row, (where, _) in zip(at, found, strict=True)]
        unit, sums = [rows[unit_of(where)] for where, _ in found], np.array([each for _, each in found])
        times = None if latency is None else sums[:, 3:]
        return Parts(np.array(unit), np.array(at), np.array(op), sums[:, :3].astype(np.int64), times)

    @functools.lru_cache(4096)
    def of_chain(words: tuple[str, ...]) -> Parts:
        fixed = net.clone(space=ChainSpace(tuple((word,) for word in words)))
        layers = layer_shapes(fixed, image_shape).items()
        return parts_of([(place_of(fixed, path), measure(layer)) for path, layer in layers], always=True)

    parts = parts_of([*candidate_sizes(net, image_shape, measure).items()], always=False)
    chains = of_chain if isinstance(net, ChainNetwork) else None
    return CostModel(net.space, tuple(units), tuple(methods), parts, chains)


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
    """Which operator an architecture has at each place.

    Args:
      model: of its space.
      arch: `[num_choices]` of the model's space.

    Returns:
      `[num_places]` int32 in the order of `networks.candidates`, indices of the space's operators; -1 where is none.
    """
    there = networks.candidates(networks.fix(model.space, arch)).values()
    return np.array([model.space.ops.index(found[0]) if found else -1 for found in there], np.int32)


def there(model: CostModel, ops: np.ndarray) -> Parts:
    """The parts that a candidate has, of those of a model; `ops` from `operators`."""
    if model.of_chain is not None:
        return model.of_chain(tuple(model.space.ops[op] for op in ops))
    kept = (model.parts.place < 0) | (ops[model.parts.place] == model.parts.op)
    return jax.tree.map(lambda rows: rows[kept], model.parts)


def costs(model: CostModel, ops: np.ndarray, columns: np.ndarray) -> dict[str, float]:
    """The costs of one candidate.

        size    = sum over layers of weights * bits / 8 + 8 bytes * channels
        compute = sum over layers of products * bits of the weights * bits of the activations

    Args:
      model: from `cost_model`.
      ops: `[num_places]`, from `operators`.
      columns: `[num_units]`, the method of each unit.

    Returns:
      `size` in bytes, `compute` in bit operations an image, `latency` in milliseconds if the model has a table.
    """
    parts = there(model, ops)
    rows = np.append(columns, len(model.methods))[parts.unit]
    bits = np.array([[m.weight_bits, m.activation_bits] for m in (*model.methods, EIGHT)], np.int64)[rows]
    found = {
        "size": float(np.sum(parts.sizes[:, 0] * bits[:, 0]) / 8 + CONSTANTS * np.sum(parts.sizes[:, 2])),
        "compute": float(np.sum(parts.sizes[:, 1] * bits[:, 0] * bits[:, 1])),
    }
    if parts.latency is not None:
        found["latency"] = float(np.sum(parts.latency[np.arange(len(rows)), rows]))
    return found


def largest(model: CostModel) -> dict[str, float]:
    """The costs of the network with the largest operator at each place and 8 bits everywhere: those that count as 1."""
    choices = networks.candidates(model.space).values()
    products = np.zeros((len(choices), len(model.space.ops)))
    at = model.parts.place >= 0
    np.add.at(products, (model.parts.place[at], model.parts.op[at]), model.parts.sizes[at, 1])
    named = [[model.space.ops.index(op) for op in ops] for ops in choices]
    ops = [max(those, key=row.__getitem__) if those else -1 for those, row in zip(named, products, strict=True)]
    return costs(model, np.array(ops, np.int32), np.full(len(model.units), len(model.methods), np.int32))
