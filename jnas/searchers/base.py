"""What a searcher is, the observations that its state holds, and what keeps it from asking twice."""

import functools
import itertools
from collections.abc import Callable, Set
from typing import Any, NamedTuple

import jax
import numpy as np

from jnas.errors import UserError
from jnas.spaces.base import Space, num_options, sample, size
from jnas.types import Key


class Searcher(NamedTuple):
    """A pure method of search, larger scores better; a loop asks, evaluates and tells.

    The same state and key give the same architectures, and the state is a function of what was told, so that a search
    that was killed is rebuilt by telling its trials again in their order. Build it once and keep it: what it compiles
    belongs to it.
    """

    init: Callable[[], Any]
    # (state, key, num) -> int32 [num, num_choices], neither told before nor equal to one another as long as the space
    # has such architectures
    ask: Callable[[Any, Key, int], np.ndarray]
    # (state, codes [n, num_choices], values [n]) -> state. NaN says that an architecture is being evaluated or has
    # failed: it is not asked again. Its value, told later, takes the place of the NaN. With several objectives the
    # values are [n, num_objectives].
    tell: Callable[[Any, np.ndarray, np.ndarray], Any]


class Evaluation(NamedTuple):
    """What an objective says about one architecture."""

    score: float | tuple[float, ...]  # one for each objective of the study, in their order
    metrics: dict[str, Any] = {}  # noqa: RUF012 - never mutated; whatever else was measured, values of JSON


# (arch [num_choices] int32, key) -> evaluation, on the host: it may train, share weights, or look up a table. The same
# arguments give the same evaluation, so that a trial whose worker died is repeated elsewhere.
Objective = Callable[[np.ndarray, Key], Evaluation]


PATIENCE = 16  # attempts of a searcher to ask for allowed architectures, before they are drawn at random
REFUSED = 200  # attempts to draw them
ENUMERABLE = 2**16  # a space up to this size is listed where a draw would have to be lucky


class Observations(NamedTuple):
    """Every architecture asked so far, in order of arrival, in arrays padded to powers of two.

    On the host, in double precision: scores are compared and standardised before they are rounded for a device.
    """

    codes: np.ndarray  # [capacity, num_choices] int32; rows from `count` on are 0
    values: np.ndarray  # [capacity] float64, larger is better; NaN: not known (still running, or failed)
    count: int

    @property
    def known(self) -> np.ndarray:
        """`[capacity]` bool, the rows that have a value."""
        return np.isfinite(self.values)


def padded_length(count: int, least: int = 32) -> int:
    """The smallest power of two that holds `count` rows and is at least `least`.

    >>> padded_length(33)
    64
    """
    return max(least, 1 << max(count - 1, 0).bit_length())


def no_observations(space: Space) -> Observations:
    """The state of a searcher before it was told anything."""
    capacity = padded_length(0)
    return Observations(np.zeros((capacity, len(space.choices)), np.int32), np.full(capacity, np.nan), 0)


def record(space: Space, state: Observations, codes, values) -> Observations:
    """Appends observations; a value for an architecture that waits for one fills it in.

    Args:
      space: of the codes.
      state: the observations so far; left as they are.
      codes: `[n, num_choices]` int.
      values: `[n]`, larger is better; NaN: not known.

    Returns:
      The new state.

    Raises:
      ValueError: if shapes disagree, or an entry indexes no option.
    """
    codes, values = np.asarray(codes), np.asarray(values, np.float64)
    bounds = num_options(space)
    if codes.shape != (len(values), len(bounds)) or values.ndim != 1:
        raise ValueError(
            f"codes {list(codes.shape)} and values {list(values.shape)} are told: "
            f"give [n, {len(bounds)}] codes of {space.name!r} and [n] values."
        )
    if codes.size and not (np.issubdtype(codes.dtype, np.integer) and (codes >= 0).all() and (codes < bounds).all()):
        raise ValueError(f"a code is no architecture of {space.name!r}: give integers from 0 to below {bounds}.")
    capacity = padded_length(state.count + len(codes), len(state.values))
    grown = np.zeros((capacity, len(bounds)), np.int32)
    known = np.full(capacity, np.nan)
    grown[: state.count], known[: state.count] = state.codes[: state.count], state.values[: state.count]
    count = state.count
    waiting = {grown[row].tobytes(): row for row in range(count) if not np.isfinite(known[row])}
    for code, value in zip(codes.astype(np.int32), values, strict=True):
        name = code.tobytes()
        row = waiting.get(name, count)
        grown[row], known[row] = code, value
        count = max(count, row + 1)
        if np.isfinite(value):
            waiting.pop(name, None)
        else:
            waiting[name] = row
    return Observations(grown, known, count)


