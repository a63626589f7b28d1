"""Every searcher against one list of invariants, and each against what only it promises."""

import jax
import numpy as np
import pytest

from jnas import searchers, spaces
from jnas.searchers import base, predictor
from jnas.searchers.front import estimates, undominated
from jnas.searchers.gp import kernels, regression
from jnas.searchers.gp.incumbent import centre_and_scale

SPACE = spaces.nasbench201()
FEW = {"cell": [["skip_connect", "nor_conv_3x3"]] * 3 + [["none"]] * 3}
SMALL = spaces.narrow(SPACE, FEW)  # 8 architectures
CHOOSE = searchers.by_improvement
TARGET = np.array([1, 0, 3, 2, 3, 1])


def score(codes):
    """Distance from a hidden code, the optimum being 0."""
    return -np.sum(codes != TARGET, axis=1).astype(float)


def searcher_of(space):
    return {
        "random": searchers.random(space),
        "evolution": searchers.evolution(space, population=6, tournament=3),
        "genetic": searchers.genetic(space, population=8),
        "front": searchers.front(space, lambda codes: codes.sum(1, keepdims=True), num_initial=6, num_candidates=64),
        "reinforce": searchers.reinforce(space, batch_size=3, hidden=8, learning_rate=0.01, repeats=2),
        "gaussian_process": searchers.gaussian_process(
            space, kernel=kernels.hamming(6, tied=True), num_initial=6, num_candidates=32, num_restarts=1, num_steps=8
        ),
    }


LARGE_ONES, SMALL_ONES = searcher_of(SPACE), searcher_of(SMALL)


@pytest.fixture(params=list(LARGE_ONES))
def name(request):
    return request.param


def told(searcher, num=8, seed=0):
    codes = np.asarray(spaces.sample(SPACE, jax.random.key(seed), num))
    return searcher.tell(searcher.init(), codes, score(codes))


def test_asks_are_architectures_not_seen_before_and_a_function_of_state_and_key(name):
    searcher = LARGE_ONES[name]
    state = told(searcher)
    before = state.codes.copy(), state.values.copy()
    codes = searcher.ask(state, jax.random.key(1), 3)
    assert codes.dtype == np.int32
    assert codes.shape == (3, 6)
    assert np.all((codes >= 0) & (codes < 5))
    everything = np.concatenate([codes, state.codes[: state.count]])
    assert len(np.unique(everything, axis=0)) == len(np.unique(state.codes[: state.count], axis=0)) + 3
    np.testing.assert_array_equal(codes, searcher.ask(state, jax.random.key(1), 3))
    assert not np.array_equal(codes, searcher.ask(state, jax.random.key(2), 3))
    np.testing.assert_array_equal(before[0], state.codes)
    np.testing.assert_array_equal(before[1], state.values)


def test_a_beginning_is_asked_first_and_once_and_the_searcher_learns_from_it():
    first = np.arange(4, dtype=np.int32)[:, None].repeat(6, 1)
    inner = searchers.genetic(SPACE, population=4)
    searcher = base.beginning(inner, first)
    some = searcher.ask(searcher.init(), jax.random.key(0), 3)
    np.testing.assert_array_equal(some, first[:3])
    state = searcher.tell(searcher.init(), some, np.full(3, np.nan))  # asked, and not evaluated yet
    more = searcher.ask(state, jax.random.key(0), 3)
    np.testing.assert_array_equal(more[0], first[3])
    assert len(np.unique(np.concatenate([some, more]), axis=0)) == 6
    state = searcher.tell(state, first, score(first))
    bred = inner.ask(inner.tell(inner.init(), first, score(first)), jax.random.key(1), 2)
    np.testing.assert_array_equal(searcher.ask(state, jax.random.key(1), 2), bred)


def test_a_space_is_exhausted_without_repeats_and_then_asks_go_on(name):
    searcher = SMALL_ONES[name]
    state = searcher.init()
    for step in range(4):
        codes = searcher.ask(state, jax.random.key(step), 2)
        state = searcher.tell(state, codes, score(codes))
    assert len(np.unique(state.codes[:8], axis=0)) == 8
    assert searcher.ask(state, jax.random.key(9), 2).shape == (2, 6)


