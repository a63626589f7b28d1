"""What steers a search beside its gradient: penalties and temperature of alpha, and when its sharpness says to stop."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jnas import bilevel, data, nets, spaces, train
from jnas.bilevel import penalties as penalty
from jnas.bilevel.eigenvalues import alpha_eigenvalues, early_stop
from jnas.bilevel.penalties import Counted
from jnas.errors import Enough
from jnas.recipes.classification import evaluate
from jnas.recipes.gradient import perturbation
from jnas.recipes.gradient.settings import Search
from jnas.recipes.supernet import supernet_problem
from jnas.types import Alpha, Array, Context, Examples, Key, PyTree, State

EIGENVALUES = "eigenvalues.jsonl"
_ITERATIONS = 12  # of Lanczos
_BATCHES = 8  # outer batches whose mean loss is looked at: one batch's sharpness is noise


def penalties(config: Search, space: spaces.CellSpace, num_steps: int) -> list[optax.GradientTransformation]:
    """The penalties that the settings name, for alpha's chain behind the momentum.

    Args:
      config: the settings; a weight may be traced.
      space: of alpha.
      num_steps: over which each weight rises from 0.

    Returns:
      One transformation each.
    """
    mask = spaces.op_mask(space)
    chosen = ((config.beta_decay, penalty.beta_decay(mask)), (config.entropy, penalty.entropy(mask)))

    def rising(weight):
        return lambda step: weight * jnp.asarray(step, jnp.float32) / num_steps

    # A traced weight is one of several runs' and may be anything; a plain 0 leaves nothing in the program.
    return [
        penalty.add_penalty(of, rising(weight))
        for weight, of in chosen
        if not isinstance(weight, float | int) or weight != 0
    ]


def cooled(config: Search, problem: bilevel.Bilevel, curvature: bilevel.Curvature, init, num_steps: int):
    """The problem under a falling temperature: `(problem, curvature, init)`, see `bilevel.tempered`."""
    schedule = optax.exponential_decay(1.0, num_steps, config.temperature)
    problem, init = penalty.tempered(problem, init, schedule)

    def product(loss, point, batch, context: Context, vector):
        scale = jnp.asarray(schedule(context.variables.count))
        alpha = jax.tree.map(lambda leaf: leaf / scale.astype(leaf.dtype), point.alpha)
        inside = context._replace(variables=context.variables.variables)
        return curvature(loss, point._replace(alpha=alpha), batch, inside, vector)

    return problem, product, init


def statistics_of(variables: PyTree) -> PyTree:
    """The running statistics of a search's state, with the temperature's count or without."""
    return variables.variables if isinstance(variables, Counted) else variables


def as_mixed(config: Search, alpha: Alpha, share: float = 1.0) -> Alpha:
    """Alpha divided by the temperature after this share of the steps: what the mixtures are the softmax of."""
    if config.temperature == 1:
        return alpha
    return jax.tree.map(lambda leaf: leaf / config.temperature**share, alpha)


def watch(
    config: Search,
    net: nets.Network,
    outer: data.Dataset,
    splits: data.Splits,
    folder: pathlib.Path,
    steps_per_epoch: int,
    num_steps: int,
) -> list[train.Hook]:
    """Hooks that measure the largest eigenvalue of `hessian_aa L_val` and end the search where it grows too fast.

    Measured by Lanczos at fixed weights on a fixed sample of the outer images, with the batch norm of training; each
    measurement is a line of `eigenvalues.jsonl`.

    Args:
      config: the settings.
      net: the supernet.
      outer: images of the upper level.
      splits: the data.
      folder: of the search.
      steps_per_epoch: as it says.
      num_steps: of the search.

    Returns:
      No hook if the settings ask for none. The second one raises `Enough` after the measurement that says so.
    """
    if config.eigenvalue_every is None:
        return []
    every = config.eigenvalue_every * steps_per_epoch
    batch = _sample(outer, splits, config.batch_size * _BATCHES)
    key = jax.random.fold_in(jax.random.key(config.seed), 4)
    loss = supernet_problem(net)[0].outer

    @jax.jit
    def measure(point, variables):
        return alpha_eigenvalues(loss, point, batch, Context(variables, key), key, num_iterations=_ITERATIONS)

    def record(event: train.Event) -> dict[str, Any]:
        point, variables = event.state.point, statistics_of(event.state.variables)
        found = measure(point._replace(alpha=as_mixed(config, point.alpha, event.step / num_steps)), variables)
        epoch = event.step // steps_per_epoch
        return {"epoch": epoch, "largest": float(found.largest), "dominant": float(found.dominant)}

    def decide(event: train.Event) -> None:
        if event.step % every == 0 and stop_at(config, folder) is not None:
            raise Enough(folder / EIGENVALUES)

    return [train.jsonl_each(folder / EIGENVALUES, every, record), train.Hook(steps=decide, every=every)]


def genotype_after(epoch: int, folder: pathlib.Path) -> str:
    """The genotype derived after an epoch, from the record of the search."""
    return next(row["genotype"] for row in _rows(folder / "genotypes.jsonl") if row["epoch"] == epoch)


def select(
    config: Search,
    net: nets.Network,
    state: State,
    outer: data.Dataset,
    splits: data.Splits,
    key: Key,
    without: Sequence[str],
) -> tuple[Array, tuple[perturbation.Removal, ...]]:
    """Derivation by the accuracy on the outer images that the supernet loses without an operator; nothing is tuned.

    Returns:
      The architecture and the record of the decisions.
    """
    mean, std = data.normalisation(splits.train)
    augment = data.Augment(mean=mean, std=std)

    def score(state: State, mix: perturbation.Mix) -> float:
        on_device = {cell: jnp.asarray(rows) for cell, rows in mix.items()}
        variables = statistics_of(state.variables)
        return evaluate(net, state.point.weights, variables, outer, augment, mix=on_device)["accuracy"]

    mix = spaces.mixture(net.space, as_mixed(config, state.point.alpha))
    chosen = perturbation.select(net.space, mix, score, state, key=key, without=without)
    return chosen.arch, chosen.removals


def stop_at(config: Search, folder: pathlib.Path) -> int | None:
    """The epoch whose architecture is to be taken, by the measurements so far; None: the last one's."""
    if config.eigenvalue_every is None or not (folder / EIGENVALUES).is_file():
        return None
    rows = _rows(folder / EIGENVALUES)
    every, start = config.eigenvalue_every, config.epochs // 5  # the published 10 of 50 epochs
    stop = early_stop([row["largest"] for row in rows], every=every, start=start, factor=config.eigenvalue_growth)
    return None if stop is None else rows[stop.back_to]["epoch"]


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _sample(dataset: data.Dataset, splits: data.Splits, num: int) -> Examples:
    part = dataset.part(np.arange(min(num, len(dataset))))
    mean, std = data.normalisation(splits.train)
    image = data.augment(data.Augment(mean=mean, std=std), None, jnp.asarray(part.images), dataset.shape)
    return Examples(image, jnp.asarray(part.labels))