def enumerate_all(space: Space) -> np.ndarray:
    """Every architecture, `[size, num_choices]` int32, the last choice varying fastest."""
    return np.array(list(itertools.product(*map(range, num_options(space)))), np.int32)


def new_ones(state: Observations, candidates, *, but: Set[bytes] = frozenset()) -> np.ndarray:
    """The candidates that were neither told nor are in `but`, without repeats, in their order.

    Args:
      state: the observations.
      candidates: `[n, num_choices]` int32.
      but: bytes of further codes to leave out.

    Returns:
      `[at most n, num_choices]` int32.
    """
    candidates = np.ascontiguousarray(candidates, np.int32)
    seen = {code.tobytes() for code in state.codes[: state.count]} | but
    rows = [row for row, code in enumerate(candidates) if (name := code.tobytes()) not in seen and not seen.add(name)]
    return candidates[rows]


def complete(space: Space, state: Observations, key: Key, num: int, preferred) -> np.ndarray:
    """The first `num` new ones among the preferred, made up with random ones, then with whatever the space has left.

    Args:
      space: of the codes.
      state: the observations.
      key: of the random ones.
      num: architectures to return.
      preferred: `[n, num_choices]` int32, the best first.

    Returns:
      `[num, num_choices]` int32. With repeats only if no new architecture was found: a space of up to 65,536 is
      listed to be sure, a larger one is drawn from 8 times.
    """
    found = new_ones(state, preferred)[:num]
    for attempt in range(8):
        if len(found) == num:
            return found
        drawn = np.asarray(sample(space, jax.random.fold_in(key, attempt), padded_length(2 * num)))
        more = new_ones(state, drawn, but={code.tobytes() for code in found})
        found = np.concatenate([found, more])[:num]
    if len(found) < num and size(space) <= ENUMERABLE:
        left = new_ones(state, enumerate_all(space), but={code.tobytes() for code in found})
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, 8), len(left)))
        found = np.concatenate([found, left[order]])[:num]
    repeats = np.asarray(sample(space, jax.random.fold_in(key, 9), num))
    return np.concatenate([found, repeats])[:num]


def bred(
    space: Space, population: int, parents: Callable[[Any, np.ndarray], np.ndarray], children: Callable[..., Any]
) -> Searcher:
    """A searcher whose first `population` architectures are random, and all others children of those.

    Args:
      space: any space with at least two architectures.
      population: as it says.
      parents: `(state, rows of the known ones)` -> the rows that may have children.
      children: `(codes, values, key, num)` of the parents -> `[n, num_choices]`, the first new ones of which are taken.

    Returns:
      The searcher.

    Raises:
      ValueError: if the space has one architecture.
    """
    if size(space) < 2:
        raise ValueError(f"space {space.name!r} has one architecture: there is nothing to search.")

    def ask(state, key, num):
        key_draw, key_rest = jax.random.split(key)
        rows = np.flatnonzero(state.known)
        still_random = min(max(population - len(rows), 0), num)
        preferred = np.asarray(sample(space, key_draw, still_random))
        if still_random < num and len(rows):
            rows = parents(state, rows)
            born = children(state.codes[rows], state.values[rows], key_draw, num)
            preferred = np.concatenate([preferred, np.asarray(born)])
        return complete(space, state, key_rest, num, preferred)

    return Searcher(functools.partial(no_observations, space), ask, functools.partial(record, space))


