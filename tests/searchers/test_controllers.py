"""What only the controller and the genetic algorithm promise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jnas import searchers, spaces
from jnas.searchers import base
from jnas.searchers.reinforce import log_probability, start, write

SPACE = spaces.narrow(spaces.nasbench201(), {"cell": [["none", "skip_connect", "nor_conv_1x1"]] * 2 + [["none"]] * 4})
BOUNDS, HIDDEN = (3, 3, 1, 1, 1, 1), 6
ALL = base.enumerate_all(SPACE)
SCORES = (ALL[:, 0] == 2) + 0.1 * (ALL[:, 1] == 1)
SEARCHER = searchers.reinforce(
    SPACE, batch_size=9, hidden=HIDDEN, learning_rate=0.05, entropy=0.0, queue=2, imitation=0.5
)
LIKELY = jax.jit(lambda parameters, codes: log_probability(parameters, codes, BOUNDS, HIDDEN))


def test_probabilities_sum_to_one_and_are_those_of_the_draws():
    parameters = 8 * start(jax.random.key(0), BOUNDS, HIDDEN)
    logs, entropies = LIKELY(parameters, ALL)
    chance = np.exp(np.asarray(logs, np.float64))
    np.testing.assert_allclose(chance.sum(), 1, rtol=1e-5)
    drawn = write(parameters, jax.random.key(1), num=4000, bounds=BOUNDS, hidden=HIDDEN)
    counts = np.bincount(np.asarray(drawn)[:, 0] * 3 + np.asarray(drawn)[:, 1], minlength=9)
    assert np.max(np.abs(counts - 4000 * chance)) < 5 * np.sqrt(4000 * chance.max())
    # The chain rule of entropy: the mean over architectures of the choices' entropies is that of the whole.
    np.testing.assert_allclose(np.sum(chance * entropies), -np.sum(chance * logs), rtol=1e-4)


def test_the_first_step_is_adam_along_the_policy_gradient_and_towards_the_best():
    state = SEARCHER.tell(SEARCHER.init(), ALL, SCORES)
    reward = np.asarray(SCORES)
    advantages = ((reward - reward.mean()) / reward.std()).astype(np.float32)
    best = np.argsort(-reward, kind="stable")[:2]
    np.testing.assert_array_equal(state.best, ALL[best])

    def loss(parameters):
        logs, _ = log_probability(parameters, ALL, BOUNDS, HIDDEN)
        return -jnp.mean(advantages * logs) - 0.5 * jnp.mean(logs[best])

    gradient = jax.jit(jax.grad(loss))(SEARCHER.init().parameters)
    np.testing.assert_allclose(optax.tree.get(state.optimiser, "mu"), 0.1 * np.asarray(gradient), rtol=1e-3, atol=1e-7)
    moved = state.parameters - SEARCHER.init().parameters
    large = np.abs(gradient) > 1e-4
    np.testing.assert_allclose(moved[large], -0.05 * np.sign(gradient)[large], rtol=1e-3)
    assert (state.batches, state.count, len(state.scores)) == (1, 9, 0)
    assert state.baseline == pytest.approx(reward.mean())
    parts = SEARCHER.tell(SEARCHER.tell(SEARCHER.init(), ALL[:4], SCORES[:4]), ALL[4:], SCORES[4:])
    np.testing.assert_array_equal(parts.parameters, state.parameters)
    np.testing.assert_array_equal(parts.best_scores, state.best_scores)


def test_the_baseline_is_updated_before_it_is_used_and_failures_teach_nothing():
    state = SEARCHER.tell(SEARCHER.init(), ALL, SCORES)
    values = np.append(SCORES[:8] + 1, np.nan)
    again = SEARCHER.tell(state, ALL, values)
    assert (again.batches, len(again.scores)) == (1, 8)
    last = SEARCHER.tell(again, ALL[8:], SCORES[8:] + 1)
    assert last.baseline == pytest.approx(0.99 * SCORES.mean() + 0.01 * (SCORES.mean() + 1))
    assert last.batches == 2


def test_the_controller_comes_to_write_what_scores_well():
    state = SEARCHER.init()
    for _ in range(30):
        state = SEARCHER.tell(state, ALL, SCORES)
    logs, _ = LIKELY(state.parameters, ALL)
    chance = np.exp(np.asarray(logs))
    assert chance[ALL[:, 0] == 2].sum() > 0.9


def test_genetic_children_are_of_the_best_quarter():
    space = spaces.nasbench201()
    searcher = searchers.genetic(space, population=8, mutated=0.0)
    best = np.array([[0, 0, 0, 0, 0, 0], [4, 4, 4, 4, 4, 4]], np.int32)
    rest = np.full((6, 6), 2, np.int32)
    rest[np.arange(6), np.arange(6)] = 1
    state = searcher.tell(searcher.init(), np.concatenate([rest, best]), np.arange(8.0))
    crossed = searcher.ask(state, jax.random.key(0), 10)
    assert np.all((crossed == 0) | (crossed == 4))
    mutants = searchers.genetic(space, population=8, mutated=1.0, probability=1e-9)
    children = mutants.ask(state, jax.random.key(0), 10)
    assert np.all(np.min([(children != parent).sum(1) for parent in best], 0) == 1)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="give at least 1"):
        searchers.reinforce(SPACE, batch_size=0)
    with pytest.raises(ValueError, match="queue is -1: give at least 0"):
        searchers.reinforce(SPACE, queue=-1)
    with pytest.raises(ValueError, match="the first must be positive"):
        searchers.reinforce(SPACE, learning_rate=0)
    with pytest.raises(ValueError, match="shares up to 1"):
        searchers.genetic(SPACE, parents=1.5)
