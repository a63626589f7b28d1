"""Building, initialising and counting networks."""

import functools
import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from jnas.distributed.sharding import backend
from jnas.nets.edges import STACKED, Strategy
from jnas.nets.layers import fan_in
from jnas.nets.network import REDUCE, RESIDUAL, Network
from jnas.nets.ops import operator_of
from jnas.spaces.cell import CellSpace
from jnas.types import Key


def network_for(
    space: CellSpace,
    *,
    channels: int,
    depth: int,
    num_classes: int,
    affine: bool | None = None,
    auxiliary: bool = False,
    stem: Literal["small_image", "imagenet"] = "small_image",
    stem_multiplier: int | None = None,
    remat: bool | None = None,
    edge_strategy: Strategy | Literal["auto"] = "scan",
    dtype: Any = jnp.float32,
) -> Network:
    """Builds the network that the literature puts around the cells of a space.

    A space with a cell named "reduce" gets the network of DARTS: `depth` cells, of which those at `depth // 3` and
    `2 * depth // 3` are reduction cells. Any other space of one cell gets the network of NAS-Bench-201: three stages of
    `depth` cells, a residual block of stride 2 between them.

    Args:
      space: a search space, or a fixed cell of one (`spaces.fix`).
      channels: of a node in the first cell.
      depth: number of cells, or of cells per stage, see above.
      num_classes: length of the logits.
      affine: whether batch norms inside the cells learn scale and bias; None: only those of a fixed space.
      auxiliary: whether there is the second classifier for retraining.
      stem: "small_image" keeps the resolution, "imagenet" divides it by 8.
      stem_multiplier: channels of the stem in units of `channels`; None: 3 as DARTS, 1 as NAS-Bench-201.
      remat: recompute in the backward pass, see `Network`.
      edge_strategy: of a supernet, see `Network`; "auto": "scan" on a CPU, and else "merge"; so is "switch" where an
        operator says that it is slow in a loop.
      dtype: of the computation.

    Returns:
      A `Network`; two built with equal arguments are equal and share compiled programs.

    Raises:
      ValueError: if `depth` is less than 1 or the space has several cells and none named "reduce".

    Example:
      >>> from jnas import spaces
      >>> network_for(spaces.darts(), channels=16, depth=8, num_classes=10).layout
      ('normal', 'normal', 'reduce', 'normal', 'normal', 'reduce', 'normal', 'normal')
      >>> network_for(spaces.nasbench201(), channels=16, depth=1, num_classes=10).layout
      ('cell', 'residual', 'cell', 'residual', 'cell')

    Reference:
      Liu, Simonyan, Yang, "DARTS", ICLR 2019; Dong, Yang, "NAS-Bench-201", ICLR 2020.
    """
    # On a CPU the gradient of an ordinary convolution is slow inside a branch, as it is inside a loop.
    loops = edge_strategy != "switch" or all(operator_of(op, space.operators).loops for op in space.ops)
    if edge_strategy == "auto" or not loops:
        edge_strategy = "scan" if backend() == "cpu" else "merge"
    if depth < 1:
        raise ValueError(f"depth is {depth}: use at least 1 cell.")
    plain = [cell for cell in space.cells if cell != REDUCE]
    if len(plain) != 1:
        raise ValueError(f"{space.name} has the cells {space.cells}: build Network with a layout of your own.")
    reduces = REDUCE in space.cells
    if reduces:
        layout = tuple(REDUCE if index in (depth // 3, 2 * depth // 3) else plain[0] for index in range(depth))
    else:
        stage = (plain[0],) * depth
        layout = (*stage, RESIDUAL, *stage, RESIDUAL, *stage)
    return Network(
        space, layout, channels, num_classes, stem_kind=stem, stem_multiplier=stem_multiplier or (3 if reduces else 1),
        project_inputs=reduces or space.num_inputs > 1 or space.output == "concat",
        affine=space.is_fixed if affine is None else affine, normalise_pools=reduces and not space.is_fixed,
        normalise_features=not reduces, auxiliary=auxiliary, remat=remat, edge_strategy=edge_strategy, dtype=dtype,
    )  # fmt: skip


@functools.lru_cache(maxsize=8)
def shapes(net: Any, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Shapes and dtypes of a network's variables, "params" and perhaps "batch_stats", without computing them.

    Args:
      net: see `initialise`.
      image_shape: `(height, width, channels)` of the images.

    Returns:
      Nested dicts of `jax.ShapeDtypeStruct`, shared by all who ask for this network: not to be changed.
    """
    return dict(jax.eval_shape(functools.partial(_init, net, image_shape), jax.random.key(0)))


def initialise(net: Any, key: jax.Array, image_shape: tuple[int, int, int]) -> tuple[dict, dict]:
    """Draws the parameters of a network; the number of input channels is read off the images.

    They have the distribution that `net.init` gives them, kernels and biases uniform on +-1/sqrt(fan_in), but all come
    out of one vector of random numbers. What belongs to an operator of the user's own starts as its initialisers say.
    Call it outside of `jax.jit`: a compiled `net.init` spends ten times as long as this on a program of its own for
    each of the hundreds of arrays of a supernet.

    Args:
      net: the network, or a module around one with its `space` and `__call__(image, train=)`, such as `Detector`; all
        of its parameters but kernels, their biases and scales start at 0.
      key: a typed PRNG key.
      image_shape: `(height, width, channels)` of the images.

    Returns:
      `(params, batch_stats)`, nested dicts of float32 arrays.

    Example:
      >>> from jnas import spaces
      >>> net = network_for(spaces.nasbench201(), channels=4, depth=1, num_classes=10)
      >>> params, _ = jax.eval_shape(lambda key: initialise(net, key, (28, 28, 1)), jax.random.key(0))
      >>> params["stem"]["ConvNorm_0"]["Conv_0"]["kernel"].shape
      (3, 3, 1, 4)
    """
    found = shapes(net, tuple(image_shape))
    leaves, treedef = jax.tree.flatten_with_path(found["params"])
    kernels = {path[:-1]: _one_edge(path, leaf.shape) for path, leaf in leaves if path[-1].key == "kernel"}
    total = sum(leaf.size for path, leaf in leaves if path[:-1] in kernels)
    uniform = jax.random.uniform(key, (total,), jnp.float32, -1, 1)
    values, start = [], 0
    for path, leaf in leaves:
        if path[:-1] in kernels:  # a kernel, or the bias that belongs to one
            drawn = fan_in(kernels[path[:-1]]) ** -0.5 * lax.dynamic_slice_in_dim(uniform, start, leaf.size)
            values.append(drawn.reshape(leaf.shape))
            start += leaf.size
        else:
            values.append(_identity(path, leaf))
    params, stats = jax.tree.unflatten(treedef, values), found.get("batch_stats", {})
    started = {"params": params, "batch_stats": jax.tree.map_with_path(_identity, stats)}
    if own := {op.name for op in getattr(net.space, "operators", ())}:
        init = functools.partial(_init, net, tuple(image_shape))
        started = _with_own(started, own, init, jax.random.fold_in(key, 1))
    return started["params"], started["batch_stats"]


def _with_own(started: dict[str, Any], own: set[str], init: Callable[[Key], Mapping[str, Any]], key: Key):
    """The variables with those of the user's own operators as `net.init` draws them, without computing the others."""

    def is_own(path: tuple) -> bool:
        pairs = itertools.pairwise(step.key for step in path)
        places = (name for parent, name in pairs if parent.startswith(("block_", STACKED)))
        return any(re.sub(r"^(\d+_){1,2}", "", name) in own for name in places)

    def draw(key: Key) -> list[jax.Array]:
        found = init(key)
        leaves = jax.tree.leaves_with_path({name: found.get(name, {}) for name in started})
        return [leaf for path, leaf in leaves if is_own(path)]

    drawn = iter(jax.jit(draw)(key))
    return jax.tree.map_with_path(lambda path, leaf: next(drawn) if is_own(path) else leaf, started)


def _one_edge(path: tuple, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a kernel without the axis of the stack it may be in."""
    return shape[1:] if any(key.key.startswith(STACKED) for key in path) else shape


def _init(net: Any, image_shape: tuple[int, ...], key: Key) -> Mapping[str, Any]:
    mix = ()
    if not net.space.is_fixed and isinstance(net.space, CellSpace):  # a chain is initialised without one
        mix = ({cell: jnp.zeros((net.space.num_edges, len(net.space.ops))) for cell in net.space.cells},)
    keys = {"params": key, "drop_path": key}
    # train=True: the auxiliary head exists in training only.
    return net.init(keys, jnp.zeros((1, *image_shape)), *mix, train=True)


def _identity(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Where a batch norm starts: scale and variance 1, bias and mean 0."""
    return jnp.ones(leaf.shape, leaf.dtype) if path[-1].key in ("scale", "var") else jnp.zeros(leaf.shape, leaf.dtype)


def count_parameters(params: Mapping[str, Any], *, auxiliary: bool = False) -> int:
    """Counts the parameters of a network, by default without the auxiliary head, as published figures do.

    Args:
      params: from `initialise`, or their shapes from `jax.eval_shape`, which allocates nothing.
      auxiliary: count the auxiliary head too.

    Returns:
      Number of scalars.

    Example:
      >>> count_parameters({"stem": jnp.zeros((3, 4)), "auxiliary_head": jnp.zeros(5)})
      12
    """
    kept = {name: leaf for name, leaf in params.items() if auxiliary or name != "auxiliary_head"}
    return sum(leaf.size for leaf in jax.tree.leaves(kept))
