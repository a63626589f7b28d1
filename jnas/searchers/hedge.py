"""The network of adaptive depth: a head on every hidden layer, and a weight of each head learned online by hedging."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jnas.searchers.base import padded, padded_length
from jnas.searchers.predictor import Predictor, Records, Scale, scale_of, standardised
from jnas.types import Array, Key

# Bound of a gradient's norm. The publication has none; a first task whose features hardly vary leaves those of the next
# far from zero, and one step in them could then be the last.
CLIP = 10.0


class Layers(NamedTuple):
    """The weights of a network."""

    hidden: tuple[tuple[Array, Array], ...]  # of each hidden layer: [inputs, width] and [width]
    heads: tuple[tuple[Array, Array], ...]  # of each hidden layer: [width] and []


class Online(NamedTuple):
    """A network and what hedging made of its depths so far."""

    layers: Layers
    share: Array  # [num_layers], the weight of each head; they sum to 1
    square: Array  # [] running mean of the squared error made before learning from the record


class State(NamedTuple):
    """The state of the predictor: several networks, as one stacked tree."""

    nets: Online  # every leaf with a leading axis [num_members]
    scale: Scale
    error: float  # root mean squared error before learning, in units of y


def initialise(key: Key, num_features: int, *, width: int, depth: int, dtype=jnp.float32) -> Online:
    """A fresh network, He-initialised, with equal shares.

    Args:
      key: of the weights.
      num_features: inputs.
      width: of every hidden layer.
      depth: hidden layers, each with a head.
      dtype: of everything.

    Returns:
      The network.
    """
    keys = jax.random.split(key, 2 * depth)
    hidden, heads = [], []
    for layer in range(depth):
        inputs = num_features if layer == 0 else width
        spread = jnp.sqrt(jnp.asarray(2.0 / inputs, dtype))
        weight = spread * jax.random.normal(keys[2 * layer], (inputs, width), dtype)
        head = jax.random.normal(keys[2 * layer + 1], (width,), dtype) * jnp.asarray(width**-0.5, dtype)
        hidden.append((weight, jnp.zeros(width, dtype)))
        heads.append((head, jnp.zeros((), dtype)))
    share = jnp.full(depth, 1.0 / depth, dtype)
    return Online(Layers(tuple(hidden), tuple(heads)), share, jnp.ones((), dtype))


def outputs(layers: Layers, x: Array) -> Array:
    """What every head says of one record.

    Args:
      layers: the weights.
      x: `[num_features]`.

    Returns:
      `[num_layers]`.
    """
    state, said = x, []
    for (weight, bias), (head, offset) in zip(layers.hidden, layers.heads, strict=True):
        state = jax.nn.relu(state @ weight + bias)
        said.append(state @ head + offset)
    return jnp.stack(said)


def hedge(share: Array, losses: Array, *, discount: float, smoothing: float) -> Array:
    """The published update of the heads' shares.

    a_l <- max(a_l * b^{loss_l}, s / L), then divided by their sum: a head that errs loses weight exponentially, and
    none falls so far that it could not come back.

    Args:
      share: `[num_layers]`, positive.
      losses: `[num_layers]`, at least 0.
      discount: b in (0, 1).
      smoothing: s in [0, 1).

    Returns:
      `[num_layers]`, with the sum 1.

    Reference: Sahoo, Pham, Lu, Hoi, "Online deep learning: learning deep neural networks on the fly", IJCAI 2018.

    >>> after = hedge(jnp.array([0.5, 0.5]), jnp.array([0.0, 100.0]), discount=0.99, smoothing=0.2)
    >>> [f"{share:.3f}" for share in after]
    ['0.732', '0.268']
    """
    floor = jnp.asarray(smoothing / len(share), share.dtype)
    kept = jnp.maximum(share * jnp.asarray(discount, share.dtype) ** losses, floor)
    return kept / kept.sum()


def step(
    net: Online, x: Array, y: Array, *, learning_rate: float, discount: float, smoothing: float,
    memory: float = 0.98, clip: float = math.inf,
) -> Online:  # fmt: skip
    """Learn from one record: hedge back-propagation.

    Every head descends its own loss l_l = (f_l - y)^2, weighted by its share, and every hidden layer the sum of the
    weighted losses of the heads above it: the gradient of sum_l a_l l_l with the shares held. Then the shares change.

    Args:
      net: the network.
      x: `[num_features]`.
      y: `[]`.
      learning_rate: n.
      discount: b, see `hedge`.
      smoothing: s, see `hedge`.
      memory: of the running mean of squared errors.
      clip: bound of the norm of the gradient; infinite: none, as published.

    Returns:
      The network after it.
    """

    def total(layers):
        errors = outputs(layers, x) - y
        return jnp.sum(net.share * errors**2), errors

    gradient, errors = jax.grad(total, has_aux=True)(net.layers)
    norm = optax.tree.norm(gradient)
    rate = jnp.asarray(learning_rate, y.dtype) * jnp.minimum(1.0, clip / jnp.maximum(norm, 1e-12))
    keep = jnp.asarray(memory, y.dtype)
    return Online(
        jax.tree.map(lambda w, g: w - rate * g, net.layers, gradient),
        hedge(net.share, errors**2, discount=discount, smoothing=smoothing),
        keep * net.square + (1 - keep) * jnp.sum(net.share * errors) ** 2,
    )


def hedge_network(
    *,
    width: int = 64,
    depth: int = 4,
    learning_rate: float = 0.01,
    discount: float = 0.99,
    smoothing: float = 0.2,
    passes: int = 10,
    num_members: int = 3,
) -> Predictor:
    """A network whose depth adapts to how much is known: shallow heads lead at first, deep ones as records come in.

    F = sum_l a_l f_l. `fit` reads the records `passes` times, each time in a random order, `update` the new ones once,
    one by one: the only predictor here that learns without starting anew. The deviation of a prediction joins the
    disagreement of the heads and of the members with the error that the network made lately on records that it had
    not read yet; after several passes that error is the smaller for having read them before.

    Args:
      width: of a hidden layer.
      depth: hidden layers.
      learning_rate: n of the publication.
      discount: b of the publication.
      smoothing: s of the publication.
      passes: over the records of `fit`.
      num_members: networks from different starts, averaged.

    Returns:
      A predictor; it compiles once per power of two of records.

    Raises:
      ValueError: if a number is out of its range.

    Reference: Wang et al., "NASOA: Towards faster task-oriented online fine-tuning with a zoo of models", ICCV 2021.
    """
    for name, value in (("width", width), ("depth", depth), ("passes", passes), ("num_members", num_members)):
        if value < 1:
            raise ValueError(f"{name} is {value}: give at least 1.")
    if not (0 < discount < 1 and 0 <= smoothing < 1 and learning_rate > 0):
        raise ValueError(
            f"learning_rate={learning_rate}, discount={discount}, smoothing={smoothing}: "
            "give a positive rate, a discount in (0, 1) and a smoothing in [0, 1)."
        )
    one = functools.partial(step, learning_rate=learning_rate, discount=discount, smoothing=smoothing, clip=CLIP)

    @jax.jit
    def read(nets: Online, x: Array, y: Array, order: Array, mask: Array) -> Online:
        """Learn from the rows in an order of each member, `[num_members, n]`; rows outside the mask change nothing."""

        def member(net, order):
            def next_row(net, row):
                after = one(net, x[row], y[row])
                return jax.tree.map(lambda new, old: jnp.where(mask[row], new, old), after, net), None

            return jax.lax.scan(next_row, net, order)[0]

        return jax.vmap(member)(nets, order)

    def learn(nets: Online, scale: Scale, records: Records, orders: np.ndarray) -> Online:
        size = padded_length(len(records.y))
        both = standardised(scale, records.x), (records.y - scale.y_mean) / scale.y_std
        x, y = (jnp.asarray(padded(part, size), jnp.float32) for part in both)
        mask = jnp.arange(size) < len(records.y)
        rest = np.broadcast_to(np.arange(len(records.y), size), (*orders.shape[:2], size - len(records.y)))
        for order in np.concatenate([orders, rest], -1).astype(np.int32):
            nets = read(nets, x, y, jnp.asarray(order), mask)
        return nets

    def fit(records: Records, key: Key) -> State:
        scale = scale_of(records)
        weights_key, order_key = jax.random.split(key)
        start = functools.partial(initialise, num_features=records.x.shape[1], width=width, depth=depth)
        nets = jax.vmap(start)(jax.random.split(weights_key, num_members))
        random = np.random.default_rng(int(jax.random.randint(order_key, (), 0, 2**31 - 1)))
        orders = random.permuted(
            np.broadcast_to(np.arange(len(records.y)), (passes, num_members, len(records.y))), axis=-1
        )
        return _state(learn(nets, scale, records, orders), scale)

    def predict(state: State, x) -> tuple[np.ndarray, np.ndarray]:
        size = padded_length(len(x))
        rows = jnp.asarray(padded(standardised(state.scale, x), size), jnp.float32)
        mean, std = (np.asarray(part, np.float64)[: len(x)] for part in _said(state.nets, rows))
        return state.scale.y_mean + state.scale.y_std * mean, np.hypot(state.scale.y_std * std, state.error)

    def update(state: State, new: Records, key: Key) -> State:
        del key  # they are read in the order in which they came
        order = np.broadcast_to(np.arange(len(new.y)), (1, num_members, len(new.y)))
        return _state(learn(state.nets, state.scale, new, order), state.scale)

    return Predictor(fit, predict, update)


@jax.jit
def _said(nets: Online, x: Array) -> tuple[Array, Array]:
    each = jax.vmap(lambda net: jax.vmap(functools.partial(outputs, net.layers))(x))(nets)  # [members, m, layers]
    mean = jnp.einsum("kml,kl->km", each, nets.share)
    spread = jnp.einsum("kml,kl->km", (each - mean[..., None]) ** 2, nets.share)
    return mean.mean(0), jnp.sqrt(spread.mean(0) + mean.var(0))


def _state(nets: Online, scale: Scale) -> State:
    return State(nets, scale, scale.y_std * float(np.sqrt(np.asarray(nets.square, np.float64).mean())))


def shares(state: Any) -> np.ndarray:
    """The mean share of each depth over the members, `[num_layers]`: which depth the records favour."""
    return np.asarray(state.nets.share, np.float64).mean(0)
