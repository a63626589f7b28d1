"""Candidates that share weights: a supernet trained on random architectures and policies, and what it says of each."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jnas import data, spaces
from jnas.nets.chain import ChainNetwork, FoundNetwork
from jnas.nets.quant.units import Units, rules
from jnas.recipes.classification import training_loss
from jnas.spaces import networks
from jnas.spaces.networks import NetworkSpace
from jnas.spaces.policy import Method, PolicySpace
from jnas.types import Array, Context, Examples, Loss, PyTree, Source


def single_path(net: FoundNetwork, of: Units, policies: PolicySpace, space: NetworkSpace) -> Loss:
    """The loss of a supernet that has one uniformly random architecture and one random policy at every step.

    One program serves them all.

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
    widest = max(map(len, policies.allowed))
    codes = np.minimum(np.arange(widest), np.array([len(left) - 1 for left in policies.allowed])[:, None])
    allowed = policies.columns(codes.T).T  # [num_units, widest]
    counts = np.array([len(left) for left in policies.allowed], np.int32)

    def loss(weights, alpha, batch: Examples, context: Context):
        arch_key, policy_key = jax.random.split(jax.random.key(0) if context.key is None else context.key)
        mix = networks.one_hot(space, spaces.sample(space, arch_key, 1)[0])
        drawn = jax.random.randint(policy_key, counts.shape, 0, counts, jnp.int32)
        columns = jnp.asarray(allowed)[np.arange(len(counts)), drawn]
        quant = rules(of, policies.methods, columns)
        return training_loss(net, {"params": weights, "quant": quant}, batch, context, mix)

    return loss


Score = Literal["probability", "accuracy"]


class Tuning(NamedTuple):
    """How a candidate is trained before it is scored."""

    steps: int
    optimiser: optax.GradientTransformation
    source: Source  # of `Examples`


def judge(
    net: FoundNetwork,
    variables: PyTree,
    of: Units,
    methods: Sequence[Method],
    space: NetworkSpace,
    validation: data.Dataset,
    augment: data.Augment,
    *,
    by: Score = "probability",
    at_once: int | None = None,
    tuning: Tuning | None = None,
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """What candidates score with the supernet's weights, normalised by the statistics of the validation images.

    The probability that the network gives to the true class, its mean over the images, is the accuracy of one that
    draws its answers; from so few images it ranks candidates better than the share of those that are right.

    With `tuning` each candidate is first trained from those weights under its policy, all on the same batches.

    Args:
      net: the supernet.
      variables: `params` and `batch_stats`.
      of: its units.
      methods: what policies index.
      space: of the architectures.
      validation: all of it is one batch.
      augment: its normalisation is used and nothing else of it.
      by: "probability" of the true class, or "accuracy".
      at_once: candidates computed together; the others wait in a loop of the same program. None: all. Those that are
        trained are computed one by one.
      tuning: how candidates are trained; None: not at all.

    Returns:
      `(archs [n, num_choices], columns [n, num_units]) -> [n]`; each n compiles once.
    """
    if tuning is None and not isinstance(
        net, ChainNetwork
    ):  # several at a time would compute every operator of a switch
        net = net.clone(edge_strategy="scan")
    image = data.augment(augment, None, jnp.asarray(validation.images), validation.shape)
    labels = jnp.asarray(validation.labels)
    mixes = jax.jit(jax.vmap(lambda arch: networks.one_hot(space, arch)))

    @jax.jit
    def summed(variables: PyTree, mixes: PyTree, columns: Array, image: Array, labels: Array, arrays: PyTree) -> Array:
        def one(candidate) -> Array:
            mix, policy = candidate
            quant = rules(of, methods, policy)
            own = variables if tuning is None else _tuned(net, variables, quant, mix, tuning, arrays)
            logits: Any
            logits, _ = net.apply({**own, "quant": quant}, image, mix, train=True, mutable=["batch_stats"])
            if by == "accuracy":
                return jnp.sum((jnp.argmax(logits.main, -1) == labels).astype(jnp.int32))
            return jnp.sum(jnp.take_along_axis(jax.nn.softmax(logits.main), labels[:, None], axis=-1))

        if tuning is None and (at_once is None or at_once >= len(columns)):
            return jax.vmap(one)((mixes, columns))
        return jax.lax.map(one, (mixes, columns), batch_size=at_once if tuning is None else None)

    arrays = () if tuning is None else tuning.source.arrays

    def score(archs: np.ndarray, columns: np.ndarray) -> np.ndarray:
        chosen = mixes(np.asarray(archs, np.int32)), np.asarray(columns, np.int32)
        return np.asarray(summed(variables, *chosen, image, labels, arrays)) / len(validation)

    return score


def _tuned(net: FoundNetwork, variables: PyTree, quant: PyTree, mix: PyTree, tuning: Tuning, arrays: PyTree) -> PyTree:
    """The weights after the steps of one candidate under its rules."""
    key = jax.random.key(0)

    def step(carry, now):
        params, stats, state = carry
        batch = tuning.source.batch(arrays, now, key)
        loss = lambda params: training_loss(net, {"params": params, "quant": quant}, batch, Context(stats), mix)
        gradient, aux = jax.grad(loss, has_aux=True)(params)
        updates, state = tuning.optimiser.update(gradient, state, params)
        return (optax.apply_updates(params, updates), aux.variables, state), None

    begin = variables["params"], variables["batch_stats"], tuning.optimiser.init(variables["params"])
    (params, stats, _), _ = jax.lax.scan(step, begin, jnp.arange(tuning.steps, dtype=jnp.int32))
    return {"params": params, "batch_stats": stats}
