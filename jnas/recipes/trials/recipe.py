"""Search by trials: a searcher proposes, an objective judges, any number of workers share the study, and the best
architecture is trained beside random ones.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jnas import data, files, searchers, spaces, study
from jnas.files.locks import exclusive
from jnas.recipes import costs, train_network
from jnas.recipes.settings import held_out
from jnas.recipes.trials import objectives, truth_table
from jnas.recipes.trials.settings import COSTS, TrialSearch
from jnas.searchers.base import Objective, Searcher

if TYPE_CHECKING:
    import optuna

KIND: str = "trials"  # of the run
SHARED = True  # any number of processes take part
SUPERNET, SEARCH = "supernet", "search"  # folders of a run
JOURNAL, LINES = "trials.log", "trials.jsonl"  # of its search: the study, and what the report reads
# What a worker may set differently from another one: nothing of these changes what a trial is.
_OWN = ("random_cells", "train", "steps_per_call", "max_failures", "num_evaluations")


class Plan(NamedTuple):
    """Everything that a search needs, built and checked before anything is written."""

    space: spaces.CellSpace
    without: tuple[str, ...]  # operators that are not derived: none
    num_outer: int  # images that judge
    train: data.Dataset  # of the trials
    validation: data.Dataset
    searcher: Searcher
    costs: dict[str, objectives.Cost]
    table: Objective | None  # read, if the trials are looked up
    storage: str | None  # None: a journal file in the folder


def describe(config: TrialSearch) -> str:
    """The method in the words of a table."""
    judged = {
        "training": "short trainings", "own_training": "short trainings", "shared_weights": "shared weights",
        "table": "a table",
    }[config.objective]  # fmt: skip
    less = "".join(f", less {weight:g} {name}" for name, weight in config.costs.items())
    beside = "".join(f", beside {name}" for name in config.beside)
    return f"trials by {config.searcher}, judged by {judged}{less}{beside}"


def searcher_of(config: TrialSearch, space: spaces.CellSpace) -> Searcher:
    """The searcher that the settings name; with several objectives all but NSGA-II see the first score alone."""
    number = 1 + len(config.beside)
    if config.searcher == "nsga2":
        return searchers.nsga2(space, objectives=number, population=config.population)
    plain = {
        "random": searchers.random,
        "evolution": functools.partial(searchers.evolution, population=config.population, tournament=3),
        "gaussian_process": functools.partial(searchers.gaussian_process, num_initial=config.population),
        "tpe": functools.partial(searchers.tpe, num_initial=config.population),
    }[config.searcher](space)
    return plain if number == 1 else searchers.weighted(plain, np.eye(number)[0])


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
    shape, classes = splits.train.shape, splits.train.num_classes

    def cost(name: str, arch: np.ndarray) -> float:
        net = train_network.network(spaces.fix(space, arch), config.train, classes)
        return COSTS[name] * costs.OF_A_NETWORK[name](net, shape)

    named = {name: functools.partial(cost, name) for name in (*config.costs, *config.beside)}
    known = truth_table.table(config.table, space, column=config.table_column) if config.table else None
    if known is None:
        data.supervised_source(parts[0], batch_size=config.trial.batch_size, augment=data.Augment())  # checks the size
    searcher = searcher_of(config, space)
    if storage is not None:  # one that is refused leaves no folder
        study.close_study(_study(config, space, storage))
    return Plan(space, (), len(parts[1]), *parts, searcher, named, known, storage)


def search(config: TrialSearch, plan: Plan, path: pathlib.Path) -> dict[str, Any]:
    """The trials, see `driver.CellSearch`; the processes that share the study share them."""
    files.prepare_folder(path / SEARCH)
    trials = _study(config, plan.space, plan.storage or path / SEARCH / JOURNAL)
    started = time.monotonic()
    name = functools.partial(spaces.to_string, plan.space)
    hooks = [study.trials_progress("trials"), study.trials_jsonl(path / SEARCH / LINES, name)]
    try:
        # One of the processes that share the folder draws the curves.
        with exclusive(path / SEARCH / ".curves", wait=False) as mine:
            found = study.search(
                plan.searcher, _objective(config, plan, path),
                key=jax.random.fold_in(jax.random.key(config.seed), 3),
                num_evaluations=config.num_evaluations, study=trials, batch_size=config.ask_size,
                hooks=[*hooks, *([study.trials_tensorboard(path / SEARCH)] if mine else [])],
                describe=name, max_failures=config.max_failures, max_retries=config.max_retries,
                lease_seconds=config.lease_seconds,
            )  # fmt: skip
    finally:
        study.close_study(trials)
    best = max(found.trials, key=lambda trial: trial.scores[0])  # the front's end: the best by the first score
    genotype = name(best.code)
    return {
        "genotype": genotype, "connected": spaces.is_connected(plan.space, best.code),
        "evaluations": len(found.trials), "failed": len(found.failed), "score": best.scores[0],
        "scores": ["score", *config.beside],
        "front": [{"trial": trial.number, "architecture": name(trial.code), "scores": list(trial.scores)}
                  for trial in found.front],
        "derivation": "the best score" + (" of the front" if config.beside else ""),
        "seconds": round(time.monotonic() - started, 2),
    }  # fmt: skip


def _study(config: TrialSearch, space: spaces.CellSpace, storage: str | pathlib.Path) -> "optuna.Study":
    about = {name: value for name, value in dataclasses.asdict(config).items() if name not in _OWN}
    network = {name: config.train.__dict__[name] for name in ("channels", "depth", "stem")}  # of which costs are
    digest = hashlib.sha256(json.dumps([about, network], sort_keys=True).encode()).hexdigest()[:8]
    return study.open_study(
        storage,
        name=f"jnas-{space.name}-{config.searcher}-{config.seed}-{digest}",
        objectives={"score": "maximize", **dict.fromkeys(config.beside, "minimize")},
        choices=space.choices,
        about={**about, "network": network},
    )


def _objective(config: TrialSearch, plan: Plan, path: pathlib.Path) -> Objective:
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
        judge = objectives.shared_weights(supernet, plan.validation)
    else:
        steps = config.trial.epochs * (len(plan.train) // config.trial.batch_size)
        short = config.objective == "training" and steps <= objectives.LONGEST
        make = objectives.short_training if short else objectives.own_training
        judge = make(plan.space, plan.train, plan.validation, config.trial)
    if config.beside:
        return objectives.beside(judge, plan.costs)
    if config.costs:
        return objectives.minus(judge, {name: (plan.costs[name], weight) for name, weight in config.costs.items()})
    return judge
