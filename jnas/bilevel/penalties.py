"""Functions of alpha alone that steer a search, such as beta-decay, for any estimator and momentum."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jnas.types import Alpha, Array, PyTree

Penalty = Callable[[Alpha], Array]  # alpha -> [] float
Weight = float | optax.Schedule


def beta_decay(mask: PyTree | None = None) -> Penalty:
    """`R(a) = mean over edges of log sum_o exp(a[edge, o])`: a smooth maximum, which keeps alphas from running away.

    Its gradient is the softmax of the edge over the number of edges: the operator that weighs most is pulled down most.
    One line, and among the strongest remedies against searches that end in skip connections.

    Args:
      mask: bool, the structure of alpha: which operators are candidates; None: all. Edges without any do not count.

    Returns:
      A penalty of any tree of `[num_edges, num_ops]` arrays, for `add_penalty`. The published weight is
      `50 * epoch / 100`: `optax.linear_schedule(0, 0.5 * epochs, epochs * steps_per_epoch)`.

    >>> import jax.numpy as jnp
    >>> beta_decay()({"cell": jnp.zeros((3, 4))})  # log 4
    Array(1.3862944, dtype=float32)

    References:
      Ye et al., "Beta-DARTS: beta-decay regularization for differentiable architecture search", CVPR 2022.
    """

    def edge_mean(alpha: Alpha) -> Array:
        # Leaf by leaf, so that the tree may be alpha, or a point in which `optax.partition` left nothing else.
        leaves = jax.tree.leaves(alpha)
        masks = [jnp.ones(leaf.shape, bool) for leaf in leaves] if mask is None else jax.tree.leaves(mask)
        total, count = jnp.zeros((), leaves[0].dtype), 0
        for leaf, candidates in zip(leaves, map(jnp.asarray, masks), strict=True):
            present = candidates.any(-1)
            # An edge without candidates gets harmless zeros: a logsumexp over nothing has no derivative.
            logits = jnp.where(candidates, leaf, jnp.where(present[..., None], -jnp.inf, 0.0).astype(leaf.dtype))
            total = total + jnp.sum(jnp.where(present, jax.nn.logsumexp(logits, -1), 0.0))
            count = count + jnp.sum(present)
        return total / jnp.maximum(count, 1).astype(total.dtype)

    return edge_mean


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

    def start(params) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(updates, state: Any, params=None):
        if params is None:
            raise ValueError("add_penalty: params is None; pass the parameters to update.")
        scale = weight(state.count) if callable(weight) else weight
        slopes = jax.grad(penalty)(params)
        updates = jax.tree.map(lambda u, slope: u + jnp.asarray(scale, u.dtype) * slope, updates, slopes)
        return updates, optax.ScaleByScheduleState(jnp.asarray(optax.safe_increment(state.count)))

    return optax.GradientTransformation(start, update)
