"""Search in two stages: a group of alike operators for each edge, then an operator of that group, each on one level."""

import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jnas import bilevel, data, distributed, nets, spaces, train
from jnas.bilevel.problem import Init
from jnas.recipes import flat, run_folder
from jnas.recipes.grouped import clustering
from jnas.recipes.grouped.settings import GroupedSearch, Stage
from jnas.recipes.optimisers import optimiser_of
from jnas.recipes.supernet import supernet_problem
from jnas.spaces import grouped
from jnas.spaces.cell import NONE, CellSpace
from jnas.spaces.grouped import Groups
from jnas.types import Array, Learner, Loss, Source

KIND: str = "grouped"  # of the run
SHOWN = ("loss", "accuracy")
CLUSTER, FIRST, SECOND = "cluster", "stage-1", "search"  # folders of a run; the report shows the last one's curves


class Plan(NamedTuple):
    """What all stages share, built and checked before anything is written."""

    space: CellSpace
    without: tuple[str, ...]  # operators that are not derived
    num_outer: int  # images of an upper level: there is none
    groups: Groups | None  # None: by clustering, or no groups
    splits: data.Splits
    augment: data.Augment
    source: Source
    steps_per_epoch: int
    mesh: Mesh | None


def one_level(
    loss: Loss, init: Init, weights: optax.GradientTransformation, alpha: optax.GradientTransformation
) -> Learner:
    """Weights and alpha on the same training batches: one loss, one backward pass, two optimisers.

        w <- w - step_w(grad_w L(w, a)) ;   a <- a - step_a(grad_a L(w, a))       both gradients of one batch, at (w, a)

    Args:
      loss: of a supernet, `supernet_problem(net)[0].inner`.
      init: `key -> (point, variables)`.
      weights: optimiser of the weights.
      alpha: optimiser of alpha.

    Returns:
      A learner over `Examples`. Half the images of a bilevel search need not be set aside, and a step costs one
      gradient; alpha may fit the training images' noise, which the few unlike candidates of a stage hold down.

    References:
      Li et al., "StacNAS: Towards Stable and Consistent Differentiable Neural Architecture Search", arXiv:1909.11926.
    """
    tx = optax.partition({"weights": weights, "alpha": alpha}, bilevel.Point("weights", "alpha"))
    return bilevel.supervised(loss, init, tx)


def describe(config: GroupedSearch) -> str:
    """The method in the words of a table."""
    return f"one level, two stages over groups ({config.groups})" if config.groups.strip() else "one level, one stage"


def named_groups(text: str) -> Groups | None:
    """The groups that the setting names; None for those that a clustering finds, or for none."""
    if text == "stacnas":
        return grouped.stacnas_groups()
    if text.strip() in ("", "clustering"):
        return None
    return grouped.groups_of([group.split() for group in text.split(",")])


