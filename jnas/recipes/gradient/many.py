"""Several searches as one program: their seeds and settings, what each of them found, and which cell to keep."""

import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnas import data, distributed, nets, report, spaces, train
from jnas.recipes import flat
from jnas.recipes.classification import evaluate
from jnas.recipes.gradient.settings import Search
from jnas.recipes.settings import share
from jnas.types import Array, Key


def seeds(config: Search) -> list[int]:
    """The seed of each run, as `jnas search seed=...` takes it for one."""
    return [config.seed + run for run in range(config.num_runs)]


def keys(config: Search, number: int) -> Key:
    """Key `number` of every run, [num_runs]."""
    return jnp.stack([jax.random.fold_in(jax.random.key(seed), number) for seed in seeds(config)])


def halves(config: Search, num_examples: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The numbers of the training images of each run's lower and upper level."""
    return [data.split_index(num_examples, key, 1 - share(config.validation, num_examples)) for key in keys(config, 0)]


def values(config: Search) -> dict[str, np.ndarray] | None:
    """What differs between the runs beside their seeds: name of a setting -> [num_runs] float32."""
    return {name: np.asarray(column, np.float32) for name, column in config.each.items()} or None


def records(
    folder: pathlib.Path,
    config: Search,
    space: spaces.CellSpace,
    steps_per_epoch: int,
    every: int,
    without: tuple[str, ...],
    *shown: str,
) -> list[train.Hook]:
    """Hooks that keep of every run what a single one keeps, in a folder of its own, and one progress line of all.

    Args:
      folder: of the search; run by run `folder/run-SEED/` holds metrics.jsonl, genotypes.jsonl and TensorBoard events.
      config: the settings.
      space: the searched space.
      steps_per_epoch: as it says.
      every: steps between two genotypes.
      without: operators that are not derived.
      shown: names of metrics for the progress line, which shows their means over the sound runs.

    Returns:
      Hooks for `fit(runs=...)`.
    """
    latest: dict[str, np.ndarray] = {}

    def look(event: train.Event) -> None:  # every process looks: the runs of others lie on their devices
        if event.step % every == 0:
            latest.update(distributed.to_host(event.state.state.point.alpha))

    def record(run: int):
        def of(event: train.Event) -> dict[str, Any]:
            alpha = {cell: values[run] for cell, values in latest.items()}
            arch = spaces.discretise(space, alpha, without=without)
            epoch = event.step // steps_per_epoch
            return {"epoch": epoch, "genotype": spaces.to_string(space, arch), "alpha": alpha}

        return of

    hooks = [train.progress(f"search, {config.num_runs} runs", metrics=shown)]
    hooks.append(train.Hook(steps=look, every=every))
    for run, seed in enumerate(seeds(config)):
        own = folder / f"run-{seed}"
        kept = [
            train.jsonl_log(own / "metrics.jsonl"),
            train.tensorboard(str(own)),
            train.jsonl_each(own / "genotypes.jsonl", every, record(run)),
        ]
        hooks += [train.of_run(run, hook) for hook in kept]
    return hooks


def measure(config: Search, state: train.Runs, net: nets.Network, splits: data.Splits):
    """Bring the runs to the host and measure each supernet on the images that its alpha was fitted to.

    Returns:
      Alpha, [num_runs, num_edges, num_ops] a cell; the accuracies; and `diverged_at`, [num_runs] int32, 0 where a run
      did not. The accuracy of a diverged one is that of its last sound state.
    """
    point, variables, diverged_at = distributed.to_host((state.state.point, state.state.variables, state.diverged_at))
    accuracy, unravel = [], flat.unravel_of(net, splits.train.shape)
    augment = config.augmentation.of(splits.train)
    for run, (_, index) in enumerate(halves(config, len(splits.train))):
        weights, alpha, stats = jax.tree.map(lambda leaf, run=run: leaf[run], (point.weights, point.alpha, variables))
        whole, mix = {"params": unravel(weights), "batch_stats": stats}, spaces.mixture(net.space, alpha)
        accuracy.append(evaluate(net, whole, splits.train.part(index), augment, mix=mix)["accuracy"])
    return point.alpha, accuracy, diverged_at


def found(
    config: Search, space: spaces.CellSpace, measured: Any, *, without: tuple[str, ...], started: float
) -> dict[str, Any]:
    """What the runs found, and the cell to keep: the best supernet's, of the sound runs with a connected cell.

    Args:
      config: the settings.
      space: the searched space.
      measured: from `measure`.
      without: operators that are not derived.
      started: when the search began, by `time.monotonic`.

    Returns:
      As the result of a single search, with `runs`, `chosen` (its seed) and `agreement`.
    """
    alpha, accuracy, diverged_at = measured
    rows = []
    for run, seed in enumerate(seeds(config)):
        arch = spaces.discretise(space, _of(alpha, run), without=without)
        own = {name: column[run] for name, column in config.each.items()}
        rows.append({
            "seed": seed, **({"settings": own} if own else {}),
            "genotype": spaces.to_string(space, arch),
            "connected": bool(spaces.is_connected(space, arch)), "outer_accuracy": accuracy[run],
            "diverged_at": int(diverged_at[run]) or None,
        })  # fmt: skip
    sound = [row for row in rows if row["diverged_at"] is None] or rows
    best = max(sound, key=lambda row: (row["connected"], row["outer_accuracy"]))
    return {
        "genotype": best["genotype"], "seconds": round(time.monotonic() - started, 2), "connected": best["connected"],
        "chosen": best["seed"], "runs": rows,
        "agreement": report.agreement(
            space,
            [row["genotype"] for row in sound],
            [_of(alpha, rows.index(row)) for row in sound],
        ),
    }  # fmt: skip


def _of(alpha: dict[str, np.ndarray], run: int) -> dict[str, Array]:
    return {cell: jnp.asarray(values[run]) for cell, values in alpha.items()}
