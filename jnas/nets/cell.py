"""One `Cell` module: the mixed cell of a supernet and the cell of a found network."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jnas.nets.edges import Along, MixedEdge, Stack, Strategy, keeps, path_of, run_stack, schedule
from jnas.nets.layers import ConvNorm
from jnas.nets.ops import FactorizedReduce, Identity, apply_operator, noise_key, operator_of
from jnas.spaces.cell import NONE, CellSpace
from jnas.spaces.operators import Operator


def drop_path_scale(key: jax.Array, rate: jax.Array | float, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Factors that drop a path for some examples and keep its expectation: 0, or `1 / (1 - rate)`.

    Args:
      key: a typed PRNG key.
      rate: probability of a drop, `[]`, in [0, 1).
      shape: of the factors, one independent draw each.
      dtype: of the factors.

    Returns:
      Factors of that shape and dtype.

    Example:
      >>> drop_path_scale(jax.random.key(0), 0.5, (6,), jnp.float32)
      Array([...], dtype=float32)

    Reference:
      Larsson, Maire, Shakhnarovich, "FractalNet", ICLR 2017.
    """
    keep = 1.0 - jnp.asarray(rate, jnp.float32)
    return jnp.where(jax.random.bernoulli(key, keep, shape), 1.0 / keep, 0.0).astype(dtype)


def _apply_edge(module: MixedEdge, train: bool, along: Along, x: jax.Array) -> tuple[jax.Array, Any]:
    variables = {"params": along.params, "batch_stats": along.stats}
    variables.update({} if along.quant is None else {"quant": along.quant})
    keys = {} if along.key is None else {"drop_path": along.key}
    y, changed = module.apply(variables, x, along.weights, train, rngs=keys, mutable=["batch_stats"])
    return y if along.scale is None else along.scale * y, changed.get("batch_stats", {})


def _apply_chosen(module: MixedEdge, train: bool, along: Along, x: jax.Array) -> tuple[jax.Array, Any]:
    """What `_apply_edge` gives under a one-hot mixture, or one of zeros; what is not chosen keeps its statistics."""

    def alone(op: Operator):
        def apply(along, x):
            one = along._replace(weights=along.weights.max(keepdims=True))
            return _apply_edge(module.clone(ops=(op,)), train, one, x)

        return jax.checkpoint(apply, policy=keeps)  # else every branch would store zeros for what the others store

    none = lambda along, x: (jnp.zeros_like(x[:, :: module.stride, :: module.stride]), along.stats)
    chosen = jnp.where(along.weights.any(), jnp.argmax(along.weights), len(module.ops))
    return jax.lax.switch(chosen, [*map(alone, module.ops), none], along, x)


