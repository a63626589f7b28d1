"""Search by trials: a searcher proposes, an objective judges, any number of workers share the study, and the best
architecture is trained beside random ones.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jnas import data, files, report, searchers, spaces
from jnas.errors import UserError
from jnas.files.locks import exclusive
from jnas.nets.chain import FoundNetwork
from jnas.recipes import run_folder, train_network
from jnas.recipes.settings import share
from jnas.recipes.trials import network_costs, objectives, truth_table
from jnas.recipes.trials.settings import TrialSearch
from jnas.searchers.base import Objective, Searcher
from jnas.study import close_study, open_study, search, trials_jsonl, trials_progress, trials_tensorboard
from jnas.types import Array

SUPERNET, SEARCH = "supernet", "search"  # folders of a run
JOURNAL, LINES = "trials.log", "trials.jsonl"  # of its search: the study, and what the report reads
# What a worker may set differently from another one: nothing of these changes what a trial is.
_OWN = ("random_cells", "train", "steps_per_call", "max_failures", "num_evaluations")


class _Plan(NamedTuple):
    """Everything that a search needs, built and checked before anything is written."""

    space: spaces.CellSpace
    splits: data.Splits
    train: data.Dataset  # of the trials
    validation: data.Dataset
    searcher: Searcher
    costs: dict[str, network_costs.Cost]
    table: Objective | None  # read, if the trials are looked up


def run(
    config: TrialSearch,
    folder: str | pathlib.Path,
    *,
    mesh: Mesh | None = None,
    storage: str | None = None,
    worker: bool = False,
) -> dict[str, Any]:
    """Search, train the best cell and random ones in the same way, and write the report page.

    Run again in the same folder it goes on; run several times at once, the processes share the trials, whether they
    share the folder or only the storage. Of those that share a folder one does what comes after the trials.

    Args:
      config: the settings.
      folder: of the run.
      mesh: of the devices, for the trainings after the search; the trials of a worker run on one.
      storage: where the trials are, a URL or a path, see `open_study`; None: a journal file in the folder.
      worker: only take part in the trials.

    Returns:
      The result, as written to `result.json`; from a process that only took part in the trials `{"note": a sentence}`.

    Raises:
      UserError: for settings that do not fit each other, the data, the folder or the storage; nothing is written then.
      Diverged: if a metric of a final training is not finite.
      Interrupted: after a signal; the trial that was under way is left to the next worker.
    """
    if jax.process_count() > 1:
        raise UserError(
            f"{jax.process_count()} joined processes would each do the whole search: start the command several times, "
            "apart, with one --storage"
        )
    with run_folder.as_user_input():
        plan = _plan(config)
        train_network.prepare(plan.space, spaces.sample(plan.space, jax.random.key(0), 1)[0], plan.splits, config.train)
        path = pathlib.Path(folder)
        files.prepare_folder(path.parent)
    with exclusive(path.parent):  # processes that begin at once
        run_folder.begin(path, config, "trials")
    result = run_folder.read_json(path / run_folder.RESULT)
    if result is not None and not worker:
        report.write_report(path)
        return result
    files.prepare_folder(path / SEARCH)
    found = _search(config, plan, path, storage)
    if worker:
        return {"note": f"took part in a search of {found['evaluations']} trials"}
    with exclusive(path / ".last", wait=False) as mine:
        if not mine:
            return {"note": f"{path}: another process trains what was found"}
        randoms = train_network.random_cells(
            plan.space, jax.random.fold_in(jax.random.key(config.seed), 2), config.random_cells
        )
        best = spaces.from_string(plan.space, found["genotype"])
        named: list[tuple[str, Array]] = [("found", best), *((f"random-{n}", arch) for n, arch in enumerate(randoms))]
        trained = train_network.train_each(named, plan.space, plan.splits, config, path / "train", mesh)
        result = {
            **found, "space": plan.space.name, "method": describe(config), "seed": config.seed,
            "found": trained.pop("found"), "random": list(trained.values()),
            "data": train_network.describe(plan.splits, validation=len(plan.validation)),
        }  # fmt: skip
        run_folder.write_json(path / run_folder.RESULT, result)
        report.write_report(path)
    return result


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


def _plan(config: TrialSearch) -> _Plan:
    space = spaces.by_name(config.space)
    splits = run_folder.load_data(config.data, config.image_size)
    needed = config.train_images + round(share(config.validation, len(splits.train)) * len(splits.train))
    if needed > len(splits.train):
        raise UserError(
            f"train_images and validation are {needed} together and {splits.train.name} has "
            f"{len(splits.train)} training images: take fewer"
        )
    order = np.asarray(
        jax.random.permutation(jax.random.fold_in(jax.random.key(config.seed), 0), len(splits.train)), np.int32
    )
    train, validation = np.split(order[:needed], [config.train_images])
    shape, classes = splits.train.shape, splits.train.num_classes

    def build(arch: np.ndarray) -> FoundNetwork:
        return train_network.network(spaces.fix(space, arch), config.train, classes)

    costs = {
        name: getattr(network_costs, name)(build, shape)  # parameters, flops, latency: those of the settings
        for name in (*config.costs, *config.beside)
    }
    parts = splits.train.part(train), splits.train.part(validation)
    known = truth_table.table(config.table, space, column=config.table_column) if config.table else None
    if known is None:
        data.supervised_source(parts[0], batch_size=config.trial.batch_size, augment=data.Augment())  # checks the size
    return _Plan(space, splits, *parts, searcher_of(config, space), costs, known)


def _objective(config: TrialSearch, plan: _Plan, path: pathlib.Path) -> Objective:
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
        make = objectives.short_training if config.objective == "training" else objectives.own_training
        judge = make(plan.space, plan.train, plan.validation, config.trial)
    if config.beside:
        return objectives.beside(judge, plan.costs)
    if config.costs:
        return objectives.minus(judge, {name: (plan.costs[name], weight) for name, weight in config.costs.items()})
    return judge


def _search(config: TrialSearch, plan: _Plan, path: pathlib.Path, storage: str | None) -> dict[str, Any]:
    about = {name: value for name, value in dataclasses.asdict(config).items() if name not in _OWN}
    network = {name: config.train.__dict__[name] for name in ("channels", "depth", "stem")}  # of which costs are
    digest = hashlib.sha256(json.dumps([about, network], sort_keys=True).encode()).hexdigest()[:8]
    study = open_study(
        storage or path / SEARCH / JOURNAL,
        name=f"jnas-{plan.space.name}-{config.searcher}-{config.seed}-{digest}",
        objectives={"score": "maximize", **dict.fromkeys(config.beside, "minimize")},
        choices=plan.space.choices,
        about={**about, "network": network},
    )
    started = time.time()
    name = functools.partial(spaces.to_string, plan.space)
    hooks = [trials_progress("trials"), trials_jsonl(path / SEARCH / LINES, name)]
    try:
        # One of the processes that share the folder draws the curves.
        with exclusive(path / SEARCH / ".curves", wait=False) as mine:
            found = search(
                plan.searcher, _objective(config, plan, path),
                key=jax.random.fold_in(jax.random.key(config.seed), 3),
                num_evaluations=config.num_evaluations, study=study, batch_size=config.ask_size,
                hooks=[*hooks, *([trials_tensorboard(path / SEARCH)] if mine else [])],
                describe=name, max_failures=config.max_failures, max_retries=config.max_retries,
                lease_seconds=config.lease_seconds,
            )  # fmt: skip
    finally:
        close_study(study)
    best = max(found.trials, key=lambda trial: trial.scores[0])  # the front's end: the best by the first score
    genotype = name(best.code)
    return {
        "genotype": genotype, "connected": spaces.is_connected(plan.space, best.code),
        "evaluations": len(found.trials), "failed": len(found.failed), "score": best.scores[0],
        "scores": ["score", *config.beside],
        "front": [{"trial": trial.number, "architecture": name(trial.code), "scores": list(trial.scores)}
                  for trial in found.front],
        "derivation": "the best score" + (" of the front" if config.beside else ""),
        "seconds": round(time.time() - started, 2),
    }  # fmt: skip
