"""Search by gradient: supernet, hypergradients, recursive momentum, derivation, and the found cell beside random
ones.
"""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jnas import bilevel, data, distributed, nets, report, spaces, train
from jnas.bilevel.momentum import decaying
from jnas.errors import Enough
from jnas.recipes import run_folder, train_network
from jnas.recipes.gradient import many, steering
from jnas.recipes.gradient.settings import Search, with_values
from jnas.recipes.optimisers import optimiser_of, rate_of
from jnas.recipes.settings import Coefficient
from jnas.recipes.supernet import supernet, supernet_problem
from jnas.recipes.train_network import random_cells
from jnas.spaces.cell import NONE
from jnas.types import Array, Key, Learner, Source

SHOWN = ("inner_loss", "outer_loss", "outer_accuracy")


class _Plan(NamedTuple):
    """Everything that a search needs, built and checked before anything is written."""

    space: spaces.CellSpace
    splits: data.Splits
    num_outer: int
    steps_per_epoch: int
    learner: Learner | Callable[[Any], Learner]  # of several runs with settings of their own a function of these
    source: Source
    net: nets.Network
    mesh: Mesh | None


def run(
    config: Search, folder: str | pathlib.Path, *, mesh: Mesh | None = None, space: spaces.CellSpace | None = None
) -> dict[str, Any]:
    """Search, derive, train the found cell and random ones in the same way, and write the report page.

    Run again in the same folder it goes on from the last checkpoint of whatever phase was cut off; a finished run is
    returned as it is.

    Args:
      config: the settings. With `num_runs` several searches are one program; the cell of the run whose supernet does
        best on its own upper level is kept, and every other cell that was found is trained too.
      folder: of the run.
      mesh: of the devices, from `distributed.make_mesh`; a run that was cut off may go on over another one.
      space: in place of the one that the settings name, such as one with operators of your own.

    Returns:
      The result, as written to `result.json`; the page is `report.html` beside it.

    Raises:
      UserError: for settings that do not fit each other, the data or the folder; nothing is written then.
      Diverged: if a metric is not finite.
      Interrupted: after a signal, when everything is saved.
    """
    config = _of_space(config, space)
    with run_folder.as_user_input():
        plan = _plan(config, mesh, space)
        randoms = random_cells(plan.space, jax.random.fold_in(jax.random.key(config.seed), 2), config.random_cells)
        for arch in spaces.sample(plan.space, jax.random.key(0), 1):  # before hours are spent
            train_network.prepare(plan.space, arch, plan.splits, config.train)
    path = run_folder.begin(folder, config, "search")
    result = run_folder.read_json(path / run_folder.RESULT)
    if result is None:
        found = _search(config, plan, path / "search")
        derived = [("found", spaces.from_string(plan.space, found["genotype"]))]
        derived = many.to_train(plan.space, found) if "runs" in found else derived
        named = [*derived, *((f"random-{n}", arch) for n, arch in enumerate(randoms))]
        trained = train_network.train_each(named, plan.space, plan.splits, config, path / "train", mesh)
        if "runs" in found:
            many.write_accuracies(found, {name: trained[name] for name, _ in derived}, space=plan.space)
        result = {
            **found, "space": plan.space.name, "method": describe(config), "seed": config.seed,
            "found": trained["found"], "random": [trained[name] for name in trained if name.startswith("random-")],
            "data": train_network.describe(plan.splits, validation=plan.num_outer),
        }  # fmt: skip
        run_folder.write_json(path / run_folder.RESULT, result)
    distributed.from_first(lambda: str(report.write_report(path, space=plan.space)))
    return result


def search(
    config: Search, folder: str | pathlib.Path, *, mesh: Mesh | None = None, space: spaces.CellSpace | None = None
) -> dict[str, Any]:
    """Only the search and the derivation, for comparisons that score a cell in another way; resumes like `run`.

    Args:
      config: the settings; those of the training are not used.
      folder: of the run.
      mesh: of the devices, see `run`.
      space: see `run`.

    Returns:
      `genotype`, `steps`, `seconds`, `derivation` (the rule, in words) and `connected`; with several runs also
      `runs`, `chosen` and `agreement`.

    Raises:
      UserError, Diverged, Interrupted: as `run`.
    """
    config = _of_space(config, space)
    with run_folder.as_user_input():
        plan = _plan(config, mesh, space)
    return _search(config, plan, run_folder.begin(folder, config, "search") / "search")


def supernet_of(space: spaces.CellSpace, config: Search, num_classes: int) -> nets.Network:
    """The supernet that the settings describe."""
    return supernet(
        space, channels=config.channels, depth=config.depth, num_classes=num_classes, remat=config.remat,
        edges=config.edges, dtype=config.dtype,
    )  # fmt: skip