class Cell(nn.Module):
    """A cell of a supernet, or of a found network where the space has one operator left on an edge.

    ```
    with mix:     node_j = sum over edges i->j of sum over ops of mix[edge, op] * op(state_i)
    without mix:  node_j = sum over edges i->j of op(state_i)
    ```

    In a found cell modules are named after edge and operator. In a supernet equal edges are stacked (see
    `jnas.nets.edges`); `nets.per_edge` turns its weights into those of found cells. A pool of a found cell, or another
    operator that says so, is computed once a state, for all the edges that leave it.

    Attributes:
      space: the search space, or a fixed cell of it.
      kind: which of `space.cells` this is.
      channels: of every node.
      reduction: whether edges from the inputs have stride 2.
      halvings: how often each input is to be halved to reach the resolution of the last one, for an input that is first
        projected to `channels`; None: the inputs enter as they are.
      affine: whether batch norms learn scale and bias.
      normalise_pools: whether a batch norm follows a pool.
      edge_strategy: how the mixed edges are computed, see `Network`.
      remat: recompute each mixed edge in the backward pass.
      dtype: of the computation.
      operators: those of the space that are the user's own, taken from it; compared, as the space's are not.
    """

    space: CellSpace
    kind: str
    channels: int
    reduction: bool = False
    halvings: tuple[int, ...] | None = None
    affine: bool = True
    normalise_pools: bool = False
    edge_strategy: Strategy = "scan"
    remat: bool = True
    dtype: Any = jnp.float32
    operators: tuple[Operator, ...] = ()

    def __post_init__(self) -> None:
        self.operators = self.space.operators
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        inputs: tuple[jax.Array, ...],
        mix: jax.Array | None,
        train: bool,
        drop_path: jax.Array | float | None = None,
    ) -> jax.Array:
        """Applies the cell.

        Args:
          inputs: `space.num_inputs` arrays `[batch, height, width, channels]`, oldest first.
          mix: `[num_edges, num_ops]`, the weight of every operator on every edge; None for a fixed space.
          train: use and update the statistics of the batch.
          drop_path: probability, `[]` in [0, 1), with which an example loses an edge (identities are spared; of a mixed
            edge the whole mixture goes); None: never. It acts in training and reads the random stream "drop_path".

        Returns:
          `[batch, height, width, channels]`, with `channels * num_nodes` channels where the space joins its nodes.

        Raises:
          ValueError: if there is no mix and an edge has several operators.
        """
        if mix is None and not self.space.is_fixed:
            raise ValueError(
                f"a supernet of {self.space.name} got no mix: pass spaces.mixture(space, alpha), or fix the space."
            )
        states = list(inputs) if self.halvings is None else self._preprocess(inputs, train)
        edges = self.space.edges(self.kind)
        scales = None
        if train and drop_path is not None:
            shape = (len(edges), states[0].shape[0], 1, 1, 1)  # one draw for the whole cell: a far smaller program
            scales = drop_path_scale(self.make_rng("drop_path"), drop_path, shape, self.dtype)

        if mix is None or self.space.is_fixed:
            nodes = self._fixed(states, mix, train, scales)
        else:
            nodes = self._mixed(states, mix, train, scales)
        return jnp.concatenate(nodes, axis=-1) if self.space.output == "concat" else nodes[-1]

    def _fixed(self, inputs: list[jax.Array], mix: jax.Array | None, train: bool, scales: jax.Array | None):
        """The nodes of a cell with at most one operator on an edge."""
        states, done = list(inputs), {}
        first, last = self.space.num_inputs, self.space.num_inputs + self.space.num_nodes
        edges = self.space.edges(self.kind)
        for target in range(first, last):
            paths = []
            for index, edge in enumerate(edges):
                if edge.target != target or edge.ops in ((), (NONE,)):
                    continue
                op = operator_of(edge.ops[0], self.operators)
                stride = 2 if self.reduction and edge.source < first else 1
                name = path_of(edge.source, target, op)
                if name not in done:  # else an operator that its other edges share
                    done[name] = apply_operator(self, op, states[edge.source], train, stride=stride, name=name)
                path, module = done[name]
                spared = isinstance(module, Identity)
                if mix is not None:
                    path, spared = mix[index, self.space.ops.index(op.name)].astype(self.dtype) * path, False
                paths.append(path if scales is None or spared else scales[index] * path)
            states.append(functools.reduce(jnp.add, paths) if paths else self._empty(inputs[0]))
        return states[first:]

    def _mixed(self, inputs: list[jax.Array], mix: jax.Array, train: bool, scales: jax.Array | None):
        """The nodes of a cell whose edges are mixtures, stack by stack."""
        first, num_nodes = self.space.num_inputs, self.space.num_nodes
        states = jnp.broadcast_to(self._empty(inputs[0]), (num_nodes, *self._empty(inputs[0]).shape))
        given = jnp.stack(inputs)
        if not self.reduction:  # all states have one shape: a loop may read any of them
            states = jnp.concatenate((given, states))
        offset = first if self.reduction else 0
        for stack in schedule(self.space.edges(self.kind), first, self.reduction, self.operators):
            module = MixedEdge(
                stack.candidates, self.channels, stack.stride, self.affine, self.normalise_pools, self.dtype,
                parent=None,
            )  # fmt: skip
            along = self._along(stack, module, inputs[0], mix, scales, train)
            switch = self.edge_strategy == "switch"
            edge = functools.partial(_apply_chosen if switch else _apply_edge, module, train)
            outside = given if stack.stride == 2 else None
            states, stats = run_stack(
                stack, edge, along, outside, states, (0 if outside is not None else offset, offset),
                strategy=self.edge_strategy, remat=self.remat and not switch,
            )  # fmt: skip
            updates = train and not self.is_initializing() and self.is_mutable_collection("batch_stats")
            if updates and jax.tree.leaves(stats):
                self.put_variable("batch_stats", stack.name, stats)
        return list(states[-num_nodes:])

    def _along(self, stack: Stack, module: MixedEdge, x: jax.Array, mix, scales, train: bool) -> Along:
        """The parameters, statistics and shares of the edges of a stack."""
        num, shape = len(stack.rows), (1, *x.shape[1:])
        columns = [self.space.ops.index(op) for op in stack.ops]
        rows = jnp.array(stack.rows)
        weights = mix[rows][:, jnp.array(columns)].astype(self.dtype)

        def start(key: jax.Array) -> dict[str, Any]:
            return dict(module.init({"params": key, "drop_path": key}, jnp.zeros(shape, x.dtype), weights[0], True))

        shapes = jax.eval_shape(start, jax.random.key(0))
        params, stats = {}, {}
        if "params" in shapes:
            params = self.param(stack.name, lambda key: jax.vmap(start)(jax.random.split(key, num))["params"])
        if "batch_stats" in shapes:
            zeros = lambda: jax.vmap(start)(jax.random.split(jax.random.key(0), num))["batch_stats"]
            stats = self.variable("batch_stats", stack.name, zeros).value
        keys = None
        if any(op.random for op in stack.candidates):
            key = noise_key(self, train)  # in an evaluation the same one for all stacks
            keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
        quant = self.get_variable("quant", stack.name) if self.has_variable("quant", stack.name) else None
        return Along(params, stats, weights, None if scales is None else scales[rows], keys, quant)

    def _empty(self, x: jax.Array) -> jax.Array:
        """A node without any edge."""
        stride = 2 if self.reduction else 1
        return jnp.zeros_like(x[:, ::stride, ::stride])

    def _preprocess(self, inputs: tuple[jax.Array, ...], train: bool) -> list[jax.Array]:
        states = []
        for index, (x, halvings) in enumerate(zip(inputs, self.halvings or (), strict=True)):
            for step in range(halvings):
                reduce = FactorizedReduce(self.channels, self.affine, self.dtype, name=f"reduce_{index}_{step}")
                x = reduce(x, train)
            if halvings == 0:
                x = ConvNorm(self.channels, affine=self.affine, dtype=self.dtype, name=f"project_{index}")(x, train)
            states.append(x)
        return states
