"""Search by gradient: supernet, hypergradients, recursive momentum, derivation. `recipes.driver` runs it."""

import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jnas import bilevel, data, distributed, files, nets, spaces, train
from jnas.bilevel.momentum import decaying
from jnas.recipes import flat
from jnas.recipes.classification import evaluate
from jnas.recipes.gradient import many, perturbation, steering
from jnas.recipes.gradient.settings import Search, with_values
from jnas.recipes.optimisers import optimiser_of, rate_of
from jnas.recipes.settings import Coefficient, share
from jnas.recipes.supernet import supernet_problem
from jnas.spaces.cell import NONE
from jnas.types import Learner, Source

KIND: str = "search"  # of the run
SHOWN = ("inner_loss", "outer_loss", "outer_accuracy")


class Plan(NamedTuple):
    """Everything that a search needs, built and checked before anything is written."""

    space: spaces.CellSpace
    splits: data.Splits
    num_outer: int
    steps_per_epoch: int
    num_steps: int
    without: tuple[str, ...]  # operators that are not derived
    learner: Learner | Callable[[Any], Learner]  # of several runs with settings of their own a function of these
    source: Source
    net: nets.Network
    mesh: Mesh | None


def supernet_of(space: spaces.CellSpace, config: Search, num_classes: int) -> nets.Network:
    """The supernet that the settings describe."""
    return nets.network_for(
        space, channels=config.channels, depth=config.depth, num_classes=num_classes, remat=config.remat,
        edge_strategy=config.edges, dtype=jnp.dtype(config.dtype).type,
    )  # fmt: skip


def learner_of(config: Search, net: nets.Network, shape: tuple[int, int, int], num_steps: int) -> Learner:
    """The learner that the settings name. With the default ones v moves beside weights and alpha.

        simultaneous(problem, single_loop(), with_adjoint(init), chain(moving_average(...), partition({w, a, v})))

    Args:
      config: the settings.
      net: the supernet.
      shape: of an image.
      num_steps: over which learning rates fall.

    Returns:
      A learner over `Batches` of `Examples`.
    """
    problem, gauss_newton = supernet_problem(net, unravel=flat.unravel_of(net, shape))
    start = flat.start(net, shape, lambda key: spaces.init_alpha(net.space, key, config.alpha_scale))
    # On a CPU the gradients of ordinary convolutions crawl inside loops; those of the built-in operators do not.
    unroll = distributed.backend() == "cpu" and not all(op.loops for op in net.space.operators)
    curvatures = {"hessian": bilevel.hessian, "gauss_newton": gauss_newton, "identity": bilevel.identity}
    estimator = _estimator(config, curvatures[config.curvature], unroll)
    rate = rate_of(config.weights, num_steps)  # of the virtual step, where the estimator takes one
    weights = optimiser_of(config.weights, num_steps * config.inner_steps)
    alpha = optax.chain(*steering.penalties(config, net.space, num_steps), optimiser_of(config.alpha, num_steps))
    optimisers: dict[Any, optax.GradientTransformation] = {"weights": weights, "alpha": alpha}
    labels = bilevel.Point("weights", "alpha")
    if config.estimator == "single_loop":
        start = bilevel.with_adjoint(start)
        optimisers["adjoint"], labels = optimiser_of(config.adjoint, num_steps), labels._replace(adjoint="adjoint")
    first = _momentum(config, num_steps)

    def chain(labels: Any) -> optax.GradientTransformationExtraArgs:
        coefficients = jax.tree.map(lambda label: getattr(config, label).coefficient, labels)
        moved = {label: optimisers[label] for label in jax.tree.leaves(labels)}
        return optax.chain(first(coefficients), optax.partition(moved, labels))

    if config.scheme == "simultaneous":
        return bilevel.simultaneous(problem, estimator, start, chain(labels), learning_rate=rate, unroll=unroll)
    txs = chain(labels.weights), chain(labels._replace(weights=()))
    return bilevel.alternating(problem, estimator, start, *txs, inner_steps=config.inner_steps, learning_rate=rate)


