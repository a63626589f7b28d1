"""Architecture parameters: their initial value, their mixture of operators, and the architecture they stand for."""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jnas.spaces.cell import CellSpace, Decision, op_mask
from jnas.types import Array, Key


def init_alpha(space: CellSpace, key: Key, scale: float = 1e-3) -> dict[str, Array]:
    """Small normal architecture parameters, so that every candidate starts with nearly the same weight.

    Args:
      space: any cell space.
      key: of the draw.
      scale: standard deviation of the entries.

    Returns:
      For each cell, float32 `[num_edges, num_ops]`; 0 where an operator is not on the edge.

    References:
      Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019.
    """
    mask = op_mask(space)
    keys = jax.random.split(key, len(space.cells))
    return {
        cell: scale * jnp.where(mask[cell], jax.random.normal(cell_key, mask[cell].shape, jnp.float32), 0.0)
        for cell, cell_key in zip(space.cells, keys, strict=True)
    }


def mixture(space: CellSpace, alpha: Mapping[str, Array]) -> dict[str, Array]:
    """The weights of the operators on every edge: a softmax over the candidates left there.

        p[e, o] = exp(alpha[e, o]) / sum over o' on edge e of exp(alpha[e, o'])

    Args:
      space: the space of the supernet.
      alpha: for each cell, `[num_edges, num_ops]`; entries of operators that are not on the edge have no effect.

    Returns:
      For each cell, `[num_edges, num_ops]`: 0 where an operator is not on the edge, so all 0 on an absent one.

    Raises:
      ValueError: if the cells or shapes of `alpha` are not those of the space.
    """
    _check_shapes(space, alpha)
    mask = op_mask(space)
    return {cell: _masked_softmax(jnp.asarray(alpha[cell]), mask[cell]) for cell in space.cells}


def _check_shapes(space: CellSpace, table: Mapping[str, Array | np.ndarray]) -> None:
    shapes = {cell: jnp.shape(values) for cell, values in table.items()}
    needed = dict.fromkeys(space.cells, (space.num_edges, len(space.ops)))
    if shapes != needed:
        raise ValueError(f"alpha of shapes {shapes} is not of space {space.name!r}: give {needed}.")


def _masked_softmax(logits: Array, mask: np.ndarray) -> Array:
    # Both selections are needed: without the inner one the gradient is 0 * inf where an entry off the mask is large.
    present = mask.any(-1, keepdims=True)
    peak = jnp.where(present, jnp.max(logits, -1, keepdims=True, where=mask, initial=-jnp.inf), 0.0)
    powers = jnp.where(mask, jnp.exp(jnp.where(mask, logits - jax.lax.stop_gradient(peak), 0.0)), 0.0)
    return powers / jnp.where(present, powers.sum(-1, keepdims=True), 1.0)


def derive(space: CellSpace, scores: Mapping[str, Array | np.ndarray], *, without: Sequence[str] = ()) -> Array:
    """The architecture of the highest scores, whatever they are: mixture weights, raw alpha, accuracies.

    On every edge the best operator stands; of a node's edges the `space.kept` best stay (all of them, with None). Where
    edges are dropped, `none` is no candidate. Ties go to the first operator and to the first edge.

    Args:
      space: the space to choose in.
      scores: for each cell, `[num_edges, num_ops]`, larger is better, concrete.
      without: operators that must not be chosen.

    Returns:
      `[num_choices]` int32.

    Raises:
      ValueError: if the scores are not of the space's shapes, one is not a number, or `without` leaves too few edges.
    """
    _check_shapes(space, scores)
    table = {cell: np.asarray(values) for cell, values in scores.items()}
    for cell, values in table.items():
        if np.isnan(values[op_mask(space)[cell]]).any():
            raise ValueError(f"a score of cell {cell!r} is not a number: the search diverged, take an earlier alpha.")
    return jnp.asarray(
        [_best(space, decision, table[decision.cell], without) for decision in space.decisions], jnp.int32
    )


def _best(space: CellSpace, decision: Decision, scores: np.ndarray, without: Sequence[str]) -> int:
    ranked = []
    for row, ops in decision.candidates.items():
        allowed = [op for op in ops if op not in without]
        if allowed:
            best = max(allowed, key=lambda op: scores[row, space.ops.index(op)])  # the first of equals
            ranked.append((-scores[row, space.ops.index(best)], row, best))
    count = len(decision.placements[0])
    if len(ranked) < count:
        raise ValueError(
            f"without={tuple(without)} leaves nothing to choose for {decision.choice.name!r}: exclude fewer."
        )
    chosen = sorted((row, op) for _, row, op in sorted(ranked)[:count])
    return decision.placements.index(tuple(chosen))


def discretise(space: CellSpace, alpha: Mapping[str, Array], *, without: Sequence[str] = ()) -> Array:
    """The architecture that architecture parameters stand for: DARTS' rule, or NAS-Bench-201's argmax.

    With `space.kept` (DARTS): per edge the operator of largest mixture weight that is not `none`; per node the kept
    edges whose operators weigh most. `none` takes part in the softmax, so it weakens an edge without ever being chosen.
    With `space.kept` None (NAS-Bench-201): per edge the largest entry. This may choose `none` on every path (see
    `is_connected`); `without=("none",)` never does. Say in every table which of the two was used.

    Args:
      space: the space of the supernet.
      alpha: for each cell, `[num_edges, num_ops]`, concrete.
      without: operators that must not be chosen; they still take part in the softmax.

    Returns:
      `[num_choices]` int32. Ties go to the first operator and to the first edge.

    Raises:
      ValueError: if alpha is not that of the space, is not a number, or `without` leaves too few edges.

    References:
      Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, section 2.4.
      Dong, Yang, "NAS-Bench-201", ICLR 2020.
    """
    _check_shapes(space, alpha)
    scores = {}
    for cell, mask in op_mask(space).items():
        # Logarithms of the weights: the same order, and a weight that a dominant operator crushes to 0 keeps its place.
        logits = np.where(mask, np.asarray(alpha[cell], np.float64), -np.inf)
        with np.errstate(invalid="ignore"):  # infinities become not-a-number, which `derive` reports
            scores[cell] = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return derive(space, scores, without=without)


def one_hot_alpha(space: CellSpace, arch: Array) -> dict[str, Array]:
    """The mixture with which the supernet computes the network of `arch`: weight sharing, or features of a predictor.

    Traces under jit and vmap; the indices are not checked.

    Args:
      space: the space of the architecture.
      arch: `[num_choices]` int32.

    Returns:
      For each cell, float32 `[num_edges, num_ops]`: 1 where `arch` places an operator.
    """
    codes = jnp.asarray(arch, jnp.int32)
    mix = {cell: jnp.zeros((space.num_edges, len(space.ops)), jnp.float32) for cell in space.cells}
    for position, (cell, table) in enumerate(_placement_tables(space)):
        mix[cell] += jnp.asarray(table)[codes[position]]
    return mix


@functools.lru_cache(maxsize=32)
def _placement_tables(space: CellSpace) -> tuple[tuple[str, np.ndarray], ...]:
    tables = []
    for decision in space.decisions:
        table = np.zeros((len(decision.placements), space.num_edges, len(space.ops)), np.float32)
        for option, placed in enumerate(decision.placements):
            for row, op in placed:
                table[option, row, space.ops.index(op)] = 1.0
        tables.append((decision.cell, table))
    return tuple(tables)
