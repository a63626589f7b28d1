"""Successive halving against its rule in plain Python, and searchers that are held to limits."""

import jax
import numpy as np
import pytest

from jnas import searchers, spaces
from jnas.errors import UserError
from jnas.searchers import base
from jnas.searchers.base import Searcher

SPACE = spaces.nasbench201()
BUDGETED = searchers.budgeted(SPACE, (1, 3, 9))


def worth(code):
    return float(np.sum(code[:6] * [1, 2, 3, 1, 2, 3]) + np.sin(7.0 * code.sum()) + code[6])


def due(known, eta):
    """The codes to promote, those of the largest budget first: the rule, of `{code: value}`."""
    found = []
    for budget in (1, 0):
        there = sorted((code for code in known if code[-1] == budget), key=lambda code: -known[code])
        best = [(*code[:-1], budget + 1) for code in there[: len(there) // eta]]
        free = len(there) // eta - sum(code[-1] == budget + 1 for code in known)
        found += [code for code in best if code not in known][: max(free, 0)]
    return found


@pytest.mark.parametrize("eta", [2, 3])
def test_what_is_due_is_promoted_and_else_a_new_architecture_begins(eta):
    searcher = searchers.halving(searchers.random(SPACE), BUDGETED, eta=eta)
    state, known = searcher.init(), {}
    for step in range(60):
        asked = searcher.ask(state, jax.random.key(step), 2)
        np.testing.assert_array_equal(asked, searcher.ask(state, jax.random.key(step), 2))
        expected = due(known, eta)[:2]
        assert [tuple(code) for code in asked[: len(expected)].tolist()] == expected
        assert all(code[-1] == 0 for code in asked[len(expected) :])
        told = {tuple(code): worth(np.array(code)) for code in asked.tolist()}
        assert len(told) == 2
        assert not told.keys() & known.keys()
        known |= told
        state = searcher.tell(state, asked, np.array(list(told.values())))
    counts = np.bincount([code[-1] for code in known])
    assert counts.sum() == 120
    assert (counts[1:] <= counts[:-1] // eta).all()
    assert (counts[1:] >= counts[:-1] // eta - 1).all()


def test_the_other_searcher_learns_one_value_an_architecture_on_one_scale():
    seen = []
    deaf = searchers.random(SPACE)
    inner = Searcher(deaf.init, deaf.ask, lambda state, *told: (seen.append(told), deaf.tell(state, *told))[1])
    searcher = searchers.halving(inner, BUDGETED, eta=2)
    archs = np.arange(4, dtype=np.int32)[:, None].repeat(6, 1)
    at = lambda rows, budget: np.concatenate([archs[rows], np.full((len(rows), 1), budget, np.int32)], 1)
    state = searcher.tell(searcher.init(), at([0, 1, 2, 3], 0), np.array([0.5, 0.75, 0.625, np.nan]))
    state = searcher.tell(state, at([1, 2], 1), np.array([1.0, 0.75]))  # .25 and .125 more: .1875 on average
    state = searcher.tell(state, at([1], 2), np.array([np.nan]))  # it runs, and so is not due
    searcher.ask(state, jax.random.key(0), 1)
    np.testing.assert_array_equal(seen[-1][0], archs)
    np.testing.assert_array_equal(seen[-1][1], [0.5, 0.8125, 0.5625, np.nan])


def test_one_that_promotes_everything_is_refused():
    with pytest.raises(ValueError, match="eta is 1: give at least 2"):
        searchers.halving(searchers.random(SPACE), BUDGETED, eta=1)


@pytest.mark.parametrize("objectives", [1, 2])
def test_within_limits_nothing_else_is_asked_and_nothing_twice(objectives):
    plain = searchers.nsga2(SPACE, objectives=2, population=4) if objectives == 2 else searchers.evolution(SPACE)
    allowed = lambda code: code.sum() <= 6
    searcher = searchers.within(plain, SPACE, allowed, objectives=objectives)
    state, codes = searcher.init(), []
    for step in range(5):
        asked = searcher.ask(state, jax.random.key(step), 3)
        values = asked @ np.ones((6, objectives))
        state = searcher.tell(state, asked, values if objectives == 2 else values[:, 0])
        codes += asked.tolist()
    assert all(sum(code) <= 6 for code in codes)
    assert len({tuple(code) for code in codes}) == 15


def proposing(searcher, log):
    """The searcher, and a line in the log for each code that it proposes."""

    def ask(state, key, num):
        codes = searcher.ask(state, key, num)
        log.extend(codes.tolist())
        return codes

    return searcher._replace(ask=ask)


MODEL = searchers.gaussian_process(
    SPACE, num_initial=5, kernel=searchers.kernels.additive(6), num_restarts=1, num_steps=10, num_candidates=128
)  # kept: what is built twice is compiled twice
PLAIN = {"gaussian_process": MODEL, "halving": MODEL, "evolution": searchers.evolution(SPACE, population=5)}


@pytest.mark.parametrize("kind", PLAIN)
def test_a_searcher_leaves_the_corner_that_is_refused(kind):
    """The best half of the space is refused; a model to which its corner has no value asks for it again and again."""
    value, log = lambda code: float(np.sum(code[:6] * [1, 2, 3, 1, 2, 3])), []
    searcher = searchers.within(proposing(PLAIN[kind], log), SPACE, lambda code: value(code) <= 24)
    if kind == "halving":
        searcher = searchers.halving(searcher, searchers.budgeted(SPACE, (1, 3)))
    told, state = [], searcher.init()
    for step in range(14):
        before, codes = len(log), searcher.ask(state, jax.random.key(step), 1)
        assert len(log) - before <= 8
        told.append((codes, np.array([value(codes[0])])))
        state = searcher.tell(state, *told[-1])
    asked = {tuple(codes[0].tolist()) for codes, _ in told}
    assert len(asked) == 14
    assert max(value(np.array(code)) for code in asked) == 24
    assert max(value(np.array(code)) for code in log) > 24
    again = searcher.init()
    for codes, values in told:
        again = searcher.tell(again, codes, values)
    np.testing.assert_array_equal(*(searcher.ask(one, jax.random.key(14), 1) for one in (state, again)))


def test_after_some_attempts_allowed_ones_are_drawn():
    stubborn = Searcher(lambda: None, lambda state, key, num: np.full((num, 6), 4, np.int32), lambda *_: None)
    searcher = searchers.within(stubborn, SPACE, lambda code: code[0] == 0)
    state = searcher.tell(searcher.init(), np.zeros((1, 6), np.int32), np.ones(1))
    codes = searcher.ask(state, jax.random.key(0), 3)
    assert codes[:, 0].tolist() == [0, 0, 0]
    assert len({tuple(code) for code in codes.tolist()} | {(0,) * 6}) == 4
    np.testing.assert_array_equal(codes, searcher.ask(state, jax.random.key(0), 3))


def test_limits_that_nothing_meets_are_one_sentence(monkeypatch):
    monkeypatch.setattr(base, "REFUSED", 3)
    searcher = searchers.within(searchers.random(SPACE), SPACE, lambda code: False)
    with pytest.raises(UserError, match="19 architectures in a row are not within the limits: raise one of them"):
        searcher.ask(searcher.init(), jax.random.key(0), 1)
