"""The optimiser of a level of a search or of a training, as every recipe builds it."""

import jax.numpy as jnp
import optax

from jnas.recipes.settings import Level, Training


def optimiser_of(level: Level, num_steps: int) -> optax.GradientTransformation:
    """The optimiser of one level: clip, weight decay, then SGD or Adam with the level's schedule over `num_steps`."""
    rate = rate_of(level, num_steps)
    last = optax.sgd(rate, level.heavy_ball or None) if level.optimiser == "sgd" else optax.adam(rate, 0.5, 0.999)
    return behind(level, last)


def rate_of(level: Level | Training, num_steps: int) -> optax.Schedule:
    """The learning rate of a level or a training: still during the warm-up, then a cosine over `num_steps`."""
    larger = max if isinstance(level.learning_rate, float | int) else jnp.maximum  # traced: one of several runs
    final = level.final_learning_rate / larger(level.learning_rate, 1e-30)
    cosine = optax.cosine_decay_schedule(level.learning_rate, num_steps, final)
    warmup = getattr(level, "warmup", 0.0) * num_steps
    return (lambda step: jnp.where(jnp.asarray(step) < warmup, 0.0, cosine(step))) if warmup else cosine


def behind(settings: Level | Training, last: optax.GradientTransformation) -> optax.GradientTransformation:
    """The last of an optimiser behind its clip and its weight decay."""
    clip = optax.identity() if settings.clip is None else optax.clip_by_global_norm(settings.clip)
    return optax.chain(clip, optax.add_decayed_weights(settings.weight_decay), last)
