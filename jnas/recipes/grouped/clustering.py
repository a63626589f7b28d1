"""Groups of operators from a supernet: those whose feature maps are alike on the same inputs belong together."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jnas import nets, spaces
from jnas.nets.cell import Cell
from jnas.spaces.cell import NONE, CellSpace, op_mask
from jnas.spaces.grouped import Groups, groups_of
from jnas.types import Array, PyTree


def correlation(maps: Array) -> Array:
    """`cov(x_i, x_j) / (std(x_i) std(x_j))` of the flattened feature maps of every two operators.

    Two convolutions can be alike in this sense only if training has aligned their channels, one by one.

    Args:
      maps: `[num_ops, batch, height, width, channels]`.

    Returns:
      `[num_ops, num_ops]` in [-1, 1]; not a number where an operator's output is constant.
    """
    flat = maps.reshape(maps.shape[0], -1)
    rows = flat - flat.mean(1, keepdims=True)
    # The mean of equal numbers is often not that number: what is left then is rounding, and no direction.
    rounding = 64 * jnp.finfo(flat.dtype).eps * jnp.abs(flat).max(1)
    rows = jnp.where(jnp.abs(rows).max(1, keepdims=True) > rounding[:, None], rows, 0.0)
    norms = jnp.linalg.norm(rows, axis=1)
    return (rows @ rows.T) / (norms[:, None] * norms[None])


def feature_maps(
    net: nets.Network, params: PyTree, batch_stats: PyTree, alpha: Mapping[str, Array], image: Array
) -> dict[str, Callable[[], list[Array]]]:
    """What every operator makes of the input of its edge in a running supernet, cell by cell.

    A node is the sum over its in-edges of `mix[edge, op] * op(state)`, and nothing before it depends on these weights:
    so the derivative of the node by `mix[edge, op]` is the operator's feature map, exactly, whatever loop or merged
    operation computes it. Batch norms use the batch.

    Args:
      net: a supernet.
      params: its parameters.
      batch_stats: its running statistics.
      alpha: the architecture parameters whose mixture the cells are fed through.
      image: `[batch, height, width, any]`, normalised.

    Returns:
      For each block of the network a function, for one holds much memory, that returns for each edge
      `[num_ops, batch, height, width, channels]`; 0 for operators that are not on the edge.
    """
    mix = spaces.mixture(net.space, alpha)
    variables = {"params": params, "batch_stats": batch_stats}
    blocks = {f"block_{at}": kind for at, kind in enumerate(net.layout) if kind in net.space.cells}
    inputs, modules = _cell_inputs(net, variables, mix, image)

    def of_block(name: str) -> list[Array]:
        mine = {kind: tree[name] for kind, tree in variables.items() if name in tree}
        return _edges_of(modules[name], mine, inputs[name], mix[blocks[name]])

    return {name: functools.partial(of_block, name) for name in blocks}


def _cell_inputs(net: nets.Network, variables: PyTree, mix: Mapping[str, Array], image: Array):
    """What each cell is given in a forward pass, and the cells as modules of their own, by block."""
    modules: dict[str, Cell] = {}

    @jax.jit
    def forward(variables, mix, image):
        seen: dict[str, tuple[Array, ...]] = {}

        def look(call, args, kwargs, context):
            if isinstance(context.module, Cell) and context.method_name == "__call__":
                name = str(context.module.name)
                seen[name], modules[name] = args[0], context.module.clone(parent=None, name=None)
            return call(*args, **kwargs)

        with nn.intercept_methods(look):
            rngs = {"drop_path": jax.random.key(0)}
            net.apply(variables, image, mix, train=True, rngs=rngs, mutable=["batch_stats"])
        return seen

    return forward(variables, mix, image), modules


def _edges_of(cell: Cell, variables: PyTree, inputs: tuple[Array, ...], mix: Array) -> list[Array]:
    space = cell.space
    # The output of a cell may be its last node alone; the parameters do not depend on what it returns.
    joined = cell.clone(space=dataclasses.replace(space, output="concat"))
    rows = range(space.num_edges)
    return [_maps_of_edge(joined, variables, inputs, mix, jnp.int32(row)) for row in rows]


@functools.partial(jax.jit, static_argnums=0)
def _maps_of_edge(cell: Cell, variables: PyTree, inputs: tuple[Array, ...], mix: Array, row: Array) -> Array:
    space = cell.space

    def nodes(weights: Array) -> Array:
        rngs = {"drop_path": jax.random.key(0)}
        out, _ = cell.apply(variables, inputs, weights, True, rngs=rngs, mutable=["batch_stats"])
        return jnp.stack(jnp.split(out, space.num_nodes, axis=-1))

    _, linear = jax.linearize(nodes, mix)
    node = jnp.array([target - space.num_inputs for _, target in space.endpoints])[row]
    return jax.lax.map(lambda op: linear(jnp.zeros_like(mix).at[row, op].set(1.0))[node], jnp.arange(len(space.ops)))


def correlations(
    net: nets.Network,
    params: PyTree,
    batch_stats: PyTree,
    alpha: Mapping[str, Array],
    image: Array,
) -> np.ndarray:
    """How alike the operators' feature maps are, averaged over all edges of all cells of a supernet.

    Args:
      net: a supernet.
      params: its parameters, best trained: fresh convolutions have unrelated channels.
      batch_stats: its running statistics.
      alpha: the architecture parameters.
      image: `[batch, height, width, any]`, normalised.

    Returns:
      `[num_ops, num_ops]` in the order of `net.space.ops`: the mean over the edges that have both operators; not a
      number for two that share no edge, and for operators that do not depend on their input.
    """
    mask = op_mask(net.space)
    blocking = np.array([op in net.space.blocking for op in net.space.ops])
    total = np.zeros((len(blocking),) * 2)
    count = np.zeros_like(total)
    compare = jax.jit(correlation)
    kinds = {f"block_{at}": kind for at, kind in enumerate(net.layout)}
    for name, maps_of in feature_maps(net, params, batch_stats, alpha, image).items():
        for row, maps in enumerate(maps_of()):
            there = mask[kinds[name]][row] & ~blocking
            found = np.asarray(compare(maps), float)
            both = there[:, None] & there[None] & np.isfinite(found)  # an output may be constant on one edge alone
            total += np.where(both, found, 0)
            count += both
    with np.errstate(invalid="ignore"):
        return total / np.where(count, count, np.nan)


class Clustering(NamedTuple):
    """Groups and how they came about: what a report draws."""

    groups: Groups
    ops: tuple[str, ...]  # those that were clustered, the rows of what follows
    similarity: np.ndarray  # [n, n]
    linkage: np.ndarray  # [n - 1, 4], of scipy.cluster.hierarchy
    silhouettes: dict[int, float]  # number of groups -> mean silhouette, for every number that was looked at


def cluster(
    space: CellSpace, similarity: np.ndarray, *, num_groups: int | None = None, candidates: tuple[int, int] = (2, 5)
) -> Clustering:
    """Hierarchical clustering of operators by average linkage, at the distance `1 - similarity`.

    Args:
      space: whose operators they are.
      similarity: `[num_ops, num_ops]` from `correlations`.
      num_groups: how many groups; None: the number within `candidates` of the largest mean silhouette.
      candidates: the smallest and the largest number of groups to choose from.

    Returns:
      The groups, in the order of their first operators, which represent them. Operators that do not depend on their
      input (`none`, `noise`) take no part; `noise` becomes a group of its own.

    Raises:
      ValueError: if fewer than two operators can be compared, or a number of groups does not fit.

    References:
      Rousseeuw, "Silhouettes: a graphical aid to the interpretation and validation of cluster analysis", 1987.
    """
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform
    from sklearn.metrics import silhouette_score

    columns = [at for at, op in enumerate(space.ops) if op not in space.blocking]
    ops = tuple(space.ops[at] for at in columns)
    if len(ops) < 2:
        raise ValueError(f"space {space.name!r} has the operators {ops} to compare: cluster at least two.")
    if num_groups is not None and not 1 <= num_groups <= len(ops):
        raise ValueError(f"num_groups is {num_groups} for {len(ops)} operators: give 1 to {len(ops)}.")
    values = np.asarray(similarity, float)[np.ix_(columns, columns)]
    values = np.where(np.isnan(values), 0.0, (values + values.T) / 2)  # never on one edge, or constant: nothing known
    np.fill_diagonal(values, 1.0)
    distances = np.maximum(1 - values, 0.0)
    np.fill_diagonal(distances, 0.0)
    tree = hierarchy.linkage(squareform(distances), method="average")
    low, high = max(2, candidates[0]), min(candidates[1], len(ops) - 1)
    score = functools.partial(silhouette_score, distances, metric="precomputed")
    scores = {k: float(score(labels=_labels(tree, k))) for k in range(low, high + 1)}
    chosen = num_groups or max(scores, key=lambda k: scores[k], default=1)
    labels = _labels(tree, chosen)
    members = [tuple(op for op, label in zip(ops, labels, strict=True) if label == which) for which in set(labels)]
    members += [(op,) for op in space.blocking if op != NONE]
    members.sort(key=lambda group: space.ops.index(group[0]))
    return Clustering(groups_of(members), ops, values, tree, scores)


def _labels(tree: np.ndarray, num_groups: int) -> list[int]:
    from scipy.cluster import hierarchy

    # Cutting by number (not by height, which ties make ambiguous) gives exactly that many groups.
    return hierarchy.cut_tree(tree, n_clusters=num_groups)[:, 0].tolist()