def test_replaying_trials_one_by_one_or_at_once_gives_the_same_state(name):
    searcher = LARGE_ONES[name]
    at_once = told(searcher, 40)
    one_by_one = searcher.init()
    for row in range(40):
        one_by_one = searcher.tell(one_by_one, at_once.codes[row : row + 1], at_once.values[row : row + 1])
    jax.tree.map(np.testing.assert_array_equal, at_once, one_by_one)
    assert len(at_once.values) == 64


def test_pending_architectures_are_not_asked_and_their_value_takes_the_place(name):
    searcher = SMALL_ONES[name]
    state = searcher.init()
    first = searcher.ask(state, jax.random.key(0), 7)
    state = searcher.tell(state, first, np.where(np.arange(7) < 6, score(first), np.nan))
    last = searcher.ask(state, jax.random.key(1), 1)
    assert len(np.unique(np.concatenate([first, last]), axis=0)) == 8
    state = searcher.tell(state, first[6:], np.array([5.0]))
    assert state.count == 7
    assert state.values[6] == 5.0


def test_a_second_ask_at_one_size_compiles_nothing():
    searcher = LARGE_ONES["gaussian_process"]
    state = told(searcher, 9)
    searcher.ask(state, jax.random.key(0), 2)
    sizes = regression.fit._cache_size(), CHOOSE._cache_size()
    codes = searcher.ask(state, jax.random.key(1), 2)
    state = searcher.tell(state, codes, score(codes))
    searcher.ask(state, jax.random.key(2), 2)
    assert (regression.fit._cache_size(), CHOOSE._cache_size()) == sizes


def test_wrong_codes_are_refused():
    state = base.no_observations(SPACE)
    with pytest.raises(ValueError, match="give integers from 0"):
        base.record(SPACE, state, np.full((1, 6), 5), np.zeros(1))
    with pytest.raises(ValueError, match=r"give \[n, 6\] codes"):
        base.record(SPACE, state, np.zeros((1, 5), np.int32), np.zeros(1))
    with pytest.raises(ValueError, match="each must be at least 1"):
        searchers.evolution(SPACE, population=0)
    with pytest.raises(ValueError, match="give 2 and 8 at least"):
        searchers.gaussian_process(SPACE, num_initial=1)


def test_evolution_takes_parents_among_the_latest_only():
    # The best ever is older than the population: no child may be near it, and all are one choice from the winner.
    searcher = LARGE_ONES["evolution"]
    old, young = np.full((1, 6), 4, np.int32), np.zeros((6, 6), np.int32)
    young[np.arange(6), np.arange(6)] = 1
    state = searcher.tell(searcher.init(), np.concatenate([old, young]), np.array([99.0, 1, 2, 3, 4, 5, 6]))
    children = searcher.ask(state, jax.random.key(0), 12)
    distance = np.sum(children[:, None] != young[None], -1)
    assert np.all(distance.min(1) == 1)
    # Of three draws of six the largest rank is 6 with probability 1 - (5/6)^3 = .42 and 1 with 1/216.
    assert np.mean(distance[:, 5] == 1) > np.mean(distance[:, 0] == 1)


def test_the_model_s_asks_are_nearer_the_optimum_than_random_ones():
    # 60 observations of a distance: every one of the asked is better than random codes are on average (-4.8).
    codes = LARGE_ONES["gaussian_process"].ask(told(LARGE_ONES["gaussian_process"], 60), jax.random.key(0), 2)
    assert np.all(score(codes) >= -3)


def test_surrogate_predicts_what_was_told():
    model = searchers.surrogate(
        SPACE, kernel=kernels.hamming(6, tied=True), transform=searchers.standardised, num_restarts=1, num_steps=8
    )
    state = told(LARGE_ONES["random"], 60)
    fitted = model.fit(state, jax.random.key(0))
    mean, std = model.predict(state, fitted.hyper, state.codes)
    values = searchers.standardised(state.values[:60])
    assert np.corrcoef(mean[:60], values)[0, 1] > 0.9
    assert np.all(np.isfinite(std))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("values", [[0.1] * 3, [0.1] * 7, [93.7] * 50, [1e-30] * 3, [0.0] * 4])
