"""What a predictor knows of unseen tasks: which features carry it, and whether its intervals hold what they say."""

from typing import NamedTuple

import jax
import numpy as np

from jnas.searchers.predictor import Predictor, Records
from jnas.types import Key


class Importance(NamedTuple):
    """Errors on tasks left out, root mean squared, in units of the score."""

    error: float  # with every feature as it is
    guess: float  # of the mean score of the other tasks, which needs no feature
    rise: np.ndarray  # [num_features] by how much the error rises when that feature is shuffled
    spread: np.ndarray  # [num_features] deviation of the rise over the shuffles


def permutation_importance(
    model: Predictor, records: Records, key: Key, *, num_folds: int = 3, repeats: int = 5
) -> Importance:
    """What each feature is worth on tasks that the predictor has not seen.

    The tasks are parted; for each part a predictor is fitted to the others, and asked about the part as it is and with
    one feature after the other replaced by values drawn from all records, so that a feature that is constant within a
    task is shuffled, too. Two features that say the same share what they are worth: each looks worth less than both.

    Args:
      model: the predictor.
      records: of at least 2 tasks.
      key: of fits and shuffles.
      num_folds: parts of the tasks; at most as many as there are tasks.
      repeats: shuffles of a feature.

    Returns:
      The errors.

    Raises:
      ValueError: if there is one task only, or nothing to repeat.

    Reference: Breiman, "Random forests", 2001, on tasks held out in place of rows.
    """
    tasks = np.unique(records.groups)
    if len(tasks) < 2 or num_folds < 2 or repeats < 1:
        raise ValueError(
            f"{len(tasks)} tasks, num_folds={num_folds}, repeats={repeats}: give records of at least 2 tasks, 2 folds "
            "and 1 repeat."
        )
    folds = min(num_folds, len(tasks))
    random = np.random.default_rng(int(jax.random.randint(key, (), 0, 2**31 - 1)))
    fold = (random.permutation(len(tasks)) % folds)[np.searchsorted(tasks, records.groups)]
    number = records.x.shape[1]
    intact, guessed, shuffled = 0.0, 0.0, np.zeros((repeats, number))
    for left_out in range(folds):
        out = fold == left_out
        state = model.fit(Records(*(part[~out] for part in records)), jax.random.fold_in(key, left_out))
        x, y = records.x[out], records.y[out]
        asked = np.broadcast_to(x, (1 + repeats * number, *x.shape)).copy()
        for repeat in range(repeats):
            for feature in range(number):
                drawn = random.choice(records.x[:, feature], len(x))
                asked[1 + repeat * number + feature, :, feature] = drawn
        mean, _ = model.predict(state, asked.reshape(-1, number))
        squares = np.sum((mean.reshape(len(asked), -1) - y) ** 2, 1)
        intact += squares[0]
        guessed += np.sum((records.y[~out].mean() - y) ** 2)
        shuffled += squares[1:].reshape(repeats, number)
    count = len(records.y)
    error = float(np.sqrt(intact / count))
    rises = np.sqrt(shuffled / count) - error
    return Importance(error, float(np.sqrt(guessed / count)), rises.mean(0), rises.std(0))


def coverage(model: Predictor, records: Records, key: Key, *, deviations: float) -> np.ndarray:
    """Which scores lie in their interval, the predicted mean plus and minus so many deviations, on tasks left out.

    Each task is predicted by a fit to all others. Of 90 % intervals (1.645 deviations of a normal error) that are right
    nine in ten scores lie inside on the mean; those of one task err together, so that few tasks say little.

    Args:
      model: the predictor.
      records: of at least 2 tasks.
      key: of the fits.
      deviations: half the width of an interval.

    Returns:
      `[n]` bool.

    Raises:
      ValueError: if there is one task only.
    """
    tasks = np.unique(records.groups)
    if len(tasks) < 2:
        raise ValueError(f"{len(tasks)} task: give records of at least 2 tasks.")
    inside = np.zeros(len(records.y), bool)
    for task in tasks:
        out = records.groups == task
        mean, std = model.predict(model.fit(Records(*(part[~out] for part in records)), key), records.x[out])
        inside[out] = np.abs(records.y[out] - mean) <= deviations * std
    return inside
