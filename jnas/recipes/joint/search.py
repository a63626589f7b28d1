"""The searches of a joint search: each a study in the run folder, whose trials any number of processes share."""

import pathlib
from typing import Any

import jax
import numpy as np

from jnas import searchers, spaces
from jnas.errors import Interrupted, UserError
from jnas.files.locks import exclusive
from jnas.recipes import costs, run_folder
from jnas.recipes.joint import rewards
from jnas.recipes.joint.plan import Plan, policies_of
from jnas.recipes.joint.settings import QuantisedSearch
from jnas.searchers.base import Evaluation, Searcher
from jnas.spaces import networks
from jnas.spaces.networks import NetworkSpace
from jnas.spaces.policy import EIGHT, PolicySpace
from jnas.spaces.products import product
from jnas.study import Progress, Trial, close_study, open_study, search, trials_progress

TRIALS, FOUND, LOCK = "trials.journal", "searches.json", ".searches"
JOINT, EIGHTS, BEFORE, AFTER, THEN = "joint", "eight", "architecture", "policy", "then"


def searches(
    config: QuantisedSearch, plan: Plan, space: NetworkSpace, policies: PolicySpace, score, path: pathlib.Path
) -> dict[str, dict[str, Any]]:
    """What each search found, by name: the joint one, and with `compare` the two that it has to beat.

    Args:
      config: the settings.
      plan: of the search.
      space: the architectures that the thresholds have left.
      policies: the policies that they have left.
      score: `(units, at_once) -> judge`, see `weight_sharing.judge`.
      path: of the run.

    Returns:
      For each name the best by reward, with its metrics and the course of the search.
    """
    judge, total = score(), config.num_evaluations
    eight = policies_of(plan, [EIGHT])
    found = {JOINT: _search(config, plan, JOINT, space, policies, total, judge, path)}
    if config.compare:
        found[EIGHTS] = _search(config, plan, EIGHTS, plan.space, eight, total, judge, path)
    if config.compare and not config.policy:
        half = total // 2
        first = _search(config, plan, BEFORE, plan.space, eight, half, judge, path)
        alone = networks.fix(plan.space, np.array(first["arch"], np.int32))
        second = _search(config, plan, AFTER, alone, policies, total - half, judge, path)
        found[THEN] = {**second, "evaluations": first["evaluations"] + second["evaluations"]}
    return found


def searcher_of(config: QuantisedSearch, space: spaces.Space) -> Searcher:
    """The searcher that the settings name, over any space."""
    match config.searcher:
        case "reinforce":
            return searchers.reinforce(
                space, batch_size=config.at_once, learning_rate=config.learning_rate, repeats=config.repeats,
                entropy=config.entropy, queue=config.queue, imitation=config.imitation, seed=config.seed,
            )  # fmt: skip
        case "genetic":
            return searchers.genetic(space, population=config.population)
        case "evolution":
            return searchers.evolution(space, population=config.population)
        case "nsga2":
            return searchers.nsga2(space, objectives=1 + len(config.beside), population=config.population)
        case "random":
            return searchers.random(space)


def order_of(order: str, structure: int, policy: int) -> list[int]:
    """Which choice is drawn after which, of those of the structure followed by those of the policy.

    >>> order_of("structure", 2, 3), order_of("policy", 2, 3), order_of("together", 2, 3)
    ([0, 1, 2, 3, 4], [2, 3, 4, 0, 1], [2, 0, 3, 1, 4])

    Args:
      order: "structure": it is drawn first, and then each unit's method, `p(s) p(q | s)`; "policy": `p(q) p(s | q)`;
        "together": the choices of both take turns.
      structure: the number of its choices.
      policy: the number of units.

    Returns:
      A permutation.
    """
    first, second = list(range(structure)), list(range(structure, structure + policy))
    if order == "together":  # each at its share of the way
        shares = [(n + 0.5) / structure for n in first] + [(n + 0.5) / policy for n in range(policy)]
        return sorted(first + second, key=lambda n: (shares[n], n))
    return second + first if order == "policy" else first + second


