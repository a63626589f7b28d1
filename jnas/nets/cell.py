"""One `Cell` module: the mixed cell of a supernet and the cell of a found network."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jnas.nets.layers import ConvNorm
from jnas.nets.ops import POOLS, FactorizedReduce, operator
from jnas.spaces.cell import NONE, CellSpace


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


class Cell(nn.Module):
    """A cell of a supernet, or of a found network where the space has one operator left on an edge.

    ```
    with mix:     node_j = sum over edges i->j of sum over ops of mix[edge, op] * op(state_i)
    without mix:  node_j = sum over edges i->j of op(state_i)
    ```

    Modules are named after edge and operator, so that a found cell reads the weights of the supernet it came from.
    A pool has no weights: it is computed once a state, for all the edges that leave it.

    Attributes:
      space: the search space, or a fixed cell of it.
      kind: which of `space.cells` this is.
      channels: of every node.
      reduction: whether edges from the inputs have stride 2.
      halvings: how often each input is to be halved to reach the resolution of the last one, for an input that is first
        projected to `channels`; None: the inputs enter as they are.
      affine: whether batch norms learn scale and bias.
      normalise_pools: whether a batch norm follows a pool.
      dtype: of the computation.
    """

    space: CellSpace
    kind: str
    channels: int
    reduction: bool = False
    halvings: tuple[int, ...] | None = None
    affine: bool = True
    normalise_pools: bool = False
    dtype: Any = jnp.float32

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

        outputs: dict[str, jax.Array] = {}
        for target in range(self.space.num_inputs, self.space.num_inputs + self.space.num_nodes):
            paths = []
            for index, edge in enumerate(edges):
                if edge.target != target:
                    continue
                stride = 2 if self.reduction and edge.source < self.space.num_inputs else 1
                terms = []
                for op in edge.ops:
                    if op == NONE:
                        continue  # it adds zeros: its share of a mixture shows in the other weights
                    name = f"{edge.source}_{op}" if op in POOLS else f"{edge.source}_{target}_{op}"
                    if name not in outputs:
                        outputs[name] = self._operator(op, stride, name)(states[edge.source], train)
                    weight = None if mix is None else mix[index, self.space.ops.index(op)].astype(self.dtype)
                    terms.append(outputs[name] if weight is None else weight * outputs[name])
                if not terms:
                    continue
                spared = mix is None and edge.ops == ("skip_connect",) and stride == 1
                path = functools.reduce(jnp.add, terms)
                paths.append(path if scales is None or spared else scales[index] * path)
            stride = 2 if self.reduction else 1
            empty = jnp.zeros_like(states[0][:, ::stride, ::stride])
            states.append(functools.reduce(jnp.add, paths) if paths else empty)
        nodes = states[self.space.num_inputs :]
        return jnp.concatenate(nodes, axis=-1) if self.space.output == "concat" else nodes[-1]

    def _operator(self, op: str, stride: int, name: str) -> nn.Module:
        return operator(
            op,
            channels=self.channels,
            stride=stride,
            affine=self.affine,
            normalise_pools=self.normalise_pools,
            dtype=self.dtype,
            name=name,
        )

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
