"""Which candidate comes next: a zoo with known accuracies, budgets, targets."""

import itertools

import numpy as np
import pytest

from jnas.recipes.zoo.rungs import Done, next_step, worth

EPOCHS = np.array([1, 3, 9])


def followed(final, *, order=None, costs=None, noise=0.0, seed=0, **options):
    """The steps of a whole selection whose candidates come near their final accuracy from rung to rung."""
    random = np.random.default_rng(seed)
    costs = np.ones((len(final), 1)) * EPOCHS if costs is None else costs
    options = {"trials": 9, "eta": 3, **options}
    done = []
    while True:
        step, end = next_step(range(len(final)) if order is None else order, costs, done, **options)
        if end:
            return done, step, end
        assert (step.choice, step.rung - 1) in {(one.choice, one.rung) for one in done} or step.rung == 0
        shown = final[step.choice] * (1 - 0.3 / EPOCHS[step.rung]) + noise * random.normal()
        done.append(Done(step.choice, step.rung, float(shown)))


def spent(done, costs):
    return sum(costs[one.choice, one.rung] - (costs[one.choice, one.rung - 1] if one.rung else 0.0) for one in done)


def test_halving_keeps_the_best_of_every_rung():
    """The rule written out: nine begin, the best three go on, and of them the best."""
    final = np.random.default_rng(1).permutation(12) / 12
    done, after, end = followed(final)
    assert [(one.choice, one.rung) for one in done[:9]] == [(at, 0) for at in range(9)]
    best = np.argsort(-final[:9])
    assert [(one.choice, one.rung) for one in done[9:]] == [(at, 1) for at in best[:3]] + [(best[0], 2)]
    assert after is None
    assert end == "the best of those that began has come to its end"


@pytest.mark.parametrize("number", [1, 2, 4, 9, 30])
def test_the_best_comes_to_its_end_however_many_there_are(number):
    final = np.random.default_rng(number).permutation(number) / number
    done, _, _ = followed(final, trials=number)
    longest = max(one.rung for one in done)
    assert longest == 2
    assert {one.choice for one in done if one.rung == longest} >= {int(final.argmax())}


def test_one_rung_is_one_candidate_after_another():
    done, after, _ = followed([0.1, 0.9, 0.5], order=[2, 0, 1], costs=np.ones((3, 1)), trials=2)
    assert [(one.choice, one.rung) for one in done] == [(2, 0), (0, 0)]
    assert after is None


def test_no_budget_is_exceeded_and_what_begins_can_end():
    random = np.random.default_rng(0)
    for seed in range(60):
        costs = random.uniform(0.2, 5.0, (12, 1)) * EPOCHS
        least = costs[:, -1].min()
        budget = float(random.uniform(least, 3 * costs.sum()))
        target = [None, 0.7, 2.0][seed % 3]
        done, after, end = followed(
            random.uniform(0.2, 0.9, 12), order=random.permutation(12), costs=costs, budget=budget, target=target,
            noise=0.05, seed=seed,
        )  # fmt: skip
        assert spent(done, costs) <= budget * (1 + 1e-9)
        if target is None or not any(one.score >= target for one in done):
            assert max(one.rung for one in done) == 2
        if "budget" in end:  # nothing that comes next could have been afforded
            left = budget - spent(done, costs)
            assert after is not None
            assert after.needed > left


def test_a_target_ends_it_at_whatever_rung_and_a_missed_one_tries_everybody():
    final = np.array([0.5, 0.6, 0.95, 0.7])
    done, _, end = followed(final, target=0.65)
    assert done[-1] == Done(2, 0, pytest.approx(0.95 * 0.7))
    assert end == "the target is reached"
    done, after, end = followed(final, target=0.99, trials=2)
    assert {(one.choice, one.rung) for one in done} == set(itertools.product(range(4), range(3)))
    assert after is None
    assert end == "the target is missed and every candidate has come to its end"
    # The best so far goes to its end before the next one begins; the last one is never the best.
    assert [one.choice for one in done] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    done, _, _ = followed(final[::-1], target=0.99, trials=3)
    assert [one.choice for one in done] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    done, _, _ = followed(final[[2, 3, 0, 1]], target=0.99, trials=3)
    assert [one.choice for one in done] == [0, 0, 0, 1, 2, 1, 1, 2, 2, 3, 3, 3]
    done, after, end = followed(final, target=0.99, trials=2, budget=20.0)
    assert end == "the target is missed and the budget has 2 s left"
    assert (after.choice, after.rung) == (2, 0)


def test_chosen_is_what_reached_the_target_or_was_trained_for_longest():
    tried = [(0.95, 2), (0.91, 9), (0.92, 9), (0.93, 6)]
    for target, chosen in ((None, (0.92, 9)), (0.99, (0.92, 9)), (0.94, (0.95, 2))):
        assert max(tried, key=lambda one: worth(*one, target)) == chosen


def test_halving_finds_the_best_for_a_quarter_of_trying_all():
    """27 candidates whose first rungs are told with an error; a random order, the same budget for both rules."""
    random, halved, blind = np.random.default_rng(0), [], []
    for seed in range(40):
        final, order = random.uniform(0.4, 0.9, 27), random.permutation(27)
        done, _, _ = followed(final, order=order, trials=27, budget=27 * 9 / 4, noise=0.02, seed=seed)
        halved.append(final.max() - final[max(done, key=lambda one: (one.rung, one.score)).choice])
        blind.append(final.max() - final[order[:6]].max())
    assert np.mean(halved) < 0.3 * np.mean(blind)
