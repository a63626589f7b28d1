"""Search by trials: a searcher proposes, an objective judges, any number of workers share the study, and the best
architecture is trained beside random ones.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jnas import data, files, searchers, spaces, study
from jnas.files import own
from jnas.files.locks import exclusive
from jnas.recipes import costs
from jnas.recipes.settings import held_out
from jnas.recipes.trials import objectives, truth_table
from jnas.recipes.trials.settings import TrialSearch
from jnas.searchers.base import Objective, Searcher, no_observations, record
from jnas.searchers.gp.incumbent import clipped, incumbent
from jnas.searchers.halving import latest
from jnas.spaces.base import Space

if TYPE_CHECKING:
    import optuna

KIND: str = "trials"  # of the run
SHARED = True  # any number of processes take part
SUPERNET, SEARCH = "supernet", "search"  # folders of a run
JOURNAL, LINES, RUNGS = "trials.log", "trials.jsonl", "rungs"  # of its search: the study, the report's, checkpoints
# What a worker may set differently from another one: nothing of these changes what a trial is.
_OWN = ("random_cells", "train", "steps_per_call", "max_failures", "num_evaluations")


class Plan(NamedTuple):
    """Everything that a search needs, built and checked before anything is written."""

    space: spaces.CellSpace
    searched: Space  # the space, or with rungs one of its architectures with a rung each
    without: tuple[str, ...]  # operators that are not derived: none
    num_outer: int  # images that judge
    train: data.Dataset  # of the trials
    validation: data.Dataset
    table: Objective | None  # read, if the trials are looked up
    storage: str | None  # None: a journal file in the folder


def describe(config: TrialSearch) -> str:
    """The method in the words of a table."""
    judged = {
        "training": "short trainings", "own_training": "short trainings", "shared_weights": "shared weights",
        "table": "a table",
    }.get(config.objective, own.shown(config.objective))  # fmt: skip
    halved = f" in {len(config.budgets)} rungs" if len(config.budgets) > 1 else ""
    priced = costs.words(config.costs, config.limits, config.beside)
    return f"trials by {config.searcher}, judged by {judged}{halved}{priced}"


def searcher_of(config: TrialSearch, space: spaces.CellSpace, allowed: Callable[[np.ndarray], bool]) -> Searcher:
    """The searcher that the settings name, within the limits; with several objectives all but NSGA-II see the first."""
    number = 1 + len(config.beside)
    one = number if config.searcher == "nsga2" else 1
    plain = {
        "nsga2": functools.partial(searchers.nsga2, objectives=number, population=config.population),
        "random": searchers.random,
        "evolution": functools.partial(searchers.evolution, population=config.population, tournament=3),
        "gaussian_process": functools.partial(searchers.gaussian_process, num_initial=config.population),
        "tpe": functools.partial(searchers.tpe, num_initial=config.population),
    }[config.searcher](space)
    if config.limits:
        plain = searchers.within(plain, space, allowed, objectives=one)
    if one < number:
        plain = searchers.weighted(plain, np.eye(number)[0])
    budgets = config.budgets
    return plain if len(budgets) == 1 else searchers.halving(plain, _searched(config, space), eta=config.eta)


def _searched(config: TrialSearch, space: spaces.CellSpace) -> Any:
    return space if len(config.budgets) == 1 else searchers.budgeted(space, config.budgets)


def allowed(
    config: TrialSearch, plan: Plan, path: pathlib.Path, price: costs.Price | None = None
) -> Callable[[np.ndarray], bool]:
    """Whether an architecture keeps the limits, see `driver.CellSearch`; says now and then what is refused.

    Args:
      config: the settings.
      plan: of the search.
      path: of the run.
      price: from `costs.of_networks`; None: it is made.

    Returns:
      The function.
    """
    keeps = costs.keeping(config.limits, price or costs.of_networks(config.train, plan.train, path))
    return lambda code: keeps(plan.space, code[: len(plan.space.choices)])


def plan(
    config: TrialSearch, splits: data.Splits, space: spaces.CellSpace, mesh: Mesh | None = None, *,
    storage: str | None = None,
) -> Plan:  # fmt: skip
    """Build and check everything that a search needs, touching no disk but the storage, which is opened or made.

    Args:
      config: the settings.
      splits: the data.
      space: to search.
      mesh: of the devices, for the trainings after the search; the trials of a worker run on one.
      storage: where the trials are, a URL or a path, see `open_study`; None: a journal file in the folder.

    Returns:
      The plan.

    Raises:
      UserError, ValueError: for settings that do not fit each other or the data.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    parts = held_out(splits.train, config.train_images, config.validation, key)
    known = truth_table.table(config.table, space, column=config.table_column) if config.table else None
    if known is None:
        data.supervised_source(parts[0], batch_size=config.trial.batch_size, augment=data.Augment())  # checks the size
    searcher_of(config, space, lambda arch: True)  # checks the settings
    searched = _searched(config, space)
    if storage is not None:  # one that is refused leaves no folder
        study.close_study(_study(config, searched, storage))
    return Plan(space, searched, (), len(parts[1]), *parts, known, storage)


