"""Search for an architecture and a quantisation policy together, by reward, with weights that the candidates share."""

import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jnas import data, engine, report, searchers, spaces
from jnas.errors import Interrupted, UserError
from jnas.methods import costs, differentiable, quantised_training, retrain, rewards, runs, sensitivity, weight_sharing
from jnas.methods.quantised_plan import Plan, make_plan, own_policies, policies_of, units_of
from jnas.methods.settings_quantised import QuantisedSearch
from jnas.nets.units import Units, shared_operator
from jnas.spaces.cell import CellSpace
from jnas.spaces.policy import EIGHT, UNQUANTISED, PolicySpace
from jnas.types import Evaluation, Searcher

SENSITIVITY, SUPERNET, TRIALS = "sensitivity.json", "supernet", "trials.journal"
JOINT, EIGHTS, BEFORE, AFTER = "joint", "eight", "architecture", "policy"


def run(config: QuantisedSearch, folder: str | pathlib.Path, *, mesh: Mesh | None = None) -> dict[str, Any]:
    """Search, train what was found with quantisation, compare at equal cost, and write the report page.

    1. A supernet is trained on random single paths and random policies of the space.
    2. If a threshold is set, sensitivities are measured on validation images, and the spaces narrowed.
    3. A searcher asks for candidates; each is scored on the validation images with the supernet's weights, and its
       reward is what the searcher is told. It ends after `num_evaluations`, or when the reward stands still.
    4. The found network is trained from scratch under its policy. With `compare` so are the best architecture for 8
       bits everywhere, from a search of its own with as many evaluations, and the best architecture at 8 bits from half
       of the evaluations under the best policy for it from the other half.

    Run again in the same folder it goes on from where it was cut off; a finished run is returned as it is.

    Args:
      config: the settings.
      folder: of the run.
      mesh: None; this search runs on one device.

    Returns:
      The result, as written to `result.json`.

    Raises:
      UserError: for settings that do not fit each other, the data or the folder; nothing is written then.
      Diverged: if a metric is not finite.
      Interrupted: after a signal, when everything is saved.
    """
    if mesh is not None:
        raise UserError("a quantised search runs on one device: leave out --mesh")
    with runs.as_user_input():
        plan = make_plan(config)
    path = runs.begin(folder, config, "quantised")
    result = runs.read_json(path / runs.RESULT)
    if result is None:
        started = time.time()
        score = _supernet(config, plan, path / SUPERNET)
        with runs.as_user_input():
            space, policies = _filtered(config, plan, score, path)
        found = _searches(config, plan, space, policies, score, path)
        trained = {name: _train(config, plan, chosen, path / "train" / name) for name, chosen in found.items()}
        main = trained[JOINT]
        result = {
            "genotype": main["genotype"], "space": plan.space.name, "method": describe(config), "seed": config.seed,
            "derivation": "best reward among the evaluated", "steps": found[JOINT]["evaluations"],
            "seconds": round(time.time() - started, 2), "found": main, "random": [],
            "quantised": {name: {**found[name], **trained[name]} for name in found},
            "data": retrain.describe(plan.splits, len(plan.validation)),
        }  # fmt: skip
        runs.write_json(path / runs.RESULT, result)
    report.write_report(path)
    return result


def describe(config: QuantisedSearch) -> str:
    """The method in the words of a table."""
    what = f"architecture at {config.policy}" if config.policy else "architecture and policy"
    return f"{what} by reward ({config.searcher}), weights shared"


def searcher_of(config: QuantisedSearch, space: spaces.Space) -> Searcher:
    """The searcher that the settings name, over any space."""
    match config.searcher:
        case "reinforce":
            return searchers.reinforce(
                space, batch_size=config.at_once, learning_rate=config.learning_rate, repeats=config.repeats,
                seed=config.seed,
            )  # fmt: skip
        case "genetic":
            return searchers.genetic(space, population=config.population)
        case "evolution":
            return searchers.evolution(space, population=config.population)
        case "random":
            return searchers.random(space)