def test_equal_scores_are_standardised_to_zero_whatever_their_mean_rounds_to(values, dtype):
    scores = np.array(values, dtype)
    assert searchers.standardised(scores).tolist() == [0.0] * len(values)
    centre, scale = centre_and_scale(scores)
    assert ((scores - centre) / scale == 0).all()
    assert scale == 1.0
    features = np.stack([scores, np.arange(len(scores), dtype=dtype)], 1)
    records = predictor.Records(features, scores, np.zeros(len(scores)))
    moments = predictor.scale_of(records)
    assert (moments.x_std[0], moments.y_std) == (1.0, 1.0)
    assert moments.x_std[1] > 0.5


def test_scores_that_differ_little_but_do_differ_keep_their_scale():
    scores = 0.9 + 1e-9 * np.arange(5.0)
    np.testing.assert_allclose(searchers.standardised(scores).std(), 1.0)
    assert centre_and_scale(scores)[1] < 1e-8


def test_normal_scores_are_those_of_a_sorted_normal_sample():
    values = np.random.default_rng(0).normal(size=2000)
    found = searchers.normal_scores(10.0 + np.exp(values))
    assert np.max(np.abs(found - values)[np.abs(values) < 1.5]) < 0.15
    assert np.unique(searchers.normal_scores(np.array([2.0, 1.0, 2.0]))).size == 2


class TestFront:
    """Scores are sums over choices and noise; the cost is how many convolutions there are."""

    costs = staticmethod(lambda codes: (codes > 1).sum(1, keepdims=True).astype(float))

    def test_the_model_finds_the_sums_behind_the_noise(self):
        rng = np.random.default_rng(0)
        gains = rng.normal(size=(6, 5))
        codes = np.asarray(spaces.sample(SPACE, jax.random.key(0), 200))
        true = gains[np.arange(6), codes].sum(1)
        smooth = estimates(SPACE, codes, true + rng.normal(size=200))
        assert np.std(smooth - true) < 0.5  # of 1
        sure, hopeful = (estimates(SPACE, codes, true, codes[:3], optimism=much) for much in (0.0, 1.0))
        assert np.all(hopeful > sure)

    def test_what_an_option_is_worth_elsewhere_says_what_it_is_worth_where_it_was_never_tried(self):
        rng = np.random.default_rng(0)
        codes = np.asarray(spaces.sample(SPACE, jax.random.key(0), 60))
        codes = codes[codes[:, 0] != 2][:30]
        without, tried = np.array([[1, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0]])
        told = estimates(SPACE, codes, (codes == 2).sum(1) + rng.normal(0, 0.3, 30), np.stack([without, tried]))
        assert told[1] - told[0] == pytest.approx(1, abs=0.4)

    def test_it_finds_a_better_front_than_random_draws(self):
        rng = np.random.default_rng(0)

        def volume(searcher):
            state = searcher.init()
            for step in range(10):
                codes = searcher.ask(state, jax.random.key(step), 6)
                state = searcher.tell(state, codes, score(codes) + rng.normal(0, 0.3, 6))
            known = state.codes[: state.count]
            kept = undominated(estimates(SPACE, known, state.values[: state.count]), self.costs(known))
            best = np.full(7, -6.0)
            for code in known[kept]:
                cost = int(self.costs(code[None])[0, 0])
                best[cost:] = np.maximum(best[cost:], score(code[None])[0])
            return best.sum()

        assert volume(searchers.front(SPACE, self.costs, num_initial=12)) > volume(searchers.random(SPACE)) + 2

    def test_several_objectives_are_told_and_the_first_is_the_score(self):
        searcher = searchers.front(SPACE, self.costs, num_initial=4)
        codes = np.asarray(spaces.sample(SPACE, jax.random.key(0), 8))
        both = searcher.tell(searcher.init(), codes, np.stack([score(codes), self.costs(codes)[:, 0]], 1))
        alone = searcher.tell(searcher.init(), codes, score(codes))
        asked = [searcher.ask(state, jax.random.key(1), 5) for state in (both, alone)]
        np.testing.assert_array_equal(*asked)
        assert len(np.unique(np.concatenate([asked[0], codes]), axis=0)) == 13
