"""How much a network loses when one unit alone is quantised in another way, and what a threshold leaves of spaces."""

import functools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jnas import spaces
from jnas.nets.quant.units import UnitOf, Units, shared_operator
from jnas.recipes import costs, run_folder
from jnas.recipes.joint.plan import Plan, costs_of, own_policies, units_of
from jnas.recipes.joint.settings import QuantisedSearch
from jnas.spaces import networks
from jnas.spaces.networks import NetworkSpace
from jnas.spaces.policy import Method, PolicySpace, method_of

SENSITIVITY = "sensitivity.json"
ACCURACY = "accuracy"  # the one metric of which more is better


class Sensitivity(NamedTuple):
    """Relative losses when one unit alone goes from the reference policy to a method."""

    units: tuple[str, ...]
    methods: tuple[Method, ...]
    reference: dict[str, float]  # the metrics of the reference policy
    losses: dict[str, np.ndarray]  # for each metric `[num_units, num_methods]`; negative: a gain


def one_changes(reference: np.ndarray, num_methods: int) -> np.ndarray:
    """The reference policy, then all that differ from it in one unit at most.

    >>> one_changes(np.array([0, 1]), 2).tolist()
    [[0, 1], [0, 1], [1, 1], [0, 0], [0, 1]]

    Args:
      reference: `[num_units]`.
      num_methods: that every unit is given.

    Returns:
      `[1 + num_units * num_methods, num_units]` int32, unit by unit.
    """
    reference = np.asarray(reference, np.int32)
    rows = np.tile(reference, (1 + len(reference) * num_methods, 1))
    for unit in range(len(reference)):
        start = 1 + unit * num_methods
        rows[start : start + num_methods, unit] = np.arange(num_methods)
    return rows


def measure(
    evaluate: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    units: Sequence[str],
    methods: Sequence[Method],
    reference: np.ndarray,
) -> Sensitivity:
    r"""The loss of every unit under every method, the other units as in the reference policy.

        (m_ref - m) / m_ref  for accuracy,    (m - m_ref) / m_ref  for latency, size and compute

    Args:
      evaluate: `policies [n, num_units] -> {metric: [n]}`, called once, on validation examples.
      units: names.
      methods: what policies index.
      reference: `[num_units]` the policy changed, such as no quantisation.

    Returns:
      The losses. A metric that is 0 under the reference is divided by 1.
    """
    found = evaluate(one_changes(reference, len(methods)))
    losses, base = {}, {}
    for name, values in found.items():
        values = np.asarray(values, np.float64)
        base[name] = float(values[0])
        change = (values[1:] - values[0]) / (abs(values[0]) or 1.0)
        sign = -1 if name == ACCURACY else 1
        losses[name] = sign * change.reshape(len(units), len(methods))
    return Sensitivity(tuple(units), tuple(methods), base, losses)


def passing(losses: np.ndarray, threshold: float) -> np.ndarray:
    """Which options pass: those that lose at most the threshold; of a row where none does, the least sensitive.

    >>> passing(np.array([[0.1, 0.2, 0.3], [0.5, 0.4, np.nan]]), 0.2).tolist()
    [[True, True, False], [False, True, False]]

    Args:
      losses: `[n, num_options]`; NaN: no option.
      threshold: the largest loss that passes, itself included.

    Returns:
      `[n, num_options]` bool, at least one True a row that has an option.
    """
    there = ~np.isnan(losses)
    passes = there & (np.where(there, losses, np.inf) <= threshold)
    least = np.argmin(np.where(there, losses, np.inf), axis=1)
    alone = (np.arange(losses.shape[1]) == least[:, None]) & there
    return np.where(passes.any(1, keepdims=True), passes, alone)