def plan(config: GroupedSearch, splits: data.Splits, space: CellSpace, mesh: Mesh | None = None) -> Plan:
    """What all stages share, built and checked without touching the disk.

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
    augment = config.augmentation.of(splits.train)
    groups = named_groups(config.groups)
    # This refuses groups that leave an operator of the space out, too.
    if groups is not None and grouped.representatives(space, groups) == space:
        raise ValueError(f"the groups {groups.members} leave the second stage no choice: put two operators in one")
    if config.num_groups is not None and config.num_groups >= len([op for op in space.ops if op != NONE]):
        raise ValueError(
            f"num_groups is {config.num_groups} and space {space.name!r} has as few operators: give fewer groups"
        )
    source = data.supervised_source(splits.train, batch_size=config.batch_size, augment=augment)
    return Plan(
        space, _without(space), 0, groups, splits, augment, source, len(splits.train) // config.batch_size, mesh
    )


def search(config: GroupedSearch, plan: Plan, path: pathlib.Path) -> dict[str, Any]:
    """All stages and the derivation, see `driver.CellSearch`; a stage that is done is not run again.

    Args:
      config: the settings.
      plan: from `plan`.
      path: of the run; each stage leaves `found.json` in a folder of its own in it.

    Returns:
      What a recipe finds, with `groups` and `edge_ops`, the operators that the last stage had on each edge.
    """
    groups, stages, space = plan.groups, {}, plan.space
    if config.groups == "clustering":
        place = path / CLUSTER
        found = run_folder.kept(place / "found.json", lambda: _cluster(config, plan, place))
        groups, stages[CLUSTER] = Groups(tuple(map(tuple, found["groups"])), tuple(found["representatives"])), found
    if groups is not None:
        place, chosen = path / FIRST, groups
        stages[FIRST] = run_folder.kept(place / "found.json", lambda: _first(config, plan, chosen, place))
        space = grouped.stage_two(plan.space, groups, stages[FIRST]["winners"])
    state, cost = _fit(config, plan, space, config.second, path / SECOND, 4)
    arch, every = _derive(space, state.point.alpha), (*stages.values(), cost)
    return {
        "genotype": spaces.to_string(space, arch),
        "steps": sum(stage["steps"] for stage in every),
        "seconds": round(sum(stage["seconds"] for stage in every), 2),
        "stages": [_end(name, stage) for name, stage in {**stages, SECOND: cost}.items()],
        "derivation": _rule(space), "connected": spaces.is_connected(space, arch),
        "groups": None if groups is None else groups.members,
        "edge_ops": dict(zip(space.cells, space.edge_ops, strict=True)),
    }  # fmt: skip


def _first(config: GroupedSearch, plan: Plan, groups: Groups, folder: pathlib.Path) -> dict[str, Any]:
    """Stage 1: the group on every edge."""
    space = grouped.representatives(plan.space, groups)
    state, cost = _fit(config, plan, space, config.first, folder, 3)
    return {"winners": grouped.winners(space, state.point.alpha, groups), "groups": groups.members, **cost}


def _cluster(config: GroupedSearch, plan: Plan, folder: pathlib.Path) -> dict[str, Any]:
    """Groups from the feature maps of a supernet of the whole space, trained as the stages are."""
    state, cost = _fit(config, plan, plan.space, config.supernet, folder, 5)
    key = jax.random.fold_in(jax.random.key(config.seed), 6)
    sample = data.supervised_source(
        plan.splits.train, batch_size=min(config.num_samples, len(plan.splits.train)), augment=plan.augment
    )
    images = sample.batch(sample.arrays, jax.numpy.int32(0), key).image
    net = _supernet(config, plan.space, config.supernet, plan.splits.train.num_classes)
    similarity = clustering.correlations(net, state.point.weights, state.variables, state.point.alpha, images)
    found = clustering.cluster(plan.space, similarity, num_groups=config.num_groups)
    return {
        "groups": found.groups.members, "representatives": found.groups.representatives, "ops": found.ops,
        "correlation": found.similarity.tolist(), "linkage": found.linkage.tolist(),
        "silhouettes": {str(k): value for k, value in found.silhouettes.items()}, **cost,
    }  # fmt: skip


def _fit(config: GroupedSearch, plan: Plan, space: CellSpace, stage: Stage, folder: pathlib.Path, number: int):
    """The last state of one stage, with fresh weights, and what it cost: `{"steps", "seconds", "epochs", "ended"}`."""
    num_steps, shape = stage.epochs * plan.steps_per_epoch, plan.splits.train.shape
    net = _supernet(config, space, stage, plan.splits.train.num_classes)

    unravel = flat.unravel_of(net, shape)
    problem, _ = supernet_problem(net, unravel=unravel)
    init = flat.start(net, shape, lambda key: spaces.init_alpha(space, key, config.alpha_scale))

    def derived(event: train.Event) -> str:
        return spaces.to_string(space, _derive(space, event.state.point.alpha))

    def record(event: train.Event) -> dict[str, Any]:
        alpha = jax.tree.map(np.asarray, event.state.point.alpha)
        return {"epoch": event.step // plan.steps_per_epoch, "genotype": derived(event), "alpha": alpha}

    settled, converged = until_settled(config, plan.steps_per_epoch, derived)
    started = time.monotonic()
    optimisers = (optimiser_of(level, num_steps) for level in (config.weights, config.alpha))
    state = train.fit(
        one_level(problem.inner, init, *optimisers),
        plan.source,
        key=jax.random.fold_in(jax.random.key(config.seed), number),
        num_steps=num_steps,
        hooks=[
            *train.standard_hooks(folder, folder.name, *SHOWN, steps_per_call=config.steps_per_call),
            train.jsonl_each(folder / "genotypes.jsonl", plan.steps_per_epoch, record),
            settled,
        ],
        checkpoints=train.Saving(folder / "checkpoints", config.checkpoint_every or plan.steps_per_epoch),
        mesh=plan.mesh,
    )
    if plan.mesh is not None:  # what follows is done once and not by every device
        state = distributed.to_host(state)
    state = state._replace(point=state.point._replace(weights=unravel(state.point.weights)))
    steps = int(state.step)
    return state, {
        "steps": steps, "seconds": round(time.monotonic() - started, 2),
        "epochs": [steps // plan.steps_per_epoch, stage.epochs],  # and the most
        "ended": "converged" if converged() else "cap",
    }  # fmt: skip


def until_settled(
    config: GroupedSearch, steps_per_epoch: int, derived: Callable[[train.Event], str]
) -> tuple[train.Hook, Callable[[], bool]]:
    """What ends a stage when it has converged: nothing else is derived, and the loss stands still.

        s_e = s_(e-1) + (l_e - s_(e-1)) / 2,  l_e the mean loss of epoch e;  converged when for P epochs the derived
        architecture was the same and |s_e - s_(e-P)| <= tolerance s_(e-P)

    Args:
      config: with `patience`, P, and `tolerance`.
      steps_per_epoch: as it says.
      derived: event to what would be derived there.

    Returns:
      The hook, which keeps what it decides by in the checkpoints, and whether the stage has converged.
    """
    kept: dict[str, list] = {"losses": [], "genotypes": [], "smoothed": []}  # of this epoch's steps; of each epoch

    def converged() -> bool:
        names, smoothed = (kept[name][-(config.patience or 0) - 1 :] for name in ("genotypes", "smoothed"))
        if config.patience is None or kept["losses"] or len(names) <= config.patience:
            return False
        return len(set(names)) == 1 and abs(smoothed[-1] - smoothed[0]) <= config.tolerance * abs(smoothed[0])

    def look(event: train.Event) -> bool:
        kept["losses"] += event.metrics["loss"].tolist()
        if event.step % steps_per_epoch == 0:
            mean = float(np.mean(kept["losses"]))
            before = kept["smoothed"][-1] if kept["smoothed"] else mean
            kept["smoothed"].append(before + (mean - before) / 2)
            kept["genotypes"].append(derived(event))
            kept["losses"].clear()
        return converged()

    hook = train.Hook(steps=look, save=lambda step: kept, restore=kept.update, every=steps_per_epoch, name="settled")
    return hook, converged


def _end(name: str, stage: dict[str, Any]) -> dict[str, Any]:
    """How a stage ended, for the result; a stage of an older run took all its epochs."""
    return {"name": name, **{key: stage[key] for key in ("steps", "epochs", "ended") if key in stage}}


def _supernet(config: GroupedSearch, space: CellSpace, stage: Stage, num_classes: int) -> nets.Network:
    return nets.network_for(
        space, channels=stage.channels, depth=stage.depth, num_classes=num_classes, remat=config.remat,
        edge_strategy=config.edges, dtype=jnp.dtype(config.dtype).type,
    )  # fmt: skip


def _derive(space: CellSpace, alpha: dict[str, Array]) -> Array:
    """From raw alpha: edges with different candidates have softmax weights that cannot be compared."""
    return spaces.derive(space, alpha, without=_without(space))


def _without(space: CellSpace) -> tuple[str, ...]:
    """The operators that are not derived."""
    return (NONE,) if NONE in space.ops else ()


def _rule(space: CellSpace) -> str:
    edges = "" if space.kept is None else f", best {space.kept} edges into each node"
    return f"operator of largest raw alpha but none on each edge{edges}"
