"""What a feature is worth, against the closed form for a linear score."""

import jax
import numpy as np
import pytest

from jnas.searchers import importance, predictor


def test_a_linear_score():
    """Scores 3 a + b + task: shuffling a feature of variance 1 and coefficient w adds 2 w^2 to the squared error."""
    random = np.random.default_rng(0)
    x = random.normal(size=(2000, 4))
    groups = np.arange(2000) % 20
    x[:, 3] = groups  # constant within a task
    y = 3 * x[:, 0] + x[:, 1] + 0.5 * x[:, 3] + 0.1 * random.normal(size=2000)
    found = importance.permutation_importance(
        predictor.ridge(penalty=1e-6, degree=1), predictor.checked(x, y, groups), jax.random.key(0)
    )
    assert found.error == pytest.approx(0.1, rel=0.1)
    assert found.guess == pytest.approx(y.std(), rel=0.1)
    squares = 2 * np.array([3.0, 1.0, 0.0, 0.5 * x[:, 3].std()]) ** 2
    np.testing.assert_allclose(found.rise, np.sqrt(0.01 + squares) - 0.1, rtol=0.06, atol=0.005)
    assert (found.spread < 0.1 * found.rise.max()).all()


def test_one_task_says_nothing():
    records = predictor.checked([[0.0], [1.0]], [0.0, 1.0], [0, 0])
    with pytest.raises(ValueError, match="1 tasks"):
        importance.permutation_importance(predictor.ridge(), records, jax.random.key(0))


def test_a_task_of_one_record_costs_no_result():
    """One of the two parts of the tasks then holds a single record, of which a forest has no half to sample."""
    records = predictor.checked(np.arange(21.0)[:, None], np.linspace(0, 1, 21), [0] * 20 + [1])
    found = importance.permutation_importance(predictor.trees(num_trees=3), records, jax.random.key(0), repeats=1)
    assert np.isfinite([found.error, *found.rise]).all()


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_coverage_is_that_of_intervals_which_are_known_to_hold_so_much(share):
    """A predictor that knows the mean, and says a deviation such that a normal error lies inside with that share."""
    random = np.random.default_rng(0)
    x = random.normal(size=(4000, 1))
    records = predictor.checked(x, x[:, 0] + 0.3 * random.normal(size=4000), np.arange(4000) % 40)
    deviations = {0.5: 0.67449, 0.9: 1.6449, 1.0: 9.0}[share]
    oracle = predictor.Predictor(
        lambda known, key: len(known.y), lambda state, x: (x[:, 0], np.full(len(x), 0.3 * (state == 3900))), None
    )
    inside = importance.coverage(oracle, records, jax.random.key(0), deviations=deviations)
    assert inside.mean() == pytest.approx(share, abs=0.025)
    with pytest.raises(ValueError, match="give records of at least 2 tasks"):
        importance.coverage(oracle, records._replace(groups=np.zeros(4000, int)), jax.random.key(0), deviations=1.0)


def test_intervals_of_a_ridge_hold_about_what_they_say_where_every_task_has_an_offset():
    random = np.random.default_rng(1)
    groups, x = np.repeat(np.arange(60), 5), random.normal(size=(300, 2))
    y = x @ np.array([0.5, -0.2]) + 0.3 * random.normal(size=60)[groups] + 0.05 * random.normal(size=300)
    ridge = predictor.ridge(penalty=1.0, degree=1)
    inside = importance.coverage(ridge, predictor.checked(x, y, groups), jax.random.key(0), deviations=1.6449)
    assert 0.84 < inside.mean() < 0.96