def learner_of(config: Search, net: nets.Network, shape: tuple[int, int, int], num_steps: int) -> Learner:
    """The learner that the settings name. With the default ones it is the double recursion.

        simultaneous(problem, implicit(neumann(Q)), init, chain(storm(...), partition({weights, alpha})))

    Args:
      config: the settings.
      net: the supernet.
      shape: of an image.
      num_steps: over which learning rates fall.

    Returns:
      A learner over `Batches` of `Examples`.
    """
    problem, gauss_newton = supernet_problem(net, statistics_groups=config.statistics_groups)

    def init(key: Key):
        weights_key, alpha_key = jax.random.split(key)
        params, stats = nets.initialise(net, weights_key, shape)
        return bilevel.Point(params, spaces.init_alpha(net.space, alpha_key, config.alpha_scale)), stats

    start = init
    if config.temperature != 1:
        problem, gauss_newton, start = steering.cooled(config, problem, gauss_newton, init, num_steps)
    estimator = _estimator(config, gauss_newton if config.curvature == "gauss_newton" else bilevel.hessian)
    rate = rate_of(config.weights, num_steps)  # of the virtual step, where the estimator takes one
    weights, alpha = (optimiser_of(level, num_steps) for level in (config.weights, config.alpha))
    alpha = optax.chain(*steering.penalties(config, net.space, num_steps), alpha)
    first = _momentum(config)
    if config.scheme == "alternating":
        by_level = (
            optax.chain(first(level.coefficient), tx)
            for level, tx in ((config.weights, weights), (config.alpha, alpha))
        )
        return bilevel.alternating(problem, estimator, start, *by_level, learning_rate=rate, one_vector=True)
    tx = optax.chain(
        first(bilevel.Point(config.weights.coefficient, config.alpha.coefficient)),
        optax.partition({"weights": weights, "alpha": alpha}, bilevel.Point("weights", "alpha")),
    )
    return bilevel.simultaneous(problem, estimator, start, tx, learning_rate=rate, one_vector=True)


def levels(config: Search, splits: data.Splits) -> tuple[data.Dataset, data.Dataset]:
    """The training images of the lower and of the upper level, split at random by the seed."""
    return data.split(splits.train, jax.random.fold_in(jax.random.key(config.seed), 0), config.inner_fraction)


def source_of_runs(config: Search, splits: data.Splits) -> Source:
    """The batches of `num_runs` searches, each those of `source_of` for its own seed, over one copy of the images."""
    change, (mean, std) = config.augmentation, data.normalisation(splits.train)
    return data.bilevel_runs_source(
        splits.train,
        many.halves(config, len(splits.train)),
        batch_size=config.batch_size,
        augment=data.Augment(change.crop, change.flip, change.cutout, mean, std),
        num_terms=config.terms if config.fresh_batches else 0,
    )


def source_of(config: Search, splits: data.Splits, inner: data.Dataset, outer: data.Dataset) -> Source:
    """The batches of a search, drawn from the two sets of `levels` and augmented as the settings say."""
    mean, std = data.normalisation(splits.train)
    change = config.augmentation
    augment = data.Augment(change.crop, change.flip, change.cutout, mean, std)
    num_terms = config.terms if config.fresh_batches else 0
    return data.bilevel_source(inner, outer, batch_size=config.batch_size, augment=augment, num_terms=num_terms)


def describe(config: Search) -> str:
    """The method in the words of a table."""
    estimator = (
        f"{config.estimator}({config.terms})"
        if config.estimator in ("neumann", "conjugate_gradient", "unrolled")
        else config.estimator
    )
    return f"{config.scheme}, {estimator}, momentum {config.momentum}"


def _of_space(config: Search, space: spaces.CellSpace | None) -> Search:
    """The settings as the run folder is to record them."""
    return config if space is None else dataclasses.replace(config, space=space.name)


def _plan(config: Search, mesh: Mesh | None, space: spaces.CellSpace | None) -> _Plan:
    space = spaces.by_name(config.space) if space is None else space
    splits = run_folder.load_data(config.data, config.image_size)
    if mesh is not None:
        distributed.check_mesh(mesh, config.num_runs)
        distributed.check_batch(config.batch_size, mesh)
        distributed.check_batch(config.train.batch_size, mesh, "train.batch_size")
    inner, outer = levels(config, splits)
    source = source_of(config, splits, inner, outer)
    steps_per_epoch, shape = len(inner) // config.batch_size, splits.train.shape
    num_steps = _num_steps(config, steps_per_epoch)
    net = supernet_of(space, config, splits.train.num_classes)
    learner = learner_of(config, net, shape, num_steps)
    if config.num_runs > 1:
        source = source_of_runs(config, splits)
    if config.each:
        learner = functools.partial(_learner_of_run, config, net, shape, num_steps)
    return _Plan(space, splits, len(outer), steps_per_epoch, learner, source, net, mesh)


def _learner_of_run(config: Search, net: nets.Network, shape, num_steps: int, values: dict[str, Array]) -> Learner:
    return learner_of(with_values(config, values), net, shape, num_steps)


