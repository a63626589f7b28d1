"""Functions of alpha alone that steer a search, beta-decay and entropy, for any estimator and momentum."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jnas.types import Alpha, Array, Aux, Batch, Context, Loss, PyTree, Weights

Penalty = Callable[[Alpha], Array]  # alpha -> [] float
Weight = float | optax.Schedule


def beta_decay(mask: PyTree | None = None) -> Penalty:
    """`R(a) = mean over edges of log sum_o exp(a[edge, o])`: a smooth maximum, which keeps alphas from running away.

    Its gradient is the softmax of the edge over the number of edges: the operator that weighs most is pulled down most.
    One line, and among the strongest remedies against searches that end in skip connections.

    Args:
      mask: bool, the structure of alpha: which operators are candidates; None: all. Edges without any do not count.

    Returns:
      A penalty of any tree of `[num_edges, num_ops]` arrays, for `add_penalty` or `penalised`. The published weight is
      `50 * epoch / 100`: `optax.linear_schedule(0, 0.5 * epochs, epochs * steps_per_epoch)`.

    >>> import jax.numpy as jnp
    >>> beta_decay()({"cell": jnp.zeros((3, 4))})  # log 4
    Array(1.3862944, dtype=float32)

    References:
      Ye et al., "Beta-DARTS: beta-decay regularization for differentiable architecture search", CVPR 2022.
    """
    return lambda alpha: _edge_mean(lambda logits: jax.nn.logsumexp(logits, -1), alpha, mask)


def entropy(mask: PyTree | None = None) -> Penalty:
    """`R(a) = mean over edges of -sum_o p_o log p_o`, `p = softmax(a[edge])`, in nats.

    With a positive weight mixtures become decisions, so that little changes when the architecture is derived; with a
    negative one they stay open, which suits the start of a search. A schedule may go from one to the other.

    Args:
      mask: see `beta_decay`.

    Returns:
      A penalty, for `add_penalty` or `penalised`.
    """

    def of_edges(logits: Array) -> Array:
        logs = jax.nn.log_softmax(logits, -1)
        finite = jnp.isfinite(logs)
        return -jnp.sum(jnp.where(finite, jnp.exp(logs) * jnp.where(finite, logs, 0.0), 0.0), -1)

    return lambda alpha: _edge_mean(of_edges, alpha, mask)


def _edge_mean(of_edges: Callable[[Array], Array], alpha: Alpha, mask: PyTree | None) -> Array:
    # Leaf by leaf, so that the tree may be alpha, or a point in which `optax.partition` left nothing else.
    leaves = jax.tree.leaves(alpha)
    masks = [jnp.ones(leaf.shape, bool) for leaf in leaves] if mask is None else jax.tree.leaves(mask)
    total, count = jnp.zeros((), leaves[0].dtype), 0
    for leaf, candidates in zip(leaves, map(jnp.asarray, masks), strict=True):
        present = candidates.any(-1)
        # An edge without candidates gets harmless zeros: a logsumexp over nothing has no derivative.
        logits = jnp.where(candidates, leaf, jnp.where(present[..., None], -jnp.inf, 0.0).astype(leaf.dtype))
        total = total + jnp.sum(jnp.where(present, of_edges(logits), 0.0))
        count = count + jnp.sum(present)
    return total / jnp.maximum(count, 1).astype(total.dtype)


class PenaltyState(NamedTuple):
    """The state of `add_penalty`."""

    count: Array  # [] int32, updates so far


def add_penalty(penalty: Penalty, weight: Weight) -> optax.GradientTransformation:
    """Adds `weight * grad R(a)` to the direction: with every estimator the same as adding `weight * R(a)` to L_val.

    For R depends on alpha alone, so that only the direct part of a hypergradient knows of it. Put it into the chain of
    alpha behind `storm` or `moving_average`: a part of the gradient that is known exactly needs no averaging.

        optax.partition({"weights": ..., "alpha": optax.chain(add_penalty(beta_decay(), 5.0), optax.adam(3e-4))}, ...)

    Args:
      penalty: such as `beta_decay()`.
      weight: a number, or a schedule over updates.

    Returns:
      A transformation that needs the parameters.
    """

    def start(params) -> PenaltyState:
        del params
        return PenaltyState(jnp.zeros((), jnp.int32))

    def update(updates, state: Any, params=None):
        if params is None:
            raise ValueError("add_penalty: params is None; pass the parameters to update.")
        scale = weight(state.count) if callable(weight) else weight
        slopes = jax.grad(penalty)(params)
        updates = jax.tree.map(lambda u, slope: u + jnp.asarray(scale, u.dtype) * slope, updates, slopes)
        return updates, PenaltyState(jnp.asarray(optax.safe_increment(state.count)))

    return optax.GradientTransformation(start, update)


def penalised(loss: Loss, penalty: Penalty, weight: float) -> Loss:
    """`loss + weight * R(a)`: for a search on one level, or as the outer loss of a problem.

        problem._replace(outer=penalised(problem.outer, beta_decay(), 5.0))

    Args:
      loss: of any level.
      penalty: such as `beta_decay()`.
      weight: constant; for a schedule see `add_penalty`.

    Returns:
      A loss whose metrics have `penalty`, unweighted, in addition.
    """

    def total(weights: Weights, alpha: Alpha, batch: Batch, context: Context) -> tuple[Array, Aux]:
        value, aux = loss(weights, alpha, batch, context)
        extra = penalty(alpha)
        return value + jnp.asarray(weight, value.dtype) * extra, aux._replace(metrics={**aux.metrics, "penalty": extra})

    return total
