"""Candidates that share weights: a supernet trained on random architectures and policies, and what it says of each."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnas import data, nets, spaces
from jnas.nets.quant.units import Units, rules
from jnas.recipes.classification import accuracy, cross_entropy
from jnas.recipes.joint.sensitivity import correct_answers
from jnas.spaces.cell import CellSpace
from jnas.spaces.policy import Method, PolicySpace
from jnas.types import Array, Aux, Context, Examples, Loss, PyTree


class Placements(NamedTuple):
    """What each option of each choice puts on the edges, as arrays that a traced architecture can index."""

    cells: tuple[str, ...]
    tables: tuple[np.ndarray, ...]  # for each choice `[num_options, num_cells, num_edges, num_ops]` float32


def placements(space: CellSpace) -> Placements:
    """The placements of a space."""
    tables = []
    for decision in space.decisions:
        shape = (len(decision.placements), len(space.cells), space.num_edges, len(space.ops))
        table = np.zeros(shape, np.float32)
        for option, placed in enumerate(decision.placements):
            for row, op in placed:
                table[option, space.cells.index(decision.cell), row, space.ops.index(op)] = 1
        tables.append(table)
    return Placements(space.cells, tuple(tables))


def mix_of(of: Placements, arch: Array) -> dict[str, Array]:
    """The mixture with one operator on each chosen edge, for a traced `arch` [num_choices] int32."""
    whole = sum((jnp.asarray(table)[arch[n]] for n, table in enumerate(of.tables)), jnp.zeros(of.tables[0].shape[1:]))
    return {cell: whole[n] for n, cell in enumerate(of.cells)}


def single_path(net: nets.Network, of: Units, policies: PolicySpace, space: CellSpace) -> Loss:
    """The loss of a supernet that has one uniformly random architecture and one random policy at every step.

    One program serves them all: the operators not drawn are multiplied by 0.

    Args:
      net: a supernet.
      of: its units, in the order of the policy's.
      policies: from which a step draws.
      space: from which a step draws, of the operators of `net`.

    Returns:
      A loss over `Examples`; its alpha is the empty pytree.

    References:
      Guo et al., "Single path one-shot neural architecture search with uniform sampling", ECCV 2020.
    """
    places = placements(space)
    widest = max(map(len, policies.allowed))
    codes = np.minimum(np.arange(widest), np.array([len(left) - 1 for left in policies.allowed])[:, None])
    allowed = policies.columns(codes.T).T  # [num_units, widest]
    counts = np.array([len(left) for left in policies.allowed], np.int32)

    def loss(weights, alpha, batch: Examples, context: Context):
        del alpha
        arch_key, policy_key = jax.random.split(jax.random.key(0) if context.key is None else context.key)
        mix = mix_of(places, spaces.sample(space, arch_key, 1)[0])
        drawn = jax.random.randint(policy_key, counts.shape, 0, counts, jnp.int32)
        columns = jnp.asarray(allowed)[np.arange(len(counts)), drawn]
        quant = rules(of, policies.methods, columns)
        logits, updated = net.apply(
            {"params": weights, "batch_stats": context.variables, "quant": quant},
            batch.image, mix, train=True, mutable=["batch_stats"],
        )  # fmt: skip
        metrics = {"accuracy": accuracy(logits.main, batch.label)}
        return cross_entropy(logits.main, batch.label), Aux(updated["batch_stats"], metrics)

    return loss


def judge(
    net: nets.Network,
    variables: PyTree,
    of: Units,
    methods: Sequence[Method],
    space: CellSpace,
    validation: data.Dataset,
    augment: data.Augment,
    *,
    at_once: int | None = None,
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Accuracy of candidates with the supernet's weights, normalised by the statistics of the validation images.

    Args:
      net: the supernet.
      variables: `params` and `batch_stats`.
      of: its units.
      methods: what policies index.
      space: of the architectures.
      validation: all of it is one batch.
      augment: its normalisation is used and nothing else of it.
      at_once: see `correct_answers`.

    Returns:
      `(archs [n, num_choices], columns [n, num_units]) -> [n]`; each n compiles once.
    """
    image = data.augment(augment, None, jnp.asarray(validation.images), validation.shape)
    labels = jnp.asarray(validation.labels)
    run = correct_answers(net, of, methods, batch_statistics=True, at_once=at_once)
    places = placements(space)
    mixes = jax.jit(jax.vmap(lambda arch: mix_of(places, arch)))

    def score(archs: np.ndarray, columns: np.ndarray) -> np.ndarray:
        counts = run(variables, mixes(np.asarray(archs, np.int32)), np.asarray(columns, np.int32), image, labels)
        return np.asarray(counts) / len(validation)

    return score