def search(config: TrialSearch, plan: Plan, path: pathlib.Path) -> dict[str, Any]:
    """The trials, see `driver.CellSearch`; the processes that share the study share them."""
    files.prepare_folder(path / SEARCH)
    trials = _study(config, plan.searched, plan.storage or path / SEARCH / JOURNAL)
    started, price = time.monotonic(), costs.of_networks(config.train, plan.train, path)
    name = lambda code: spaces.to_string(plan.space, code[: len(plan.space.choices)])
    rungs = _rungs(config, path)
    rung = lambda trial: trial.code[len(plan.space.choices) :].tolist()
    # Of those trained for longest, and there the front's end: the best by the first score.
    rank = lambda trial: (rung(trial), trial.scores[0])
    best_of = lambda seen: seen.best if rungs is None else max(seen.trials, key=rank, default=None)
    fair = lambda hook: lambda seen: hook(seen._replace(best=best_of(seen)))
    hooks = [fair(study.trials_progress("trials")), study.trials_jsonl(path / SEARCH / LINES, name)]
    if rungs is not None:
        hooks += [objectives.clearing(rungs, eta=config.eta, num_evaluations=config.num_evaluations)]
    try:
        # One of the processes that share the folder draws the curves.
        with exclusive(path / SEARCH / ".curves", wait=False) as mine:
            found = study.search(
                searcher_of(config, plan.space, allowed(config, plan, path, price)),
                _objective(config, plan, path, price),
                key=jax.random.fold_in(jax.random.key(config.seed), 3),
                num_evaluations=config.num_evaluations, study=trials, batch_size=config.ask_size,
                hooks=[*hooks, *([fair(study.trials_tensorboard(path / SEARCH))] if mine else [])],
                describe=name, max_failures=config.max_failures, max_retries=config.max_retries,
                lease_seconds=config.lease_seconds,
            )  # fmt: skip
    finally:
        study.close_study(trials)
    best, by = _chosen(config, plan, found.trials, max(found.trials, key=rank))
    genotype, front, epochs, after = name(best.code), found.front, {}, " of the front" * bool(config.beside)
    if rungs is not None:
        front, epochs = (best,), {"epochs": config.budgets[best.code[-1]]}
        after = f" after {epochs['epochs']} epochs"
    return {
        "genotype": genotype, "connected": spaces.is_connected(plan.space, spaces.from_string(plan.space, genotype)),
        "evaluations": len(found.trials), "failed": len(found.failed), "score": best.scores[0],
        "scores": ["score", *config.beside],
        "front": [{"trial": trial.number, "architecture": name(trial.code), "scores": list(trial.scores), **epochs}
                  for trial in front],
        "derivation": f"the {by}{after}", "seconds": round(time.monotonic() - started, 2),
    }  # fmt: skip


