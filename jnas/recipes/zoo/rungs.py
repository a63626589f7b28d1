"""Which candidate is fine-tuned next, and for how long: successive halving within a budget, up to a target.

One process fine-tunes one candidate at a time, so that the rule is the synchronous one, which promotes by all results
of a rung, and not that of `searchers.halving`, where workers do not wait for one another.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

ROUNDING = 1e-9  # of a budget, which sums of seconds in different orders may miss


class Done(NamedTuple):
    """What a candidate came to at the end of a rung."""

    choice: int
    rung: int
    score: float


class Step(NamedTuple):
    """A candidate is fine-tuned to the end of a rung, from that of the one before."""

    choice: int
    rung: int
    needed: float  # seconds that must be left of the budget
    why: str


def next_step(
    order: Sequence[int], costs: np.ndarray, done: Sequence[Done], *, trials: int, eta: int,
    target: float | None = None, budget: float | None = None,
) -> tuple[Step | None, str]:  # fmt: skip
    """What comes next: the first of these that the budget allows.

    1. With a target: the best of all at the end of a rung goes on, for it may be enough, and programs to be compiled
       are what the next one costs before its first step.
    2. The next one of the order begins, as long as fewer than `trials` have begun.
    3. Of n that began the best max(1, n // eta) at the end of the first rung go on to the second, of those the best
       max(1, n // eta^2) to the third, and so on.
    4. With a target: the others go on, those on the highest rung first and the best of them first.
    5. With a target: further ones of the order begin.

    What 3 may take at most is reserved when one begins by 2, so that a small budget begins fewer candidates and not
    ones that come to no end; in 4 and 5 what a candidate takes to its end.

    Args:
      order: the candidates, the first first; it may change from step to step.
      costs: `[num_candidates, num_rungs]` seconds from the beginning to the end of each rung; NaN: not known.
      done: so far, in their order.
      trials: at least 1.
      eta: at least 2.
      target: a score at which it ends, at whatever rung; None: none.
      budget: seconds in all, which are never exceeded; None: whatever it takes.

    Returns:
      `(step, "")`; where it ends `(what would come next or None, the reason)`.

    Reference: Jamieson, Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS
    2016, algorithm 1, whose budget is divided among the rungs; here the first rung has as many as the budget allows.
    """
    limit = np.inf if budget is None else budget
    known = np.nan_to_num(costs, nan=0.0 if budget is None else np.inf)
    left = limit - sum(_more(known, one.choice, one.rung) for one in done)
    proposed = list(_proposed(order, known, done, trials, eta, target is not None))
    first = proposed[0] if proposed else None
    if target is not None and any(one.score >= target for one in done):
        return first, "the target is reached"
    allowed = (step for step in proposed if budget is None or step.needed <= left + ROUNDING * limit)
    if (step := next(allowed, None)) is not None:
        return step, ""
    reason = f"the budget has {left:.4g} s left" if first else "the best of those that began has come to its end"
    if target is not None:
        reason = f"the target is missed and {reason if first else 'every candidate has come to its end'}"
    return first, reason


def worth(score: float, length: int, target: float | None) -> tuple[bool, int, float]:
    """By what the chosen one is the largest: it reached the target, it was trained for longest, it has the best score.

    Of few images the best score is the luckiest as well, so that what was trained for longest comes before it.
    """
    return target is not None and score >= target, length, score


def _proposed(
    order: Sequence[int], costs: np.ndarray, done: Sequence[Done], trials: int, eta: int, go_on: bool
) -> Iterator[Step]:
    """What may come next, see `next_step`, the first first."""
    last = costs.shape[1] - 1
    reached = {one.choice: one.rung for one in done}
    score = {(one.choice, one.rung): one.score for one in done}
    new = [int(at) for at in order if at not in reached]
    ranked = [
        sorted((at for at in reached if reached[at] >= rung), key=lambda at: -score[at, rung]) for rung in range(last)
    ]
    for rung, there in enumerate(ranked):
        if go_on and there and reached[there[0]] == rung:
            yield Step(there[0], rung + 1, _more(costs, there[0], rung + 1), f"goes on, the best on rung {rung + 1}")
    if len(reached) < trials:
        spent = sum(costs[at, rung] for at, rung in reached.items())
        for at in new:
            needed = max(_most(costs[[*reached, at]], eta) - spent, costs[at, 0])
            yield Step(at, 0, float(needed), "begins, the next in the order")
    for rung, there in enumerate(ranked):
        for at in there[: max(1, len(reached) // eta ** (rung + 1))]:
            if reached[at] == rung:
                why = f"goes on, {1 + there.index(at)} of {len(there)} on rung {rung + 1}"
                yield Step(at, rung + 1, _more(costs, at, rung + 1), why)
    if not go_on:
        return
    others = sorted(
        (at for at in reached if reached[at] < last), key=lambda at: (-reached[at], -score[at, reached[at]])
    )
    for at in others:
        why = "goes on, for those before miss the target"
        yield Step(at, reached[at] + 1, costs[at, -1] - costs[at, reached[at]], why)
    for at in new:
        yield Step(at, 0, costs[at, -1], "begins, for those before miss the target")


def _more(costs: np.ndarray, choice: int, rung: int) -> float:
    """Seconds from the end of one rung to that of the next."""
    return float(costs[choice, rung] - (costs[choice, rung - 1] if rung else 0.0))


def _most(costs: np.ndarray, eta: int) -> float:
    """Seconds that halving takes at most of candidates `[n, num_rungs]`: where the most expensive are the best."""
    more = np.sort(np.diff(costs, prepend=0.0, axis=1), axis=0)
    return float(sum(more[-max(1, len(more) // eta**rung) :, rung].sum() for rung in range(more.shape[1])))
