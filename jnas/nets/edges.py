"""The mixed edges of a supernet's cell: equal edges are one program, run once for each of them.

Edges with the same candidates and stride differ in their weights and in where they start and end, and in nothing else.
Their weights are stacked along a leading axis, and a cell is a loop over a few such stacks: the program is as long as
one edge instead of fourteen, and compiles in that share of the time.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jnas.nets.ops import apply_operator, operator_of
from jnas.nets.reading import add_at, take
from jnas.spaces.cell import NONE, Edge
from jnas.spaces.operators import Operator

Strategy = Literal["scan", "unroll", "merge", "switch"]
STACKED = "edges_"  # what the names of stacks start with
STRATEGIES = ("scan", "unroll", "merge", "switch")


def path_of(source: int, target: int, op: Operator) -> str:
    """The name of an operator of one edge outside of stacks; one that is computed once a state belongs to its source.

    >>> path_of(0, 2, operator_of("sep_conv_3x3")), path_of(0, 2, operator_of("max_pool_3x3"))
    ('0_2_sep_conv_3x3', '0_max_pool_3x3')
    """
    return f"{source}_{op.name}" if op.shared else f"{source}_{target}_{op.name}"


class Stack(NamedTuple):
    """Edges of one cell that have the same candidates and stride, in an order in which they can be computed."""

    name: str  # of their weights in the cell's parameters
    candidates: tuple[Operator, ...]  # those that compute something
    stride: int
    rows: tuple[int, ...]  # of alpha
    sources: tuple[int, ...]
    targets: tuple[int, ...]

    @property
    def ops(self) -> tuple[str, ...]:
        """The names of the candidates."""
        return tuple(op.name for op in self.candidates)

    def path(self, position: int, op: str) -> str:
        """The name of an operator of one edge outside of stacks."""
        return path_of(self.sources[position], self.targets[position], self.candidates[self.ops.index(op)])


def schedule(
    edges: Sequence[Edge], num_inputs: int, reduction: bool, own: Sequence[Operator] = ()
) -> tuple[Stack, ...]:
    """Orders the edges of a cell in stacks, as few as the order of the states allows.

    Args:
      edges: of the cell, by target and then by source; absent ones, and those that only add zeros, are left out.
      num_inputs: states that are there from the start.
      reduction: whether edges from the inputs have stride 2.
      own: the user's own among the operators.

    Returns:
      Stacks: a source is an input, or all its in-edges stand before, in an earlier stack or in the same one.

    Example:
      >>> from jnas import spaces
      >>> [(stack.stride, len(stack.rows)) for stack in schedule(spaces.darts().edges("normal"), 2, False)]
      [(1, 14)]
      >>> [(stack.stride, len(stack.rows)) for stack in schedule(spaces.darts().edges("reduce"), 2, True)]
      [(2, 8), (1, 6)]
    """
    kinds, left = {}, {}
    for row, edge in enumerate(edges):
        ops = tuple(op for op in edge.ops if op != NONE)
        if ops:
            left[row] = edge
            kinds[row] = (ops, 2 if reduction and edge.source < num_inputs else 1)
    stacks: list[Stack] = []
    while left:
        candidates = [_longest(left, kinds, kind) for kind in dict.fromkeys(kinds[row] for row in left)]
        rows = max(candidates, key=len)
        ops, stride = kinds[rows[0]]
        sources, targets = zip(*(edges[row][:2] for row in rows), strict=True)
        found = tuple(operator_of(op, own) for op in ops)
        stacks.append(Stack(f"{STACKED}{len(stacks)}", found, stride, tuple(rows), sources, targets))
        for row in rows:
            del left[row]
    return tuple(stacks)


def _longest(left: dict[int, Edge], kinds: dict[int, Any], kind: Any) -> list[int]:
    """The edges of a kind that can be computed next, one after another."""
    taken: list[int] = []
    for row, edge in left.items():
        waits = any(other.target == edge.source for r, other in left.items() if r not in taken)
        if kinds[row] == kind and not waits:
            taken.append(row)
    return taken


class MixedEdge(nn.Module):
    """The weighted sum of all candidates of one edge.

    Attributes:
      ops: the candidates, without `none`.
      channels: of input and output.
      stride: in pixels.
      affine: whether batch norms learn scale and bias.
      normalise_pools: whether a batch norm follows a pool.
      dtype: of the computation.
    """

    ops: tuple[Operator, ...]
    channels: int
    stride: int = 1
    affine: bool = False
    normalise_pools: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, weights: jax.Array, train: bool) -> jax.Array:
        """Maps `[batch, height, width, channels]` and weights `[num_ops]` to that shape at the stride."""
        terms = []
        for column, op in enumerate(self.ops):
            y, _ = apply_operator(self, op, x, train, stride=self.stride, name=op.name)
            terms.append(weights[column] * y)
        return functools.reduce(jnp.add, terms)


class Along(NamedTuple):
    """What belongs to each edge of a stack, all with the leading axis [num_edges]."""

    params: Any
    stats: Any  # running batch-norm statistics
    weights: jax.Array  # [num_edges, num_ops]
    scale: jax.Array | None  # [num_edges, batch, 1, 1, 1], of paths that may be dropped
    key: jax.Array | None  # [num_edges], of noise
    quant: Any = None  # rules of quantisation


def keeps(primitive: Any, *_: Any, **__: Any) -> bool:
    """What is stored even under remat: dense convolutions and statistics cost far more time than memory."""
    return primitive.name in ("conv2d", "name")


def run_stack(
    stack: Stack,
    edge: Callable[[Along, jax.Array], tuple[jax.Array, Any]],
    along: Along,
    sources: jax.Array | None,
    states: jax.Array,
    offsets: tuple[int, int],
    *,
    strategy: Strategy,
    remat: bool,
) -> tuple[jax.Array, Any]:
    """Adds what the edges of a stack compute to the states they lead to.

    Args:
      stack: the edges.
      edge: `(one row of along, x) -> (y, statistics)`.
      along: what the edges differ in.
      sources: `[num_sources, batch, height, width, channels]` to read from; None stands for `states` itself.
      states: `[num_states, ...]` to read from and to add to.
      offsets: the numbers of the first source and of the first state.
      strategy: see `Network`; of "switch" it is `edge` that computes one operator alone.
      remat: recompute an edge in the backward pass, except for its dense convolutions.

    Returns:
      The states and the new statistics `[num_edges, ...]`.
    """
    read = [source - offsets[0] for source in stack.sources]
    write = [target - offsets[1] for target in stack.targets]
    if strategy == "merge":
        edge = jax.checkpoint(edge, policy=keeps) if remat else edge
        return _merged(edge, along, sources, states, read, write)
    looped = strategy in ("scan", "switch") and len(stack.rows) > 1 and all(op.loops for op in stack.candidates)
    if remat:
        # In a loop nothing can merge the recomputation with the first one; elsewhere that has to be prevented.
        edge = jax.checkpoint(edge, prevent_cse=not looped, policy=keeps)

    def body(carry, row):
        sources, states = carry
        one, at, to = row
        if sources is None:
            x, states = take(states, at)
        else:
            x, sources = take(sources, at)
        y, stats = edge(one, x)
        return (sources, add_at(states, to, y)), stats

    rows = (along, jnp.array(read), jnp.array(write))
    (_, states), stats = lax.scan(body, (sources, states), rows, unroll=1 if looped else len(stack.rows))
    return states, stats


def _merged(edge, along: Along, sources: jax.Array | None, states: jax.Array, read: list[int], write: list[int]):
    """All edges that leave one state at once, state after state: by then everything that leads to it is added."""
    done, collected = [], []
    for source in sorted(set(read)):
        positions = [n for n, at in enumerate(read) if at == source]
        some = jax.tree.map(lambda leaf, at=tuple(positions): leaf[jnp.array(at)], along)
        ys, stats = jax.vmap(edge, in_axes=(0, None))(some, (states if sources is None else sources)[source])
        for y, position in zip(ys, positions, strict=True):
            states = states.at[write[position]].add(y)
        done += positions
        collected.append(stats)
    order = jnp.argsort(jnp.array(done))
    return states, jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[order], *collected)
