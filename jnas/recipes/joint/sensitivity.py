"""How much a network loses when one unit alone is quantised in another way, and what a threshold leaves of spaces."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jnas import spaces
from jnas.spaces.cell import CellSpace, op_mask
from jnas.spaces.policy import Method, PolicySpace, method_of

HIGHER_IS_BETTER = ("accuracy",)


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
        sign = -1 if name in HIGHER_IS_BETTER else 1
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


def filter_methods(policies: PolicySpace, found: Sensitivity, metric: str, threshold: float) -> PolicySpace:
    """Leaves each unit the methods that it bears: the set of methods that belongs to the unit.

    Args:
      policies: the space to narrow.
      found: for its units and methods.
      metric: whose losses count, such as "accuracy".
      threshold: see `passing`.

    Returns:
      The narrowed space.

    Raises:
      ValueError: if `found` is not of these units and methods.
    """
    if (found.units, found.methods) != (policies.units, policies.methods):
        raise ValueError(f"sensitivities of {found.units} are given for {policies.units}: measure these units.")
    there = np.array([[method in left for method in policies.methods] for left in policies.allowed])
    passes = passing(np.where(there, found.losses[metric], np.nan), threshold)
    allowed = tuple(tuple(method for method, left in zip(policies.methods, row, strict=True) if left) for row in passes)
    return PolicySpace(policies.units, policies.methods, allowed, policies.name)


def filter_operators(space: CellSpace, losses: Mapping[str, Mapping[str, float]], threshold: float) -> CellSpace:
    """Leaves each edge the operators that bear a policy: the space of structures that belongs to the policy.

    Args:
      space: the space to narrow.
      losses: for `cell/source_target`, for each operator with weights there its loss under the policy's method (the
        units of `nets.units.shared_operator`, cut at the last slash). Others, `none` among them, lose nothing.
      threshold: see `passing`.

    Returns:
      The narrowed space.

    Raises:
      ValueError: if a name is no edge of the space.
    """
    edges = {
        f"{cell}/{source}_{target}": (cell, row)
        for cell in space.cells
        for row, (source, target) in enumerate(space.endpoints)
    }
    mask = op_mask(space)
    table = {cell: np.where(mask[cell], 0.0, np.nan) for cell in space.cells}
    for edge, each in losses.items():
        if edge not in edges:
            raise ValueError(f"{edge!r} is no edge of {space.name!r}: name them cell/source_target.")
        cell, row = edges[edge]
        for op, value in each.items():
            if op in space.edges(cell)[row].ops:
                table[cell][row, space.ops.index(op)] = value
    left: dict[str, Any] = {}
    for cell in space.cells:
        passes = passing(table[cell], threshold)
        left[cell] = [[op for op, stays in zip(space.ops, row, strict=True) if stays] for row in passes]
    return spaces.narrow(space, left)


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
