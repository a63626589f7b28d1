"""Successive halving: many architectures at a small budget, and the best of them at larger and larger ones."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jnas.searchers.base import Observations, Searcher, no_observations, record
from jnas.spaces.base import Choice, Space


class Budgeted(NamedTuple):
    """The space of architectures with a budget each, an index that is the last entry of their codes."""

    name: str
    choices: tuple[Choice, ...]


def budgeted(space: Space, budgets: Sequence[Hashable]) -> Budgeted:
    """A space with one choice more, the budget; `budgets` are what it is called, the smallest first."""
    return Budgeted(space.name, (*space.choices, Choice("budget", tuple(budgets))))


def halving(searcher: Searcher, space: Budgeted, *, eta: int = 3) -> Searcher:
    """Promotes an architecture that is among the best `1 / eta` of its budget, and else asks for a new one.

    Of the architectures known at a budget the best `floor(known / eta)` are due at the next one; those of the largest
    budget come first. Nobody waits: a worker promotes by what is known when it asks. Unlike in the paper no more than
    `floor(known / eta)` are promoted in all, also where those promoted early have been overtaken: of 15 architectures
    it was 8 in place of 5. For new architectures the other searcher is asked, to which each architecture has one value:
    that of its largest budget, less the mean of what that budget gave beyond the one before to those that have both.

    Args:
      searcher: of new architectures, told one score.
      space: from `budgeted`; an architecture that was never asked starts at budget 0.
      eta: the share that is promoted is `1 / eta`; at least 2.

    Returns:
      A searcher of codes `[num_choices + 1]`.

    Raises:
      ValueError: if `eta` is below 2.

    Reference: Li et al., "A system for massively parallel hyperparameter tuning", MLSys 2020, algorithm 2.
    """
    if eta < 2:
        raise ValueError(f"eta is {eta}: give at least 2, of which one is promoted")
    budgets = len(space.choices[-1].options)

    def promoted(state: Observations) -> np.ndarray:
        codes, values = state.codes[: state.count], state.values[: state.count]
        there = {code.tobytes() for code in codes}
        found = []
        for budget in reversed(range(budgets - 1)):
            known = np.flatnonzero((codes[:, -1] == budget) & np.isfinite(values))
            due = len(known) // eta
            best = known[np.argsort(-values[known], kind="stable")][:due]
            left = [code for code in _at(codes[best, :-1], budget + 1) if code.tobytes() not in there]
            found += left[: max(due - np.count_nonzero(codes[:, -1] == budget + 1), 0)]
        return np.array(found, np.int32).reshape(-1, len(space.choices))

    def ask(state: Observations, key: Any, num: int) -> np.ndarray:
        found = promoted(state)[:num]
        if len(found) < num:
            new = searcher.ask(searcher.tell(searcher.init(), *latest(state, budgets)), key, num - len(found))
            found = np.concatenate([found, _at(np.asarray(new), 0)])
        return found

    return Searcher(lambda: no_observations(space), ask, lambda *told: record(space, *told))


def _at(archs: np.ndarray, budget: int) -> np.ndarray:
    return np.pad(archs, ((0, 0), (0, 1)), constant_values=budget).astype(np.int32)


def latest(state: Observations, budgets: int) -> tuple[np.ndarray, np.ndarray]:
    """Every architecture once, in the order of arrival, and its value on the scale of the smallest budget.

    Args:
      state: what was told to a searcher from `halving`.
      budgets: how many there are.

    Returns:
      `(codes [n, num_choices], values [n])`, without the budget; NaN: not known.
    """
    codes, values = state.codes[: state.count], state.values[: state.count]
    found: dict[tuple[int, ...], float] = {tuple(code): np.nan for code in codes[codes[:, -1] == 0, :-1].tolist()}
    for budget in range(budgets):
        at = (codes[:, -1] == budget) & np.isfinite(values)
        reached = {tuple(code): value for code, value in zip(codes[at, :-1].tolist(), values[at], strict=True)}
        more = np.mean([value - found[code] for code, value in reached.items()]) if budget and reached else 0.0
        found.update({code: value - more for code, value in reached.items()})
    return np.array(list(found), np.int32).reshape(len(found), codes.shape[1] - 1), np.array(list(found.values()))
