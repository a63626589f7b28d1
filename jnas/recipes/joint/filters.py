"""What the thresholds of a joint search leave of its spaces, by the sensitivity of units and of operators."""

import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jnas import spaces
from jnas.nets.quant.units import UnitOf, Units, shared_operator
from jnas.recipes import costs, run_folder
from jnas.recipes.joint import sensitivity
from jnas.recipes.joint.plan import Plan, costs_of, own_policies, units_of
from jnas.recipes.joint.settings import QuantisedSearch
from jnas.spaces.cell import CellSpace
from jnas.spaces.policy import PolicySpace, method_of

SENSITIVITY = "sensitivity.json"
ACCURACY = "accuracy"


def filtered(config: QuantisedSearch, plan: Plan, score, path: pathlib.Path) -> tuple[CellSpace, PolicySpace]:
    """The spaces that the thresholds leave, and the sensitivities written for the report.

    An option stays that passes every threshold, the one on accuracy first: of what one has left the next one takes its
    share, and each leaves at least the least sensitive.

    Args:
      config: the settings.
      plan: of the search.
      score: `(units, at_once) -> judge`, see `weight_sharing.judge`.
      path: of the run; sensitivities that stand there are not measured again.

    Returns:
      The architectures, and the policies.
    """
    space, policies = plan.space, own_policies(config, plan)
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    archs = np.asarray(spaces.sample(space, key, config.probes))
    stored = run_folder.read_json(path / SENSITIVITY) or {}

    def table_of(name: str, limits: dict[str, float], of: Units, unit_of: UnitOf, archs: np.ndarray):
        if name not in stored:
            found = _measured(config, plan, of, unit_of, score, archs, list(limits))
            stored[name] = {**sensitivity.to_json(found), "thresholds": limits}
        return sensitivity.from_json(stored[name])

    if limits := _limits(config.method_threshold, config.method_growth):
        table = table_of("methods", limits, plan.units, plan.unit_of, archs)
        for metric, limit in limits.items():
            policies = sensitivity.filter_methods(policies, table, metric, limit)
    if limits := _limits(config.operator_threshold, config.operator_growth):
        probes = covering(space, archs, jax.random.fold_in(key, 1))
        of = units_of(plan.net, plan.training.shape, shared_operator)
        table = table_of("operators", limits, of, shared_operator, probes)
        for metric, limit in limits.items():
            space = sensitivity.filter_operators(space, _by_edge(table, metric, shares(plan.space, probes)), limit)
    if stored:
        run_folder.write_json(path / SENSITIVITY, stored)
    return space, policies


def shares(space: CellSpace, archs: np.ndarray) -> dict[tuple[str, str], float]:
    """The share of architectures that hold an operator on an edge, by `("cell/0_1", operator)`."""
    found: dict[tuple[str, str], float] = {}
    for arch in archs:
        fixed = spaces.fix(space, arch)
        for cell in fixed.cells:
            for edge in fixed.edges(cell):
                for op in edge.ops:
                    at = f"{cell}/{edge.source}_{edge.target}", op
                    found[at] = found.get(at, 0.0) + 1 / len(archs)
    return found


def covering(space: CellSpace, archs: np.ndarray, key) -> np.ndarray:
    """The architectures, and further random ones until every operator of every edge is in one: else it has no loss."""
    wanted = {
        (f"{cell}/{edge.source}_{edge.target}", op)
        for cell in space.cells
        for edge in space.edges(cell)
        for op in edge.ops
    }
    missing = wanted - shares(space, archs).keys()
    for round_ in range(100):
        if not missing:
            break
        for arch in np.asarray(spaces.sample(space, jax.random.fold_in(key, round_), 32)):
            new = missing & shares(space, arch[None]).keys()
            if new:
                archs, missing = np.concatenate([archs, arch[None]]), missing - new
    return archs


def _limits(accuracy: float | None, growth: Mapping[str, float]) -> dict[str, float]:
    return {**({} if accuracy is None else {ACCURACY: accuracy}), **growth}


def _measured(
    config: QuantisedSearch, plan: Plan, of: Units, unit_of: UnitOf, score, archs: np.ndarray, metrics: Sequence[str]
) -> sensitivity.Sensitivity:
    """Each unit alone under each method, as the mean over some architectures."""
    program = score(of, at_once=4) if ACCURACY in metrics else None
    model = costs_of(plan, of, unit_of)
    ops = [costs.operators(model, arch) for arch in archs]

    def evaluate(policy: np.ndarray):
        found = {}
        if program is not None:
            pairs = [(arch, columns) for columns in policy for arch in archs]
            found[ACCURACY] = program(*(np.stack(part) for part in zip(*pairs, strict=True)))
        each = [costs.costs(model, placed, columns) for columns in policy for placed in ops]
        found |= {name: np.array([one[name] for one in each]) for name in metrics if name != ACCURACY}
        return {name: values.reshape(len(policy), len(archs)).mean(1) for name, values in found.items()}

    reference = np.full(len(of.names), plan.methods.index(method_of(config.sensitivity_from)), np.int32)
    return sensitivity.measure(evaluate, of.names, plan.methods, reference)


def _by_edge(
    found: sensitivity.Sensitivity, metric: str, held: Mapping[tuple[str, str], float]
) -> dict[str, dict[str, float]]:
    """The loss of each operator of each edge under the policy's method, the first one."""
    losses: dict[str, dict[str, float]] = {}
    for unit, row in zip(found.units, found.losses[metric], strict=True):
        edge, _, op = unit.rpartition("/")
        if edge.count("/") == 1:  # an operator of an edge, and not a projection or a residual block
            # The mean is over all probes, of which only some hold the operator.
            losses.setdefault(edge, {})[op] = float(row[0]) / held[edge, op]
    return losses