def levels(config: Search, splits: data.Splits) -> tuple[data.Dataset, data.Dataset]:
    """The training images of the lower and of the upper level, split at random by the seed."""
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    return data.split(splits.train, key, 1 - share(config.validation, len(splits.train)))


def source_of(config: Search, splits: data.Splits) -> Source:
    """The batches of a search, augmented as the settings say; of `num_runs` over one copy of the images."""
    shared: dict[str, Any] = {
        "batch_size": config.batch_size, "augment": config.augmentation.of(splits.train),
        "num_further": config.terms if config.fresh_batches else config.inner_steps - 1,
    }  # fmt: skip
    if config.num_runs > 1:
        return data.bilevel_runs_source(splits.train, many.halves(config, len(splits.train)), **shared)
    return data.bilevel_source(*levels(config, splits), **shared)


def describe(config: Search) -> str:
    """The method in the words of a table."""
    terms = f"({config.terms})" if config.estimator in ("neumann", "conjugate_gradient", "unrolled") else ""
    return f"{config.scheme}, {config.estimator}{terms}, momentum {config.momentum}"


def plan(config: Search, splits: data.Splits, space: spaces.CellSpace, mesh: Mesh | None = None) -> Plan:
    """Build and check everything that a search needs, touching no disk.

    Args:
      config: the settings.
      splits: the data.
      space: to search.
      mesh: of the devices, or None.

    Returns:
      The plan.

    Raises:
      ValueError: for settings that do not fit each other or the data.
    """
    inner, outer = levels(config, splits)
    source = source_of(config, splits)
    steps_per_epoch, shape = len(inner) // config.batch_size, splits.train.shape
    num_steps = config.steps or config.epochs * steps_per_epoch
    net = supernet_of(space, config, splits.train.num_classes)
    learner = learner_of(config, net, shape, num_steps)
    if config.each:
        learner = lambda values: learner_of(with_values(config, values), net, shape, num_steps)
    without = (NONE,) if config.without_none and NONE in space.ops else ()
    return Plan(space, splits, len(outer), steps_per_epoch, num_steps, without, learner, source, net, mesh)


def search(config: Search, plan: Plan, path: pathlib.Path) -> dict[str, Any]:
    """Run the search and derive, see `driver.CellSearch`; its checkpoints and records are in `path/search`."""
    return (_search_one if config.num_runs == 1 else _search_several)(config, plan, path / "search")