def _supernet(config: QuantisedSearch, plan: Plan, folder: pathlib.Path):
    """The trained weights as a function that scores candidates: `at_once -> judge`, see `weight_sharing.judge`."""
    part = config.supernet
    steps_per_epoch = len(plan.training) // part.batch_size
    num_steps = part.epochs * steps_per_epoch
    policies = own_policies(config, plan)
    # The comparisons' 8 bits among them: the weights have to know what they are judged by.
    drawn = tuple(m for m in plan.methods if m in policies.allowed[0] or m == EIGHT)
    learner = weight_sharing.single_path(
        plan.net,
        weight_sharing.start_supernet(plan.net, plan.training.shape),
        plan.units,
        policies_of(plan, drawn),
        plan.space,
        differentiable.optimiser_of(part.weights, num_steps),
    )
    state = engine.fit(
        learner,
        data.supervised_source(plan.training, batch_size=part.batch_size, augment=plan.augment),
        key=jax.random.fold_in(jax.random.key(config.seed), 1),
        num_steps=num_steps,
        hooks=runs.hooks(folder, "supernet", "loss", "accuracy"),
        checkpoint_dir=folder / "checkpoints",
        checkpoint_every=steps_per_epoch,
        steps_per_call=config.steps_per_call,
    )
    variables = {"params": state.point.weights, "batch_stats": state.variables}

    def score(of: Units = plan.units, at_once: int | None = None):
        return weight_sharing.judge(
            plan.net, variables, of, plan.methods, plan.space, plan.validation, plan.augment, at_once=at_once
        )

    return score


def _filtered(config: QuantisedSearch, plan: Plan, score, path: pathlib.Path) -> tuple[CellSpace, PolicySpace]:
    """The spaces that the thresholds leave, and their sensitivities written for the report."""
    space, policies = plan.space, own_policies(config, plan)
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    archs = np.asarray(spaces.sample(space, key, config.probes))
    stored = runs.read_json(path / SENSITIVITY) or {}
    if config.method_threshold is not None:
        found = stored.get("methods") or sensitivity.to_json(_measured(plan, plan.units, score, archs))
        stored["methods"] = found
        table = sensitivity.from_json(found)
        policies = sensitivity.filter_methods(policies, table, "accuracy", config.method_threshold)
    if config.operator_threshold is not None:
        of = units_of(plan.net, plan.training.shape, shared_operator)
        covering = _covering(space, archs, jax.random.fold_in(key, 1))
        found = stored.get("operators") or sensitivity.to_json(_measured(plan, of, score, covering))
        stored["operators"] = found
        table = sensitivity.from_json(found)
        held = _shares(space, covering)
        losses: dict[str, dict[str, float]] = {}
        for unit, row in zip(table.units, table.losses["accuracy"], strict=True):
            edge, _, op = unit.rpartition("/")
            if edge.count("/") == 1:  # an operator of an edge, and not a projection or a residual block
                # The mean is over all probes, of which only some hold the operator.
                losses.setdefault(edge, {})[op] = float(row[0]) / held[edge, op]
        space = sensitivity.filter_operators(space, losses, config.operator_threshold)
    if stored:
        runs.write_json(path / SENSITIVITY, stored)
    return space, policies


def _shares(space: CellSpace, archs: np.ndarray) -> dict[tuple[str, str], float]:
    """The share of architectures that hold an operator on an edge, by `("cell/0_1", operator)`."""
    shares: dict[tuple[str, str], float] = {}
    for arch in archs:
        fixed = spaces.fix(space, arch)
        for cell in fixed.cells:
            for edge in fixed.edges(cell):
                for op in edge.ops:
                    at = f"{cell}/{edge.source}_{edge.target}", op
                    shares[at] = shares.get(at, 0.0) + 1 / len(archs)
    return shares


def _covering(space: CellSpace, archs: np.ndarray, key) -> np.ndarray:
    """The architectures, and further random ones until every operator of every edge is in one: else it has no loss."""
    wanted = {
        (f"{cell}/{edge.source}_{edge.target}", op)
        for cell in space.cells
        for edge in space.edges(cell)
        for op in edge.ops
    }
    missing = wanted - _shares(space, archs).keys()
    for round_ in range(100):
        if not missing:
            break
        for arch in np.asarray(spaces.sample(space, jax.random.fold_in(key, round_), 32)):
            new = missing & _shares(space, arch[None]).keys()
            if new:
                archs, missing = np.concatenate([archs, arch[None]]), missing - new
    return archs


