"""The recurrent network of a controller: an LSTM over the choices of a space, its weights one flat vector."""

import jax
import jax.numpy as jnp
import numpy as np

from jnas.types import Array, Key

Shapes = dict[str, tuple[int, ...]]


def _shapes(bounds: tuple[int, ...], hidden: int) -> Shapes:
    widest, count = max(bounds), len(bounds)
    return {
        "lstm": (2 * hidden + 1, 4 * hidden),  # from the embedding, the last output and 1, to the four gates
        "begin": (hidden,),  # what the first step reads
        "embedding": (count, widest, hidden),  # of the option chosen before
        "head": (count, hidden + 1, widest),
    }


def num_parameters(bounds: tuple[int, ...], hidden: int) -> int:
    """Numbers in the flat vector.

    >>> num_parameters((2, 3), 4)
    202
    """
    return sum(int(np.prod(shape)) for shape in _shapes(bounds, hidden).values())


def start(key: Key, bounds: tuple[int, ...], hidden: int) -> Array:
    """Initial weights, uniform on +-0.1 as in the published controllers: every choice begins nearly uniform."""
    return jax.random.uniform(key, (num_parameters(bounds, hidden),), jnp.float32, -0.1, 0.1)


def log_probability(parameters: Array, codes: Array, bounds: tuple[int, ...], hidden: int) -> tuple[Array, Array]:
    """How likely the controller is to write architectures.

    Args:
      parameters: `[num_parameters]`.
      codes: `[n, num_choices]` int32.
      bounds: options of each choice.
      hidden: units of the LSTM.

    Returns:
      `[n]` log-probabilities in nats, and `[n]` sums over the choices of the entropy that the controller had there.
    """
    _, logs, entropies = jax.vmap(lambda code: _run(parameters, bounds, hidden, code, None))(codes)
    return logs, entropies


def write(parameters: Array, key: Key, *, num: int, bounds: tuple[int, ...], hidden: int) -> Array:
    """Architectures drawn from the controller.

    Args:
      parameters: `[num_parameters]`.
      key: of the draws.
      num: how many.
      bounds: options of each choice.
      hidden: units of the LSTM.

    Returns:
      `[num, num_choices]` int32.
    """
    return jax.vmap(lambda k: _run(parameters, bounds, hidden, None, k)[0])(jax.random.split(key, num))


def _run(parameters: Array, bounds: tuple[int, ...], hidden: int, code: Array | None, key: Key | None):
    """One architecture: that of `code`, or drawn by `key`; its code, log-probability and entropy."""
    weights, at = {}, 0
    for name, shape in _shapes(bounds, hidden).items():
        end = at + int(np.prod(shape))
        weights[name], at = parameters[at:end].reshape(shape), end
    there = jnp.asarray(np.arange(max(bounds))[None] < np.array(bounds)[:, None])
    count, one = len(bounds), jnp.ones(1)

    def step(carry, now):
        x, output, cell = carry
        given, draw, table, head, mask = now
        gates = jnp.concatenate([x, output, one]) @ weights["lstm"]
        into, keep, out, new = jnp.split(gates, 4)
        cell = jax.nn.sigmoid(keep) * cell + jax.nn.sigmoid(into) * jnp.tanh(new)
        output = jax.nn.sigmoid(out) * jnp.tanh(cell)
        logits = jnp.where(mask, jnp.concatenate([output, one]) @ head, -1e9)
        logs = jax.nn.log_softmax(logits)
        option = jax.random.categorical(draw, logits).astype(jnp.int32) if code is None else given
        finite = jnp.where(mask, logs, jnp.zeros_like(logs))
        entropy = -jnp.sum(jnp.exp(finite) * finite * mask.astype(logs.dtype))
        return (table[option], output, cell), (option, finite[option], entropy)

    given = jnp.zeros(count, jnp.int32) if code is None else code
    keys = jax.random.split(jax.random.key(0) if key is None else key, count)
    zeros = jnp.zeros(hidden)
    along = (given, keys, weights["embedding"], weights["head"], there)
    _, (options, logs, entropies) = jax.lax.scan(step, (weights["begin"], zeros, zeros), along)
    return options, jnp.sum(logs), jnp.sum(entropies)