def beginning(searcher: Searcher, codes: np.ndarray) -> Searcher:
    """A searcher that asks for some architectures first and is then the given one, which learns from them too.

    >>> from jnas import searchers, spaces
    >>> first = np.full((1, 6), 3, np.int32)
    >>> begun = beginning(searchers.random(spaces.nasbench201()), first)
    >>> begun.ask(begun.init(), jax.random.key(0), 3)[0].tolist()
    [3, 3, 3, 3, 3, 3]

    Args:
      searcher: any.
      codes: `[n, num_choices]` int32.

    Returns:
      The searcher.
    """

    def tell(state, told, values):
        inner, seen = state
        return searcher.tell(inner, told, values), seen | {np.asarray(code, np.int32).tobytes() for code in told}

    def ask(state, key, num):
        inner, seen = state
        left = {name: code for code in codes if (name := code.tobytes()) not in seen}
        first = np.array(list(left.values())[:num], np.int32).reshape(-1, codes.shape[1])
        if len(first) == num:
            return first
        more = [code for code in searcher.ask(inner, key, num) if code.tobytes() not in left]
        return np.concatenate([first, np.array(more, np.int32).reshape(-1, codes.shape[1])])[:num]

    return Searcher(lambda: (searcher.init(), frozenset()), ask, tell)


class NoneAllowed(UserError):
    """No architecture within the limits was found."""


def within(searcher: Searcher, space: Space, allowed: Callable[[np.ndarray], bool], *, objectives: int = 1) -> Searcher:
    """A searcher that asks for allowed architectures only.

    For the length of an ask a refused architecture counts as one with the worst scores known: a model to which it had
    no value would go on believing in its corner. Where `PATIENCE` attempts find too few, the others are drawn at
    random. What was refused is forgotten after the ask, so that the state is a function of what was told.

    Args:
      searcher: any.
      space: of its codes.
      allowed: whether an architecture `[num_choices]` may be asked for; the same answer at every call.
      objectives: how many scores the searcher is told.

    Returns:
      The searcher; its `ask` raises `NoneAllowed` where `REFUSED` more attempts find too few.
    """

    def init():
        return searcher.init(), no_observations(space), np.full((objectives,)[objectives == 1 :], np.nan)

    def tell(state, codes, values):
        inner, seen, worst = state
        seen = record(space, seen, codes, np.full(len(codes), np.nan))
        return searcher.tell(inner, codes, values), seen, np.fmin.reduce([worst, *np.asarray(values, np.float64)])

    def ask(state, key, num):
        found = []
        for attempt in range(PATIENCE + REFUSED):
            inner, seen, worst = state
            now, missing = jax.random.fold_in(key, attempt), num - len(found)
            if attempt < PATIENCE:
                codes = searcher.ask(inner, now, missing)
            else:
                codes = complete(space, seen, now, missing, np.zeros((0, len(space.choices)), np.int32))
            kept = [allowed(code) for code in codes]
            found += [code for code, one in zip(codes, kept, strict=True) if one]
            if len(found) == num:
                return np.array(found, np.int32)
            state = tell(state, codes, np.array([worst * np.nan if one else worst for one in kept]))
        raise NoneAllowed(f"{PATIENCE + REFUSED} architectures in a row are not within the limits: raise one of them")

    return Searcher(init, ask, tell)


def padded(rows: np.ndarray, length: int) -> np.ndarray:
    """The rows, and behind them as many of zeros as make `length`."""
    return np.pad(rows, ((0, length - len(rows)), *[(0, 0)] * (rows.ndim - 1)))


def deviation(values: np.ndarray) -> np.ndarray:
    """The standard deviation along the first axis, and 0 where the values differ by rounding alone.

    The mean of equal numbers is often not that number: of `[.1, .1, .1]` the plain deviation is 1.4e-17, and what is
    divided by that passes for data.

    >>> deviation(np.array([[0.1, 1.0], [0.1, 3.0], [0.1, 5.0]])).round(3)
    array([0.   , 1.633])

    Args:
      values: `[n, ...]` of a floating dtype.

    Returns:
      `[...]`; 0 where there are no values.
    """
    if not len(values):
        return np.zeros(values.shape[1:])
    spread = values.std(0)
    return np.where(spread > 64 * np.finfo(values.dtype).eps * np.abs(values).max(0), spread, 0.0)