def _search_one(config: Search, plan: Plan, folder: pathlib.Path) -> dict[str, Any]:
    space, key, started = plan.space, jax.random.key(config.seed), time.monotonic()
    _, outer = levels(config, plan.splits)
    unravel = flat.unravel_of(plan.net, plan.splits.train.shape)

    def genotype_of(event: train.Event) -> str:
        return spaces.to_string(space, spaces.discretise(space, event.state.point.alpha, without=plan.without))

    def record(event: train.Event) -> dict[str, Any]:
        alpha = jax.tree.map(np.asarray, event.state.point.alpha)
        return {"epoch": event.step // plan.steps_per_epoch, "genotype": genotype_of(event), "alpha": alpha}

    sharpness = steering.watch(
        config,
        supernet_problem(plan.net, unravel=unravel)[0].outer,
        functools.partial(steering.sample, config, outer, plan.splits),
        folder,
        plan.steps_per_epoch,
        genotype_of,
    )
    state = train.fit(
        plan.learner,
        plan.source,
        key=jax.random.fold_in(key, 3),
        num_steps=plan.num_steps,
        mesh=plan.mesh,
        checkpoints=_saving(config, plan, folder),
        hooks=[
            *train.standard_hooks(folder, "search", *SHOWN, steps_per_call=config.steps_per_call),
            train.jsonl_each(folder / "genotypes.jsonl", config.record_every or plan.steps_per_epoch, record),
            *sharpness.hooks,
        ],
    )
    rule, before = _rule(space, plan.without), sharpness.back_to()
    alpha = state.point.alpha
    if before is not None:
        arch = spaces.from_string(space, before["genotype"])
        rule += f", after epoch {before['epoch']}, for then the sharpness in alpha grew"
    elif config.selection == "perturbation":
        variables = {"params": unravel(state.point.weights), "batch_stats": state.variables}
        accuracy = functools.partial(evaluate, plan.net, variables, outer, config.augmentation.of(plan.splits.train))
        arch, removals = perturbation.select(
            space,
            spaces.mixture(space, alpha),
            lambda mix: accuracy(mix=jax.tree.map(jnp.asarray, mix))["accuracy"],
            key=jax.random.fold_in(key, 5),
            without=plan.without,
        )
        kept = json.dumps([removal._asdict() for removal in removals], indent=1) + "\n"
        distributed.from_first(lambda: files.atomic_write(folder / "removals.json", kept))
        rule = f"what the supernet loses without it, {rule.partition(',')[2].strip()}"
    else:
        arch = spaces.discretise(space, alpha, without=plan.without)
    return {
        "genotype": spaces.to_string(space, arch), "seconds": round(time.monotonic() - started, 2),
        "connected": spaces.is_connected(space, arch), "steps": int(state.step), "derivation": rule,
    }  # fmt: skip


def _search_several(config: Search, plan: Plan, folder: pathlib.Path) -> dict[str, Any]:
    started, every = time.monotonic(), config.record_every or plan.steps_per_epoch
    state = train.fit(
        plan.learner,
        plan.source,
        key=many.keys(config, 3),
        num_steps=plan.num_steps,
        mesh=plan.mesh,
        checkpoints=_saving(config, plan, folder),
        hooks=[
            *train.chunks_of(config.steps_per_call),
            *many.records(folder, config, plan.space, plan.steps_per_epoch, every, plan.without, *SHOWN),
        ],
        runs=train.Several(config.num_runs, many.values(config)),
    )
    measured = many.measure(config, state, plan.net, plan.splits)
    found = many.found(config, plan.space, measured, without=plan.without, started=started)
    return found | {"steps": plan.num_steps, "derivation": _rule(plan.space, plan.without)}


def _saving(config: Search, plan: Plan, folder: pathlib.Path) -> train.Saving:
    return train.Saving(folder / "checkpoints", config.checkpoint_every or plan.steps_per_epoch)


def _rule(space: spaces.CellSpace, without: tuple[str, ...]) -> str:
    if space.kept is not None:
        return f"best operator but none on each edge, best {space.kept} edges into each node"
    return "argmax on each edge" + (", none excluded" if without else ", none included")


def _estimator(config: Search, curvature: bilevel.Curvature, unroll: bool) -> bilevel.Estimator:
    if config.estimator == "first_order":
        return bilevel.first_order()
    if config.estimator == "finite_difference":
        return bilevel.finite_difference()
    if config.estimator == "unrolled":
        return bilevel.unrolled(config.terms)
    if config.estimator == "conjugate_gradient":
        return bilevel.implicit(bilevel.conjugate_gradient(config.terms, damping=config.damping), curvature=curvature)
    if config.estimator == "single_loop":
        largest = 1.0 if config.curvature == "identity" else None
        return bilevel.single_loop(damping=config.damping, curvature=curvature, largest=largest)
    series = bilevel.neumann(config.terms, step_size=config.neumann_step, damping=config.damping, unroll=unroll)
    return bilevel.implicit(series, curvature=curvature)


def _momentum(config: Search, num_steps: int) -> Callable[[Any], optax.GradientTransformation]:
    """Coefficients, a tree of `Coefficient`, to the transformation that stands first in the chain."""
    if config.momentum == "none":
        return lambda coefficients: optax.identity()
    make = bilevel.storm if config.momentum == "storm" else bilevel.moving_average

    def schedule(c: Coefficient) -> optax.Schedule:
        offset = min(num_steps / 4, 100) if c.offset is None else c.offset
        return decaying(c.initial, offset=offset, power=c.power, floor=c.floor)

    return lambda coefficients: make(jax.tree.map(schedule, coefficients))