def ranking(losses: np.ndarray, count: int) -> np.ndarray:
    """Which options are among the `count` least sensitive of their row; of equal ones the earlier.

    >>> ranking(np.array([[0.1, 0.2, 0.1], [0.5, 0.4, np.nan]]), 2).tolist()
    [[True, False, True], [True, True, False]]

    A departure: published are "the methods of the highest rank", for the reason that what is insensitive bears few
    bits. The reason asks for the lowest, so ranks are counted from the least sensitive.

    Args:
      losses: `[n, num_options]`; NaN: no option.
      count: at least 1.

    Returns:
      `[n, num_options]` bool.
    """
    there = ~np.isnan(losses)
    order = np.argsort(np.where(there, losses, np.inf), axis=1, kind="stable")
    return there & (np.argsort(order, axis=1) < count)


Rule = Callable[[np.ndarray], np.ndarray]  # `passing` or `ranking` with its limit


def filter_methods(policies: PolicySpace, found: Sensitivity, metric: str, rule: Rule) -> PolicySpace:
    """Leaves each unit the methods that it bears: the set of methods that belongs to the unit.

    Args:
      policies: the space to narrow.
      found: for its units and methods.
      metric: whose losses count, such as "accuracy".
      rule: which of each unit's stay, see `passing` and `ranking`.

    Returns:
      The narrowed space.

    Raises:
      ValueError: if `found` is not of these units and methods.
    """
    if (found.units, found.methods) != (policies.units, policies.methods):
        raise ValueError(f"sensitivities of {found.units} are given for {policies.units}: measure these units.")
    there = np.array([[method in left for method in policies.methods] for left in policies.allowed])
    passes = rule(np.where(there, found.losses[metric], np.nan))
    allowed = tuple(tuple(method for method, left in zip(policies.methods, row, strict=True) if left) for row in passes)
    return PolicySpace(policies.units, policies.methods, allowed, policies.name)


def filter_operators(space: NetworkSpace, losses: Mapping[str, Mapping[str, float]], rule: Rule) -> NetworkSpace:
    """Leaves each edge or layer the operators that bear a policy: the space of structures that belongs to the policy.

    Args:
      space: the space to narrow.
      losses: by places of `networks.candidates`, for each operator with weights there its loss under the policy's
        method (the units of `nets.units.shared_operator`, cut at the last slash). Others, `none` among them, lose
        nothing.
      rule: which of each place's stay, see `passing` and `ranking`.

    Returns:
      The narrowed space.

    Raises:
      ValueError: if a name is no place of the space.
    """
    there = networks.candidates(space)
    if unknown := losses.keys() - there.keys():
        raise ValueError(f"{min(unknown)!r} is no edge or layer of {space.name!r}: choose among {', '.join(there)}.")
    of_place = lambda place, ops: [losses.get(place, {}).get(op, 0.0) if op in ops else np.nan for op in space.ops]
    passes = rule(np.array([of_place(place, ops) for place, ops in there.items()]))
    left = ([op for op, stays in zip(space.ops, row, strict=True) if stays] for row in passes)
    return networks.narrow(space, dict(zip(there, left, strict=True)))


def to_json(found: Sensitivity) -> dict[str, Any]:
    """As the report reads it."""
    return {
        "units": list(found.units), "methods": [str(method) for method in found.methods],
        "reference": found.reference, "losses": {name: table.tolist() for name, table in found.losses.items()},
    }  # fmt: skip


def from_json(stored: Mapping[str, Any]) -> Sensitivity:
    """Undoes `to_json`."""
    losses = {name: np.array(table, np.float64) for name, table in stored["losses"].items()}
    methods = tuple(method_of(text) for text in stored["methods"])
    return Sensitivity(tuple(stored["units"]), methods, dict(stored["reference"]), losses)


