"""The searches of a joint search: each a study in the run folder, whose trials any number of processes share."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
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
from jnas.searchers.base import Evaluation, Searcher, beginning
from jnas.searchers.front import estimates, representatives, undominated
from jnas.spaces import networks
from jnas.spaces.networks import NetworkSpace
from jnas.spaces.policy import EIGHT, PolicySpace
from jnas.spaces.products import product
from jnas.study import Progress, Trial, close_study, open_study, search, trials_progress
from jnas.types import Key

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


def searcher_of(config: QuantisedSearch, space: Any, known: Callable[[np.ndarray], np.ndarray]) -> Searcher:
    """The searcher that the settings name; where it breeds, its population begins with uniform policies.

    Args:
      config: the settings.
      space: architectures times policies.
      known: the costs `beside` of codes, `[n, num_choices] -> [n, num_costs]`.

    Returns:
      The searcher.
    """
    match config.searcher:
        case "reinforce":
            return searchers.reinforce(
                space, batch_size=config.at_once, learning_rate=config.learning_rate, repeats=config.repeats,
                entropy=config.entropy, queue=config.queue, imitation=config.imitation, seed=config.seed,
            )  # fmt: skip
        case "random":
            return searchers.random(space)
        case "genetic":
            found = searchers.genetic(space, population=config.population)
        case "evolution":
            found = searchers.evolution(space, population=config.population)
        case "nsga2":
            found = searchers.nsga2(space, objectives=1 + len(config.beside), population=config.population)
        case "front":
            found = searchers.front(space, known, num_initial=config.population)
    key = jax.random.fold_in(jax.random.key(config.seed), 4)
    return beginning(found, uniform(space, key, config.population))


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


def uniform(both: Any, key: Key, count: int) -> np.ndarray:
    """Random architectures, each with one method in all units, the methods in turn: `[count, num_choices]` codes.

    A population that begins with them holds what a uniform policy can do, and the search has to find what is better: of
    random policies hardly one is narrow everywhere.

    Args:
      both: architectures times policies.
      key: of the draw.
      count: how many.

    Returns:
      Codes of `both`; where a unit has fewer methods than others, the one at the same share of its list.
    """
    space, policies = both.factors
    most = spaces.num_options(policies)
    shares = np.arange(count) % most.max() / max(most.max() - 1, 1)
    return both.join(np.asarray(spaces.sample(space, key, count)), np.round(shares[:, None] * (most - 1)))


def _search(
    config: QuantisedSearch, plan: Plan, name: str, space: NetworkSpace, policies: PolicySpace, total: int, judge,
    path: pathlib.Path,
) -> dict[str, Any]:  # fmt: skip
    """One search, or what it found before; of the processes that share it the first to end says what that is."""
    known = run_folder.read_json(path / FOUND) or {}
    if name not in known:
        both = product(space, policies, order=order_of(config.order, len(space.choices), len(policies.choices)))
        trials, converged = _trials(config, plan, name, both, total, judge, path)
        with exclusive(path / LOCK):
            known = run_folder.read_json(path / FOUND) or {}
            if name not in known:
                known[name] = _outcome(config, plan, both, trials, converged)
                run_folder.write_json(path / FOUND, known)
    return known[name]


def _outcome(
    config: QuantisedSearch, plan: Plan, both: Any, trials: tuple[Trial, ...], converged: bool
) -> dict[str, Any]:
    """The best by reward, and the course of the search."""
    if not trials:
        raise UserError(
            "every trial has failed: see the errors of the study in trials.journal, and correct what they name"
        )
    each = [trial.metrics for trial in trials]
    if config.searcher == "front":  # not the luckiest score
        scores = np.array([one["accuracy"] for one in each])
        smooth = estimates(both, np.array([trial.code for trial in trials]), scores).tolist()
        each = [{**one, "accuracy": score} for one, score in zip(each, smooth, strict=True)]
        each = [{**one, "reward": plan.reward(one)} for one in each]
    found = {
        "evaluations": len(trials), "converged": converged, **max(each, key=lambda one: one["reward"]),
        "curve": np.maximum.accumulate([one["reward"] for one in each]).round(6).tolist(),
    }  # fmt: skip
    if config.beside:
        values = np.array([[one[name] for name in ("accuracy", *config.beside)] for one in each])
        found["points"] = {"names": ["accuracy", *config.beside], "values": values.tolist()}
        best = undominated(values[:, 0], values[:, 1:])
        found["front"] = [one for one, kept in zip(each, best, strict=True) if kept]
    return found


def few(front: Sequence[Mapping[str, Any]], cost: str, count: int, plan: Plan) -> list[dict[str, Any]]:
    """So many candidates that stand for a front, from cheap to dear.

    Args:
      front: candidates.
      cost: a name in each.
      count: of them; a smaller front is taken whole.
      plan: of the search; beyond the largest network at 8 bits nothing counts.

    Returns:
      Those of `searchers.front.representatives`.
    """
    scores, prices = (np.array([one[name] for one in front]) for name in ("accuracy", cost))
    taken = representatives(scores, prices, count, most=costs.largest(plan.costs)[cost])
    return [dict(front[n]) for n in sorted(taken, key=lambda n: prices[n])]


def _trials(
    config: QuantisedSearch, plan: Plan, name: str, both: Any, total: int, judge, path: pathlib.Path
) -> tuple[tuple[Trial, ...], bool]:
    """The trials of one search on the trial loop, and whether its reward stood still."""
    space, policies = both.factors
    whole = space == plan.space
    several = config.searcher in ("nsga2", "front") and config.beside

    def parts(code: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
        arch, policy = (np.asarray(part) for part in both.split(code))
        arch = arch if whole else np.asarray(networks.from_string(plan.space, networks.to_string(space, arch)))
        columns = policies.columns(policy)
        return arch, columns, costs.costs(plan.costs, costs.operators(plan.costs, arch), columns)

    def beside(codes: np.ndarray) -> np.ndarray:
        each = (parts(code)[2] for code in codes)
        return np.array([[one[name] for name in config.beside] for one in each])

    def objective(code: np.ndarray, key) -> Evaluation:
        arch, columns, own = parts(code)
        metrics = {"accuracy": float(judge(arch[None], columns[None])[0]), **own}
        reward = plan.reward(metrics)
        scores = (metrics["accuracy"], *(metrics[cost] for cost in config.beside)) if several else reward
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
        objectives={"accuracy": "maximize", **dict.fromkeys(config.beside, "minimize")} if several else None,
    )  # fmt: skip
    settled: list[tuple[Trial, ...]] = []
    try:
        found = search(
            searcher_of(config, both, beside), objective, key=jax.random.fold_in(jax.random.key(config.seed), 3),
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
