import numpy as np
import pytest

from jnas.report.summary import verdict


def test_a_cell_below_the_random_mean_is_said_to_gain_nothing():
    text = verdict([0.715], [0.71, 0.73])
    assert "does not beat the random cells: 71.50 % against a mean of 72.00 %" in text
    assert "gained nothing" in text


def test_an_equal_mean_is_no_gain():
    assert "gained nothing" in verdict([0.5], [0.25, 0.75])


def test_a_gain_within_the_spread_may_be_chance():
    random = [0.70, 0.72, 0.74]
    text = verdict([0.73], random)
    assert "1.00 points more, better than 2 of 3" in text
    assert f"std {100 * np.std(random, ddof=1):.2f}" in text
    assert "may be chance" in text


def test_a_clear_gain_of_one_training_is_said_to_be_of_one_training():
    text = verdict([0.80], [0.70, 0.72, 0.74])
    assert "better than 3 of 3" in text
    assert "may be chance" not in text
    assert "one training" in text


@pytest.mark.parametrize(
    ("found", "random", "words"),
    [
        ([], [0.5], "not known"),
        ([0.5], [], "No random cell was trained"),
        ([0.6], [0.5], "One random cell is too few"),
        ([0.6, 0.8], [0.4, 0.5], "reaches 70.00 % (mean of 2)"),
    ],
)
def test_what_cannot_be_said_is_not_said(found, random, words):
    assert words in verdict(found, random)