def filtered(config: QuantisedSearch, plan: Plan, score, path: pathlib.Path) -> tuple[NetworkSpace, PolicySpace]:
    """The spaces that thresholds and ranks leave, and the sensitivities written for the report.

    An option stays that passes every rule, the threshold on accuracy first, those on costs next, ranks last: of what
    one has left the next one takes its share, and each leaves at least the least sensitive.

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

    def table_of(name: str, found_by: Sequence[tuple[str, Rule]], of: Units, unit_of: UnitOf, archs: np.ndarray):
        if name not in stored:
            metrics = list(dict.fromkeys(metric for metric, _ in found_by))
            stored[name] = to_json(_measured(config, plan, of, unit_of, score, archs, metrics))
        return from_json(stored[name])

    if found_by := _rules(config.method_threshold, config.method_growth, config.method_rank):
        table = table_of("methods", found_by, plan.units, plan.unit_of, archs)
        for metric, rule in found_by:
            policies = filter_methods(policies, table, metric, rule)
    if found_by := _rules(config.operator_threshold, config.operator_growth, config.operator_rank):
        probes = covering(space, archs, jax.random.fold_in(key, 1))
        of = units_of(plan.net, plan.training.shape, shared_operator)
        table = table_of("operators", found_by, of, shared_operator, probes)
        for metric, rule in found_by:
            space = filter_operators(space, _by_place(table, metric, shares(plan.space, probes)), rule)
    if stored:
        run_folder.write_json(path / SENSITIVITY, stored)
    return space, policies


def shares(space: NetworkSpace, archs: np.ndarray) -> dict[tuple[str, str], float]:
    """The share of architectures that hold an operator at a place, by `("cell/0_1", operator)`."""
    found: dict[tuple[str, str], float] = {}
    for arch in archs:
        for at in _placed(networks.fix(space, arch)):
            found[at] = found.get(at, 0.0) + 1 / len(archs)
    return found


def _placed(space: NetworkSpace) -> set[tuple[str, str]]:
    return {(place, op) for place, ops in networks.candidates(space).items() for op in ops}


def covering(space: NetworkSpace, archs: np.ndarray, key) -> np.ndarray:
    """The architectures, and further random ones until every operator of every place is in one: else it has no loss."""
    missing = _placed(space) - shares(space, archs).keys()
    for round_ in range(100):
        if not missing:
            break
        for arch in np.asarray(spaces.sample(space, jax.random.fold_in(key, round_), 32)):
            new = missing & shares(space, arch[None]).keys()
            if new:
                archs, missing = np.concatenate([archs, arch[None]]), missing - new
    return archs


def _rules(accuracy: float | None, growth: Mapping[str, float], ranks: Mapping[str, int]) -> list[tuple[str, Rule]]:
    limits = {**({} if accuracy is None else {ACCURACY: accuracy}), **growth}
    found = [(metric, functools.partial(passing, threshold=limit)) for metric, limit in limits.items()]
    return found + [(metric, functools.partial(ranking, count=count)) for metric, count in ranks.items()]


def _measured(
    config: QuantisedSearch, plan: Plan, of: Units, unit_of: UnitOf, score, archs: np.ndarray, metrics: Sequence[str]
) -> Sensitivity:
    """Each unit alone under each method, as the mean over some architectures."""
    count = len(archs) * (1 + len(of.names) * len(plan.methods))
    print(f"sensitivities of {len(of.names)} units: {count} candidates", file=sys.stderr, flush=True)
    program = score(of, at_once=4, tuning=None) if ACCURACY in metrics else None
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
    return measure(evaluate, of.names, plan.methods, reference)


def _by_place(found: Sensitivity, metric: str, held: Mapping[tuple[str, str], float]) -> dict[str, dict[str, float]]:
    """The loss of each operator of each place under the policy's method, the first one."""
    losses: dict[str, dict[str, float]] = {}
    for unit, row in zip(found.units, found.losses[metric], strict=True):
        place, _, op = unit.rpartition("/")
        if (place, op) in held:  # an operator, and not a projection or a residual block
            # The mean is over all probes, of which only some hold the operator.
            losses.setdefault(place, {})[op] = float(row[0]) / held[place, op]
    return losses
