"""A recurrent controller that writes architectures choice by choice and learns from their scores by policy gradient."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jnas.searchers.base import Searcher, complete, no_observations, padded_length, record
from jnas.spaces.base import Space, num_options
from jnas.types import Array, Key


def _shapes(bounds: tuple[int, ...], hidden: int) -> tuple[tuple[int, ...], ...]:
    widest, count = max(bounds), len(bounds)
    return (
        (2 * hidden + 1, 4 * hidden),  # of the LSTM: from the embedding, the last output and 1, to the four gates
        (hidden,),  # of what the first step reads
        (count, widest, hidden),  # of the embedding of the option chosen before
        (count, hidden + 1, widest),  # of the head
    )


def start(key: Key, bounds: tuple[int, ...], hidden: int) -> Array:
    """Initial weights, uniform on +-0.1 as in the published controllers: every choice begins nearly uniform.

    >>> start(jax.random.key(0), (2, 3), 4).shape
    (202,)
    """
    count = sum(math.prod(shape) for shape in _shapes(bounds, hidden))
    return jax.random.uniform(key, (count,), jnp.float32, -0.1, 0.1)


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
    shapes = _shapes(bounds, hidden)
    parts = jnp.split(parameters, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
    lstm, begin, embedding, heads = (part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
    there = jnp.asarray(np.arange(max(bounds))[None] < np.array(bounds)[:, None])
    count, one = len(bounds), jnp.ones(1)

    def step(carry, now):
        x, output, cell = carry
        given, draw, table, head, mask = now
        gates = jnp.concatenate([x, output, one]) @ lstm
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
    along = (given, keys, embedding, heads, there)
    _, (options, logs, entropies) = jax.lax.scan(step, (begin, zeros, zeros), along)
    return options, jnp.sum(logs), jnp.sum(entropies)


CLIP = 5.0  # largest norm of a gradient
DRAWN = 8  # architectures written for each one asked, of which the first new ones are taken


class ControllerState(NamedTuple):
    """What was told, and the controller that learned from it; on the host, like `Observations`."""

    codes: np.ndarray  # [capacity, num_choices] int32; rows from `count` on are 0
    values: np.ndarray  # [capacity] float64, NaN: not known
    count: int
    parameters: np.ndarray  # [num_parameters] float32
    optimiser: optax.OptState
    batches: int  # that steps were taken for
    baseline: float  # running mean of scores
    spread: float  # running mean square of scores around it
    waiting: np.ndarray  # [n, num_choices] int32, told since the last step, fewer than a batch
    scores: np.ndarray  # [n] float64, of those
    best: np.ndarray  # [at most queue, num_choices] int32, the best that steps were taken for, the best first
    best_scores: np.ndarray  # [at most queue] float64, of those

    @property
    def known(self) -> np.ndarray:
        """`[capacity]` bool, the rows that have a value."""
        return np.isfinite(self.values)


def reinforce(
    space: Space,
    *,
    batch_size: int = 10,
    hidden: int = 100,
    learning_rate: float = 1e-4,
    repeats: int = 1,
    entropy: float = 1e-3,
    queue: int = 0,
    imitation: float = 1.0,
    baseline_decay: float = 0.99,
    seed: int = 0,
) -> Searcher:
    r"""An LSTM of one layer that draws each choice knowing those before, trained by REINFORCE.

        b <- decay b + (1 - decay) r, before it is used;   A = (r - b) / s
        step along the mean over the batch of  A grad log p(arch) + entropy grad H

    with r the score, s the root mean square of r - b, and H the summed entropy of the choices along the architecture;
    Adam, its gradient cut to norm 5. The published controllers do without s: it makes the weight of the entropy
    mean the same for scores of any scale, and the baseline starts at the first batch's mean, not at 0.

    With a `queue` the controller also imitates the best architectures so far, as in priority queue training: to the
    gradient comes `imitation` times that of their mean log-probability. A good one that was met once is then not lost
    while others are tried.

    The state is a function of what was told and in which order: a step is taken whenever a batch of scores is complete,
    however they were grouped in calls. Only architectures that were not told before are asked, so that a controller
    that has settled is asked for its next likely ones, and the gradient is that of the architectures evaluated, not of
    all that it would write.

    Args:
      space: any space.
      batch_size: scores a step.
      hidden: units of the LSTM, and length of its embeddings.
      learning_rate: of Adam. The published 1e-4 is meant for thousands of evaluations.
      repeats: steps along the same batch; the published controllers take one. With more, the ratio of the new
        probability to that under which the batch began is cut to 0.8 .. 1.2, as in proximal policy optimisation.
      entropy: weight of the entropy.
      queue: how many of the best are imitated; the published controllers do without.
      imitation: weight of that.
      baseline_decay: of the running mean.
      seed: of the controller's initial weights.

    Returns:
      The searcher.

    Raises:
      ValueError: if a number is out of its range.

    References: Zoph, Le, "Neural architecture search with reinforcement learning", ICLR 2017; Pham et al., "Efficient
    neural architecture search via parameter sharing", ICML 2018; Schulman et al., "Proximal policy optimization
    algorithms", 2017 (the ratio); Abolafia et al., "Neural program synthesis with priority queue training", 2018.
    """
    whole = (("batch_size", batch_size, 1), ("hidden", hidden, 1), ("repeats", repeats, 1), ("queue", queue, 0))
    for name, value, least in whole:
        if value < least:
            raise ValueError(f"{name} is {value}: give at least {least}.")
    if learning_rate <= 0 or min(entropy, imitation) < 0 or not 0 <= baseline_decay < 1:
        raise ValueError(
            f"learning_rate={learning_rate}, entropy={entropy}, imitation={imitation}, baseline_decay="
            f"{baseline_decay}: the first must be positive, the next two at least 0, the last from 0 to below 1."
        )
    bounds = tuple(num_options(space).tolist())
    initial = np.asarray(start(jax.random.key(seed), bounds, hidden))
    adam = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(learning_rate))
    step = _step_of(adam, bounds, hidden, repeats, entropy, imitation)
    draw = jax.jit(functools.partial(write, bounds=bounds, hidden=hidden), static_argnames="num")

    def init():
        return ControllerState(
            *no_observations(space), initial, adam.init(initial), 0, 0.0, 0.0,
            np.zeros((0, len(bounds)), np.int32), np.zeros(0), np.zeros((0, len(bounds)), np.int32), np.zeros(0),
        )  # fmt: skip

    def ask(state, key, num):
        key_draw, key_rest = jax.random.split(key)
        written = draw(state.parameters, key_draw, num=padded_length(DRAWN * num))
        return complete(space, state, key_rest, num, np.asarray(written))

    def tell(state, codes, values):
        codes, values = np.asarray(codes, np.int32), np.asarray(values, np.float64)
        observed = record(space, state, codes, values)
        waiting = np.concatenate([state.waiting, codes[np.isfinite(values)]])
        scores = np.concatenate([state.scores, values[np.isfinite(values)]])
        parameters, optimiser, batches = state.parameters, state.optimiser, state.batches
        baseline, spread, best, best_scores = state.baseline, state.spread, state.best, state.best_scores
        while len(scores) >= batch_size:
            batch, waiting = waiting[:batch_size], waiting[batch_size:]
            reward, scores = scores[:batch_size], scores[batch_size:]
            keep = baseline_decay if batches else 0.0
            baseline = keep * baseline + (1 - keep) * float(np.mean(reward))
            spread = keep * spread + (1 - keep) * float(np.mean((reward - baseline) ** 2))
            advantages = ((reward - baseline) / (np.sqrt(spread) or 1.0)).astype(np.float32)
            best, best_scores = np.concatenate([best, batch]), np.append(best_scores, reward)
            order = np.argsort(-best_scores, kind="stable")[:queue]
            best, best_scores = best[order], best_scores[order]
            imitated = np.resize(best, (queue, len(bounds)))  # of few, some twice
            parameters, optimiser = jax.device_get(step(parameters, optimiser, batch, advantages, imitated))
            batches += 1
        return ControllerState(
            *observed, parameters, optimiser, batches, baseline, spread, waiting, scores, best, best_scores
        )

    return Searcher(init, ask, tell)


def _step_of(adam: optax.GradientTransformation, bounds, hidden: int, repeats: int, entropy: float, imitation: float):
    """Compiled: `repeats` steps along one batch, and along the best so far if there are any."""

    def loss(parameters, codes, advantages, before, best):
        logs, entropies = log_probability(parameters, codes, bounds, hidden)
        ratio = jnp.exp(logs - before)
        gain = jnp.minimum(ratio * advantages, jnp.clip(ratio, 0.8, 1.2) * advantages)
        value = -jnp.mean(gain) - entropy * jnp.mean(entropies)
        if len(best):
            value -= imitation * jnp.mean(log_probability(parameters, best, bounds, hidden)[0])
        return value

    @jax.jit
    def step(parameters, optimiser, codes, advantages, best):
        before = log_probability(parameters, codes, bounds, hidden)[0]

        def one(carry, _):
            parameters, optimiser = carry
            gradient = jax.grad(loss)(parameters, codes, advantages, before, best)
            with jax.numpy_dtype_promotion("standard"):  # optax raises decays to the power of a count
                updates, optimiser = adam.update(gradient, optimiser)
            return (optax.apply_updates(parameters, updates), optimiser), None

        return jax.lax.scan(one, (parameters, optimiser), length=repeats)[0]

    return step