def _measured(plan: Plan, of: Units, score, archs: np.ndarray) -> sensitivity.Sensitivity:
    """Each unit alone under each method, the others not quantised, as the mean over some architectures."""
    program = score(of, at_once=4)

    def evaluate(policy: np.ndarray):
        pairs = [(arch, columns) for columns in policy for arch in archs]
        found = program(*(np.stack(part) for part in zip(*pairs, strict=True)))
        return {"accuracy": found.reshape(len(policy), len(archs)).mean(1)}

    reference = np.full(len(of.names), plan.methods.index(UNQUANTISED), np.int32)
    return sensitivity.measure(evaluate, of.names, plan.methods, reference)


def _searches(config, plan: Plan, space: CellSpace, policies: PolicySpace, score, path: pathlib.Path):
    """What each search found, by name: the joint one, and with `compare` the two that it has to beat."""
    judge, total = score(), config.num_evaluations
    eight = policies_of(plan, [EIGHT])
    found = {JOINT: _search(config, plan, JOINT, space, policies, total, judge, path)}
    if config.compare:
        found[EIGHTS] = _search(config, plan, EIGHTS, plan.space, eight, total, judge, path)
    if config.compare and not config.policy:
        half = total // 2
        first = _search(config, plan, BEFORE, plan.space, eight, half, judge, path)
        alone = _only(plan.space, np.array(first["arch"], np.int32))
        second = _search(config, plan, AFTER, alone, policies, total - half, judge, path)
        found["then"] = {**second, "evaluations": first["evaluations"] + second["evaluations"]}
    return found


def _only(space: CellSpace, arch: np.ndarray) -> CellSpace:
    """The space of one architecture, its choices and edges being those of the whole space."""
    fixed = spaces.fix(space, arch)
    return spaces.narrow(space, {cell: [edge.ops for edge in fixed.edges(cell)] for cell in space.cells})


def _search(
    config: QuantisedSearch, plan: Plan, name: str, space: CellSpace, policies: PolicySpace, total: int, judge,
    path: pathlib.Path,
) -> dict[str, Any]:  # fmt: skip
    """One search on the trial loop; its trials stand in a study of the run folder."""
    both: Any = spaces.product(space, policies)
    total = min(total, spaces.size(both))
    whole = space == plan.space

    def objective(code: np.ndarray, key) -> Evaluation:
        del key
        arch, policy = (np.asarray(part) for part in both.split(code))
        arch = arch if whole else np.asarray(spaces.encode(plan.space, spaces.fix(space, arch)), np.int32)
        columns = policies.columns(policy)
        metrics = {"accuracy": float(judge(arch[None], columns[None])[0])}
        metrics |= costs.costs(plan.costs, costs.operators(plan.costs, arch), columns)
        return Evaluation(plan.reward(metrics), {**metrics, "arch": arch.tolist(), "columns": columns.tolist()})

    def stop(progress: engine.Progress) -> None:
        scores = [trial.scores[0] for trial in progress.trials]
        parts = range(0, len(scores) - config.at_once + 1, config.at_once)
        best = [max(scores[start : start + config.at_once]) for start in parts]
        if config.tolerance is not None and rewards.converged(best, window=config.window, tolerance=config.tolerance):
            settled.append(progress.trials)
            raise Interrupted("the reward stands still")  # the only way out of the loop from a hook

    about = {"space": both.name, "seed": config.seed}
    study = engine.open_study(path / TRIALS, name=name, choices=both.choices, about=about)
    settled: list[tuple[engine.Trial, ...]] = []
    try:
        trials = engine.search(
            searcher_of(config, both), objective, key=jax.random.fold_in(jax.random.key(config.seed), 3),
            num_evaluations=total, study=study, batch_size=config.at_once, hooks=[stop],
        ).trials  # fmt: skip
    except Interrupted:
        if not settled:
            raise
        trials = settled[0]
    finally:
        engine.close_study(study)
    best = max(trials, key=lambda trial: trial.scores[0])
    return {
        "reward": best.scores[0], "evaluations": len(trials), "converged": bool(settled), **best.metrics,
        "curve": np.maximum.accumulate([trial.scores[0] for trial in trials]).round(6).tolist(),
    }  # fmt: skip


def _train(config: QuantisedSearch, plan: Plan, chosen: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    prepared = retrain.prepare(plan.space, jnp.array(chosen["arch"], jnp.int32), plan.splits, config.train)
    policy = {name: plan.methods[column] for name, column in zip(plan.units.names, chosen["columns"], strict=True)}
    return quantised_training.train(
        prepared, policy, plan.unit_of, plan.splits, config.train, folder, config.seed, config.steps_per_call
    )
