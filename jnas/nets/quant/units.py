"""What a quantisation policy speaks about: the units of a network, and the rules of its layers."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jnas.nets.chain import ChainNetwork, FoundNetwork
from jnas.nets.network import RESIDUAL
from jnas.nets.quant.fake import Rule
from jnas.nets.stacking import stacks_of
from jnas.spaces.networks import candidates
from jnas.spaces.policy import EIGHT, MAPPINGS, Method
from jnas.types import Array, PyTree

Path = tuple[str, ...]
_EDGE = re.compile(r"(\d+)_(\d+)_(.+)")
_LAYER = re.compile(r"(layer_\d+)(?:_\d+)?(?:_([a-z].*))?")  # of a chain; repeated; in a supernet with its candidate


class Place(NamedTuple):
    """Where a layer stands."""

    block: str | None  # "block_3"; of a chain "layer_3" or "reduce_1"; None: stem, classifier or auxiliary head
    kind: str  # name of the cell, "residual", or of the part outside of blocks; of a chain that of the block
    edge: str  # "source_target", or what projects an input of the cell; empty outside of cells
    op: str  # of the edge or the layer; empty elsewhere


UnitOf = Callable[[Place], str | None]


def per_operator(where: Place) -> str | None:
    """A unit an operator of an edge of a block, or of a layer: for the sensitivity of each candidate."""
    return None if where.block is None else "/".join(filter(None, (where.block, where.edge, where.op)))


def per_edge(where: Place) -> str | None:
    """A unit an edge of a block, whatever operator is there, and one a residual block: for a policy beside a cell.

    Of a chain a unit a layer, and one a convolution between stages.
    """
    return per_operator(where._replace(op=""))


def per_block(where: Place) -> str | None:
    """A unit a block, whatever its edges: early blocks have few weights and may be wide. Of a chain a unit a layer."""
    return where.block


def shared(where: Place) -> str | None:
    """A unit an edge of a cell, the same in all its blocks as the operators are, or a layer: the smallest policy."""
    return None if where.block is None else "/".join(filter(None, (where.kind, where.edge)))


def shared_operator(where: Place) -> str | None:
    """A unit an operator of an edge of a cell, the same in all its blocks, or of a layer: for filtering a space."""
    return None if where.block is None else "/".join(filter(None, (where.kind, where.edge, where.op)))


class Layer(NamedTuple):
    """One layer with a kernel, or a stack of them."""

    path: Path  # of its module
    kernel: Path  # of its kernel among the parameters
    units: tuple[int, ...]  # for each row of the stack, or once, an index of `Units.names`; -1: fixed at 8 bits
    stacked: bool


class Units(NamedTuple):
    """The units of a network. The stem and the classifiers belong to none: they are always quantised to 8 bits."""

    names: tuple[str, ...]
    layers: tuple[Layer, ...]


def units(net: FoundNetwork, params: PyTree, unit_of: UnitOf = per_edge) -> Units:
    """The units of a supernet or of a found network.

    Args:
      net: the network.
      params: its parameters, or their shapes.
      unit_of: which unit a layer belongs to: `per_operator`, `per_edge`, `shared` or one of your own; None: to none.

    Returns:
      The units, in the order of the network.

    Raises:
      ValueError: if an edge has an operator of the user's own.
    """
    check_built_in(net)
    blocks = () if isinstance(net, ChainNetwork) else stacks_of(net)
    stacks = {(block, stack.name): stack for block, found in blocks for stack in found}
    named: list[tuple[Path, Path, list[str | None], bool]] = []
    for kernel in (path for path in flatten_dict(params) if path[-1] == "kernel"):
        path = kernel[:-2] if kernel[-2].startswith("Dense") else kernel[:-1]
        stack = stacks.get((path[0], path[1])) if len(path) > 2 else None
        if stack is None:
            named.append((path, kernel, [unit_of(place_of(net, path))], False))
        else:
            where = place_of(net, path[:1])
            ends = zip(stack.sources, stack.targets, strict=True)
            edges = [where._replace(edge=f"{source}_{target}", op=kernel[2]) for source, target in ends]
            named.append((path, kernel, [unit_of(edge) for edge in edges], True))
    found = {name for _, _, many, _ in named for name in many if name is not None}
    names = tuple(sorted(found, key=_natural))
    return Units(
        names,
        tuple(
            Layer(path, kernel, tuple(-1 if name is None else names.index(name) for name in many), stacked)
            for path, kernel, many, stacked in named
        ),
    )


def methods_of(of: Units, methods: Sequence[Method], columns: Array | np.ndarray) -> dict[Path, Method]:
    """The method of each layer of a found network under a concrete policy, 8 bits of those of no unit; see `rules`."""
    table, everyone = (*methods, EIGHT), np.append(np.asarray(columns), len(methods))
    return {layer.path: table[everyone[layer.units[0]]] for layer in of.layers}


def rules(
    of: Units,
    methods: Sequence[Method],
    columns: Array | np.ndarray,
    *,
    fixed: Method = EIGHT,
    extra: Mapping[Path, Any] | None = None,
) -> dict[str, Any]:
    """The collection `quant` that makes a network apply a policy, beside `params` and `batch_stats`.

    Under jit the policy may be traced: another one compiles nothing. `jax.vmap` over it gives a population.

    Args:
      of: the units of the network.
      methods: what the policy indexes.
      columns: `[num_units]` int32.
      fixed: the method of the layers that belong to no unit.
      extra: for a layer's path further fields of its `Rule`, such as ranges.

    Returns:
      The collection.
    """
    table = (*methods, fixed)
    weight_bits, activation_bits = (jnp.array([method[field] for method in table], jnp.float32) for field in range(2))
    kinds = [MAPPINGS.index(method.mapping) for method in table]
    mappings = jnp.array(kinds, jnp.int32) if any(kinds) else None
    everyone = jnp.append(jnp.asarray(columns, jnp.int32), jnp.int32(len(methods)))
    found: dict[Path, Rule] = {}
    for layer in of.layers:
        rows = np.array(layer.units) if layer.stacked else np.array(layer.units[0])
        at = everyone[rows]  # -1 is the last, the fixed one
        mapping = None if mappings is None else mappings[at]
        more = (extra or {}).get(layer.path) or {}
        found[*layer.path, "rule"] = Rule(weight_bits[at], mapping, activation_bits[at], **more)
    return unflatten_dict(found)


def calibrate(net: FoundNetwork, variables: Mapping[str, PyTree], images: Array, of: Units) -> dict[Path, Array]:
    """What the inputs of every layer of a found network lie between, for ranges that no batch changes.

    Args:
      net: a network of a fixed space.
      variables: `params` and `batch_stats`, and `quant` where earlier layers are to be quantised meanwhile.
      images: `[batch, height, width, channels]`, of the training set.
      of: its units.

    Returns:
      For the path of each layer `[2]` float32: least value and largest.
    """
    _, noted = jax.jit(functools.partial(net.apply, train=False, mutable=["ranges"]))(variables, images)
    seen: dict[Path, Any] = flatten_dict(noted["ranges"])
    return {layer.path: seen[*layer.path, "input"][0] for layer in of.layers if (*layer.path, "input") in seen}


def place_of(net: FoundNetwork, path: Path) -> Place:
    """Where the module at a path of the network stands."""
    block = path[0]
    if isinstance(net, ChainNetwork):
        if layer := _LAYER.fullmatch(block):
            return Place(layer[1], layer[1], "", layer[2] or candidates(net.space)[layer[1]][0])
        return Place(block if block.startswith("reduce_") else None, block, "", "")
    if not block.startswith("block_"):
        return Place(None, block, "", "")
    kind = net.layout[int(block.removeprefix("block_"))]
    if kind == RESIDUAL or len(path) == 1:
        return Place(block, kind, "", "")
    match = _EDGE.fullmatch(path[1])
    return Place(block, kind, path[1], "") if match is None else Place(block, kind, f"{match[1]}_{match[2]}", match[3])


def check_built_in(net: FoundNetwork) -> None:
    """Refuses a network with operators of the user's own, whose layers nothing here quantises, folds or counts."""
    placed = {op for ops in candidates(net.space).values() for op in ops}
    own = [op.name for op in getattr(net.space, "operators", ()) if op.name in placed]
    if own:
        raise ValueError(f"operator {own[0]!r} is not built in and has no quantised form: leave it out of the space.")


def _natural(name: str) -> list[Any]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
