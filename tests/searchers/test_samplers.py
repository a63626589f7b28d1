"""Optuna's samplers behind our interface, against Optuna run by itself."""

import jax
import numpy as np
import optuna
import pytest

from jnas import searchers, spaces
from jnas.spaces.base import num_options

SPACE = spaces.nasbench201()
KEY = jax.random.key(3)


@pytest.fixture(autouse=True, scope="module")
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


WORTH = np.random.default_rng(0).normal(size=(6, 5))  # of every option


def score(code):
    return float(WORTH[np.arange(6), code].sum())


def run(searcher, num, value=score):
    state, codes = searcher.init(), []
    for n in range(num):
        (code,) = searcher.ask(state, jax.random.fold_in(KEY, n), 1)
        codes.append(tuple(code.tolist()))
        state = searcher.tell(state, code[None], np.array([value(code)]))
    return codes, state


@pytest.fixture(scope="module")
def tpe_run():
    return run(searchers.tpe(SPACE), 30)


def test_the_first_proposal_is_the_samplers_own(tpe_run):
    codes, state = tpe_run
    searcher = searchers.tpe(SPACE)
    seed = int(jax.random.randint(jax.random.fold_in(KEY, 30), (), 0, np.iinfo(np.int32).max))
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=10)
    )
    distributions = {
        str(n): optuna.distributions.CategoricalDistribution(range(bound)) for n, bound in enumerate(num_options(SPACE))
    }
    for code in codes:
        params = dict(zip(distributions, code, strict=True))
        study.add_trial(
            optuna.trial.create_trial(values=[score(np.array(code))], params=params, distributions=distributions)
        )
    expected = study.ask(distributions)
    assert tuple(expected.params[name] for name in distributions) not in codes  # else another one is asked for
    (code,) = searcher.ask(state, jax.random.fold_in(KEY, 30), 1)
    assert code.tolist() == [expected.params[name] for name in distributions]


def test_it_asks_nothing_twice_and_finds_more_than_chance(tpe_run):
    codes, _ = tpe_run
    assert len(set(codes)) == 30
    values = [score(np.array(code)) for code in codes]
    assert np.mean(values[20:]) > np.mean(values[:10]) + 1.5  # the standard deviation of all scores is about 2


def test_it_is_a_function_of_what_it_was_told_and_the_key(tpe_run):
    codes, state = tpe_run
    searcher = searchers.tpe(SPACE)
    told = searcher.tell(
        searcher.init(), np.array(codes, np.int32), np.array([score(np.array(code)) for code in codes])
    )
    first, again = (searcher.ask(s, KEY, 3) for s in (state, told))
    np.testing.assert_array_equal(first, again)
    assert len({code.tobytes() for code in first}) == 3


def test_a_genetic_sampler_moves_on_to_new_generations():
    searcher = searchers.nsga2(SPACE, objectives=2, population=6)

    def both(code):
        return np.array([score(code), -np.sum(code == 3)])

    codes, state = run(searcher, 42, both)
    assert len(set(codes)) == 42
    values = np.array([both(np.array(code)) for code in codes])
    assert values[-12:].sum(1).mean() > values[:6].sum(1).mean() + 2  # the first generation is random
    assert len(state.scores) == 42


def test_what_is_being_evaluated_is_not_asked_again():
    small = spaces.s2()
    searcher = searchers.tpe(small, num_initial=1)
    state = searcher.tell(searcher.init(), searcher.ask(searcher.init(), KEY, 4), np.array([1.0, np.nan, 2.0, np.nan]))
    asked = {code.tobytes() for code in searcher.ask(state, KEY, 6)}
    assert len(asked) == 6
    assert not asked & {code.tobytes() for code in state.seen.codes[:4]}


def test_our_own_searchers_take_part_by_weights():
    searcher = searchers.weighted(searchers.random(SPACE), [1.0, 0.5])
    codes = searcher.ask(searcher.init(), KEY, 2)
    state = searcher.tell(searcher.init(), codes, np.array([[1.0, 4.0], [np.nan, np.nan]]))
    np.testing.assert_array_equal(state.values[:2], [3.0, np.nan])