def _search(config: Search, plan: _Plan, folder: pathlib.Path) -> dict[str, Any]:
    """Run the search and derive; what was found is kept in `folder/found.json`, and read if it is there."""
    stored = run_folder.read_json(folder / "found.json")
    if stored is not None:
        return stored
    space, num_steps = plan.space, _num_steps(config, plan.steps_per_epoch)
    record_every = config.record_every or plan.steps_per_epoch
    without = (NONE,) if config.without_none and NONE in space.ops else ()
    started = time.time()

    def record(event: train.Event) -> dict[str, Any]:
        alpha = jax.tree.map(np.asarray, event.state.point.alpha)
        arch = spaces.discretise(space, steering.as_mixed(config, alpha, event.step / num_steps), without=without)
        return {"epoch": event.step // plan.steps_per_epoch, "genotype": spaces.to_string(space, arch), "alpha": alpha}

    common = {
        "num_steps": num_steps, "checkpoint_dir": folder / "checkpoints",
        "checkpoint_every": config.checkpoint_every or plan.steps_per_epoch,
        "steps_per_call": config.steps_per_call, "mesh": plan.mesh,
    }  # fmt: skip
    rule = {"steps": num_steps, "derivation": _rule(space, without)}
    if config.num_runs > 1:
        state = train.fit(
            plan.learner,
            plan.source,
            key=many.keys(config, 3),
            hooks=many.records(folder, config, space, plan.steps_per_epoch, record_every, without, *SHOWN),
            num_runs=config.num_runs,
            settings=many.values(config),
            **common,
        )
        outer = [index for _, index in many.halves(config, len(plan.splits.train))]
        searched = many.measure(config, state, plan.net, plan.splits, outer)
        found = many.found(config, space, searched, without=without, started=started) | rule
        run_folder.write_json(folder / "found.json", found)
        return found
    key, state = jax.random.key(config.seed), None
    _, outer = levels(config, plan.splits)
    with contextlib.suppress(Enough):
        state = train.fit(
            plan.learner,
            plan.source,
            key=jax.random.fold_in(key, 3),
            hooks=[
                *run_folder.hooks(folder, "search", *SHOWN),
                train.jsonl_each(folder / "genotypes.jsonl", record_every, record),
                *steering.watch(config, plan.net, outer, plan.splits, folder, plan.steps_per_epoch, num_steps),
            ],
            **common,
        )
    if state is None:
        epoch = steering.stop_at(config, folder) or config.epochs
        arch = spaces.from_string(space, steering.genotype_after(epoch, folder))
        rule["derivation"] += f", after epoch {epoch}, for then the sharpness in alpha grew"
    elif config.selection == "perturbation":
        arch, removals = steering.select(
            config, plan.net, state, outer, plan.splits, jax.random.fold_in(key, 5), without
        )
        run_folder.write_json(folder / "removals.json", [removal._asdict() for removal in removals])
        rule["derivation"] = f"what the supernet loses without it, {rule['derivation'].partition(',')[2].strip()}"
    else:
        arch = spaces.discretise(space, steering.as_mixed(config, state.point.alpha), without=without)
    found = {
        "genotype": spaces.to_string(space, arch), "seconds": round(time.time() - started, 2),
        "connected": spaces.is_connected(space, arch), **rule,
    }  # fmt: skip
    run_folder.write_json(folder / "found.json", found)
    return found


def _num_steps(config: Search, steps_per_epoch: int) -> int:
    return config.steps or config.epochs * steps_per_epoch


def _rule(space: spaces.CellSpace, without: tuple[str, ...]) -> str:
    if space.kept is not None:
        return f"best operator but none on each edge, best {space.kept} edges into each node"
    return "argmax on each edge" + (", none excluded" if without else ", none included")


def _estimator(config: Search, curvature: bilevel.Curvature) -> bilevel.Estimator:
    if config.estimator == "first_order":
        return bilevel.first_order()
    if config.estimator == "finite_difference":
        return bilevel.finite_difference()
    if config.estimator == "unrolled":
        return bilevel.unrolled(config.terms)
    if config.estimator == "conjugate_gradient":
        return bilevel.implicit(bilevel.conjugate_gradient(config.terms, damping=config.damping), curvature=curvature)
    series = bilevel.neumann(config.terms, step_size=config.neumann_step, damping=config.damping)
    return bilevel.implicit(series, curvature=curvature)


def _momentum(config: Search) -> Callable[[Any], optax.GradientTransformation]:
    """Coefficients, a tree of `Coefficient`, to the transformation that stands first in the chain."""
    if config.momentum == "none":
        return lambda coefficients: optax.identity()
    make = bilevel.storm if config.momentum == "storm" else bilevel.moving_average

    def schedule(c: Coefficient) -> optax.Schedule:
        return decaying(c.initial, offset=c.offset, power=c.power, floor=c.floor)

    return lambda coefficients: make(jax.tree.map(schedule, coefficients))
