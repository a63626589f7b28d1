"""A small noisy regression by SGD with momentum, whose state holds one leaf of each awkward kind."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jnas.types import Batches, Learner, Source

KEY = jax.random.key(3)
BATCH, EPOCH = 8, 8  # examples a batch, batches an epoch


class State(NamedTuple):
    params: dict[str, jax.Array]
    momentum: optax.OptState
    count: jax.Array  # [] int32
    average: jax.Array  # [4] bfloat16: a running mean of the weights
    key: jax.Array  # [] key: of the last step
    nothing: jax.Array  # [0, 3]


def loss_fn(params, batch):
    return jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2)


def make_learner(*, spoil=None, traces=None):
    """`spoil(count, params, loss)` may change what a step returns; `traces` grows by one each time update is traced."""
    tx = optax.sgd(0.05, momentum=0.9)

    def init(key):
        params = {"w": jax.random.uniform(key, (4,)), "b": jnp.zeros(())}
        return State(params, tx.init(params), jnp.int32(0), jnp.zeros(4, jnp.bfloat16), key, jnp.zeros((0, 3)))

    def update(state, batch, key):
        if traces is not None:
            traces.append(None)
        terms = [batch] if not isinstance(batch, Batches) else [batch.inner, batch.outer]
        if isinstance(batch, Batches) and batch.further is not None:
            terms += [jax.tree.map(lambda leaf, i=i: leaf[i], batch.further) for i in range(2)]
        loss, grad = jax.value_and_grad(lambda params: sum(loss_fn(params, term) for term in terms))(state.params)
        grad["w"] += 0.1 * jax.random.uniform(key, (4,), minval=-1.0)
        updates, momentum = tx.update(grad, state.momentum)
        params = optax.apply_updates(state.params, updates)
        if spoil is not None:
            params, loss = spoil(state.count, params, loss)
        average = state.average + (params["w"].astype(jnp.bfloat16) - state.average) / 4
        return State(params, momentum, state.count + 1, average, key, state.nothing), {
            "loss": loss,
            "norm": optax.tree.norm(grad),
        }

    return Learner(init, update)


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * EPOCH, 4)).astype(np.float32)
    return {"x": x, "y": (x @ np.array([1.0, -2.0, 0.5, 3.0]) + 0.1 * rng.normal(size=len(x))).astype(np.float32)}


def rows(step, key):
    """Which examples a step reads: an order an epoch, here a rotation, which compiles faster than a permutation."""
    shift = jax.random.bits(jax.random.fold_in(key, step // EPOCH), dtype=jnp.uint8).astype(jnp.int32)
    return (shift + step % EPOCH * BATCH + jnp.arange(BATCH)) % (BATCH * EPOCH)


def resident():
    return Source(lambda arrays, step, key: jax.tree.map(lambda a: a[rows(step, key)], arrays), data())


def leaves_as_bytes(state):
    """Every leaf of a state as bytes, for a comparison to the last bit."""
    key_data = lambda a: jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a
    return [np.asarray(key_data(leaf)).tobytes() for leaf in jax.tree.leaves(state)]