def _search(
    config: QuantisedSearch, plan: Plan, name: str, space: NetworkSpace, policies: PolicySpace, total: int, judge,
    path: pathlib.Path,
) -> dict[str, Any]:  # fmt: skip
    """One search, or what it found before; of the processes that share it the first to end says what that is."""
    known = run_folder.read_json(path / FOUND) or {}
    if name not in known:
        trials, converged = _trials(config, plan, name, space, policies, total, judge, path)
        with exclusive(path / LOCK):
            known = run_folder.read_json(path / FOUND) or {}
            if name not in known:
                known[name] = _outcome(config, trials, converged)
                run_folder.write_json(path / FOUND, known)
    return known[name]


def _outcome(config: QuantisedSearch, trials: tuple[Trial, ...], converged: bool) -> dict[str, Any]:
    """The best by reward, and the course of the search."""
    if not trials:
        raise UserError(
            "every trial has failed: see the errors of the study in trials.journal, and correct what they name"
        )
    best = max(trials, key=lambda trial: trial.metrics["reward"])
    found = {
        "evaluations": len(trials), "converged": converged, **best.metrics,
        "curve": np.maximum.accumulate([trial.metrics["reward"] for trial in trials]).round(6).tolist(),
    }  # fmt: skip
    if config.beside:
        names = ["accuracy", *config.beside]
        signs = np.where(np.arange(len(names)) == 0, 1, -1)
        points = np.array([trial.scores for trial in trials]) * signs
        beaten = [((points >= point).all(1) & (points > point).any(1)).any() for point in points]
        found["points"] = {"names": names, "values": [list(trial.scores) for trial in trials]}
        found["front"] = [trial.metrics for trial, worse in zip(trials, beaten, strict=True) if not worse]
    return found


def _trials(
    config: QuantisedSearch, plan: Plan, name: str, space: NetworkSpace, policies: PolicySpace, total: int, judge,
    path: pathlib.Path,
) -> tuple[tuple[Trial, ...], bool]:  # fmt: skip
    """The trials of one search on the trial loop, and whether its reward stood still."""
    both: Any = product(space, policies, order=order_of(config.order, len(space.choices), len(policies.choices)))
    whole = space == plan.space

    def objective(code: np.ndarray, key) -> Evaluation:
        arch, policy = (np.asarray(part) for part in both.split(code))
        arch = arch if whole else np.asarray(networks.from_string(plan.space, networks.to_string(space, arch)))
        columns = policies.columns(policy)
        metrics = {"accuracy": float(judge(arch[None], columns[None])[0])}
        metrics |= costs.costs(plan.costs, costs.operators(plan.costs, arch), columns)
        reward = plan.reward(metrics)
        scores = (metrics["accuracy"], *(metrics[cost] for cost in config.beside)) if config.beside else reward
        return Evaluation(scores, {"reward": reward, **metrics, "arch": arch.tolist(), "columns": columns.tolist()})

    def stop(progress: Progress) -> None:
        each = [trial.metrics["reward"] for trial in progress.trials]
        best = [max(each[start : start + config.at_once]) for start in range(0, len(each), config.at_once)]
        best = best[: len(each) // config.at_once]  # of whole iterations
        if config.tolerance is None:
            return
        ended = name in (
            run_folder.read_json(path / FOUND) or {}
        )  # for another process, which may have seen fewer trials
        if ended or rewards.converged(best, window=config.window, tolerance=config.tolerance):
            settled.append(progress.trials)
            raise Interrupted("the reward stands still")  # the only way out of the loop from a hook

    study = open_study(
        path / TRIALS, name=name, choices=both.choices, about={"space": both.name, "seed": config.seed},
        objectives={"accuracy": "maximize", **dict.fromkeys(config.beside, "minimize")} if config.beside else None,
    )  # fmt: skip
    settled: list[tuple[Trial, ...]] = []
    try:
        found = search(
            searcher_of(config, both), objective, key=jax.random.fold_in(jax.random.key(config.seed), 3),
            num_evaluations=min(total, spaces.size(both)), study=study, batch_size=config.at_once,
            hooks=[trials_progress(f"search {name}"), stop],
        )  # fmt: skip
    except Interrupted:
        if not settled:
            raise
        return settled[0], True
    finally:
        close_study(study)
    return found.trials, False