def _chosen(
    config: TrialSearch, plan: Plan, trials: Sequence[study.Trial], best: study.Trial
) -> tuple[study.Trial, str]:
    """What the search stands for, and in which words: of those trained for as long as the best score.

    Scores of trainings are noisy, and the best of many is the luckiest as well. A Gaussian process, where it proposed
    what was tried, knows them all, each on the scale of the smallest budget: the largest posterior mean is taken.
    """
    if config.searcher != "gaussian_process" or config.objective not in ("training", "own_training") or config.beside:
        return best, "best score"
    length = len(plan.space.choices)
    longest = [trial for trial in trials if (trial.code[length:] == best.code[length:]).all()]
    codes, values = (
        np.stack(column) for column in zip(*((t.code, np.float64(t.scores[0])) for t in trials), strict=True)
    )
    if length < codes.shape[1]:
        codes, values = latest(
            record(plan.searched, no_observations(plan.searched), codes, values), len(config.budgets)
        )
    state = record(plan.space, no_observations(plan.space), codes, values)
    model = searchers.surrogate(plan.space, transform=clipped)
    code = incumbent(model, state, np.stack([trial.code[:length] for trial in longest])).code
    return next(trial for trial in longest if (trial.code[:length] == code).all()), "largest posterior mean"


def _rungs(config: TrialSearch, path: pathlib.Path) -> objectives.Rungs | None:
    """The budgets of successive halving; None: there is one."""
    key = jax.random.fold_in(jax.random.key(config.seed), 5)
    return objectives.Rungs(config.budgets, key, path / SEARCH / RUNGS) if len(config.budgets) > 1 else None


def _study(config: TrialSearch, space: Space, storage: str | pathlib.Path) -> "optuna.Study":
    about = {name: value for name, value in dataclasses.asdict(config).items() if name not in _OWN}
    if config.score == "accuracy":  # as in studies of versions that had no other
        del about["score"]
    network = {name: config.train.__dict__[name] for name in ("channels", "depth", "stem")}  # of which costs are
    digest = hashlib.sha256(json.dumps([about, network], sort_keys=True).encode()).hexdigest()[:8]
    return study.open_study(
        storage,
        name=f"jnas-{space.name}-{config.searcher}-{config.seed}-{digest}",
        objectives={"score": "maximize", **dict.fromkeys(config.beside, "minimize")},
        choices=space.choices,
        about={**about, "network": network},
    )


def _objective(config: TrialSearch, plan: Plan, path: pathlib.Path, price: costs.Price) -> Objective:
    if plan.table is not None:
        judge = plan.table
    elif config.objective == "shared_weights":
        # Of the processes that share the folder one trains, the others wait and find it done.
        with exclusive(files.prepare_folder(path / SUPERNET) / ".lock"):
            supernet = objectives.train_supernet(
                plan.space, plan.train, config.trial,
                key=jax.random.fold_in(jax.random.key(config.seed), 4),
                folder=path / SUPERNET,
            )  # fmt: skip
        judge = objectives.shared_weights(supernet, plan.validation, by=config.score)
    elif (make := own.part_of(config.objective, "objective")) is not None:
        with own.explained(own.shown(config.objective).partition(":")[0]):
            judge = objectives.with_metrics(make(plan.space, plan.train, plan.validation, config.trial))
    else:
        steps = config.trial.epochs * (len(plan.train) // config.trial.batch_size)
        short = config.objective == "training" and steps <= objectives.LONGEST
        make = objectives.short_training if short else objectives.own_training
        judge = make(plan.space, plan.train, plan.validation, config.trial, _rungs(config, path), config.score)
    cost = lambda name: lambda code: price(name, plan.space, code[: len(plan.space.choices)])
    if config.beside:
        return objectives.beside(judge, {name: cost(name) for name in config.beside})
    if weights := {name: config.costs.get(name, 0.0) for name in (*config.costs, *config.limits)}:
        return objectives.minus(judge, {name: (cost(name), weight) for name, weight in weights.items()})
    return judge
