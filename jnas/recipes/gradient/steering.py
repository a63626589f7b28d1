"""What steers a search beside its gradient: penalties of alpha, and when its sharpness says to stop."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jnas import bilevel, data, spaces, train
from jnas.bilevel.eigenvalues import alpha_eigenvalues, early_stop
from jnas.recipes.gradient.settings import Search
from jnas.types import Context, Examples, Loss

EIGENVALUES = "eigenvalues.jsonl"
_ITERATIONS = 12  # of Lanczos
_BATCHES = 8  # outer batches whose mean loss is looked at: one batch's sharpness is noise


def penalties(config: Search, space: spaces.CellSpace, num_steps: int) -> list[optax.GradientTransformation]:
    """Beta-decay, behind the momentum in the chain of alpha, its weight rising from 0; nothing where it is 0."""
    weight = config.beta_decay
    # A traced weight is one of several runs' and may be anything; a plain 0 leaves nothing in the program.
    if isinstance(weight, float | int) and weight == 0:
        return []
    rising = lambda step: weight * jnp.asarray(step, jnp.float32) / num_steps
    return [bilevel.add_penalty(bilevel.beta_decay(spaces.op_mask(space)), rising)]


class Watch(NamedTuple):
    """What looks at the sharpness in alpha during a search."""

    hooks: list[train.Hook]  # measure, record and end the search; what they decide by is kept in its checkpoints
    back_to: Callable[[], dict[str, Any] | None]  # the measurement to go back to: epoch, eigenvalues, genotype


def watch(
    config: Search,
    loss: Loss,
    images: Callable[[], Examples],
    folder: pathlib.Path,
    steps_per_epoch: int,
    genotype_of: Callable[[train.Event], str],
) -> Watch:
    """Measure the largest eigenvalue of `hessian_aa L_val`, and end the search where it grows too fast.

    Measured by Lanczos at fixed weights on a fixed sample of the outer images, with the batch norm of training; each
    measurement is a line of `eigenvalues.jsonl`.

    Args:
      config: the settings.
      loss: of the outer level.
      images: gives the outer images that are looked at, see `sample`.
      folder: of the search.
      steps_per_epoch: as it says.
      genotype_of: event to what would be derived there.

    Returns:
      Nothing that looks, if the settings ask for none.
    """
    rows: list[dict[str, Any]] = []
    if config.eigenvalue_every is None:
        return Watch([], lambda: None)
    every, start = config.eigenvalue_every, config.epochs // 5  # the published 10 of 50 epochs
    batch = images()
    key = jax.random.fold_in(jax.random.key(config.seed), 4)

    @jax.jit
    def measure(point, variables):
        return alpha_eigenvalues(loss, point, batch, Context(variables, key), key, num_iterations=_ITERATIONS)

    def back_to() -> dict[str, Any] | None:
        stop = early_stop([row["largest"] for row in rows], every=every, start=start, factor=config.eigenvalue_growth)
        return None if stop is None else rows[stop.back_to]

    def look(event: train.Event) -> bool:
        if event.step % (every * steps_per_epoch) == 0:
            found = measure(event.state.point, event.state.variables)
            rows.append({
                "epoch": event.step // steps_per_epoch, "largest": float(found.largest),
                "dominant": float(found.dominant), "genotype": genotype_of(event),
            })  # fmt: skip
        return back_to() is not None

    memory = train.Hook(
        steps=look,
        save=lambda step: rows,
        restore=rows.extend,
        every=every * steps_per_epoch,
        name="eigenvalues",
    )
    shown = ("epoch", "largest", "dominant")
    record = lambda event: {name: rows[-1][name] for name in shown}
    return Watch([memory, train.jsonl_each(folder / EIGENVALUES, every * steps_per_epoch, record)], back_to)


def sample(config: Search, outer: data.Dataset, splits: data.Splits) -> Examples:
    """The outer images that the sharpness is measured on, without augmentation."""
    part = outer.part(np.arange(min(config.batch_size * _BATCHES, len(outer))))
    image = data.augment(config.augmentation.of(splits.train), None, jnp.asarray(part.images), outer.shape)
    return Examples(image, jnp.asarray(part.labels))
