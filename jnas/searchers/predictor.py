"""`Predictor`: from features of (model, hyper-parameters, task) to a score with its uncertainty, and three simple ones.

The records of one task resemble each other, and what is asked for is a task that is not among them. So everything
that is estimated from errors here leaves out whole tasks, never rows: `groups` says which task a record is of.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnas.searchers.base import deviation, padded, padded_length
from jnas.searchers.gp import kernels, regression
from jnas.types import Key


class Records(NamedTuple):
    """What was measured so far."""

    x: np.ndarray  # [n, num_features] float64
    y: np.ndarray  # [n] float64, larger is better
    groups: np.ndarray  # [n] int64, the task of each record


class Predictor(NamedTuple):
    """A pure model of records. Build it once and keep it: what it compiles belongs to it.

    The same records and key give the same state; states are never changed in place.
    """

    fit: Callable[[Records, Key], Any]
    # (state, x [m, num_features]) -> mean [m], standard deviation [m] of a new record, both float64
    predict: Callable[[Any, np.ndarray], tuple[np.ndarray, np.ndarray]]
    # (state, new records, key) -> state
    update: Callable[[Any, Records, Key], Any]


class Scale(NamedTuple):
    """Moments of records, by which they become of order one."""

    x_mean: np.ndarray  # [num_features]
    x_std: np.ndarray  # [num_features], 1 where a feature never changes
    y_mean: float
    y_std: float


class Crossed(NamedTuple):
    """The state of a cross-fitted predictor."""

    records: Records
    scale: Scale
    members: tuple[Any, ...]
    error: float  # root mean squared error on the tasks left out, in units of y


class Conditioned(NamedTuple):
    """The state of the Gaussian process."""

    records: Records
    scale: Scale
    fit: regression.Fit
    given: regression.Conditioned


def checked(x, y, groups=None) -> Records:
    """Records from arrays.

    Args:
      x: `[n, num_features]`, finite.
      y: `[n]`, finite.
      groups: `[n]` int, the task of each; None: every record is a task of its own.

    Returns:
      The records.

    Raises:
      ValueError: if shapes disagree, there is none, or a number is not finite.

    >>> checked([[1.0], [2.0]], [0.5, 0.7]).groups
    array([0, 1])
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    groups = np.arange(len(y)) if groups is None else np.asarray(groups)
    if x.ndim != 2 or y.shape != (len(x),) or groups.shape != y.shape or not len(y):
        raise ValueError(
            f"features {list(x.shape)}, scores {list(y.shape)} and groups {list(groups.shape)} were given: "
            "give [n, num_features], [n] and [n] of at least one record."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a feature or score of a record is not finite: leave that record out.")
    return Records(x, y, groups)


def joined(old: Records, new: Records) -> Records:
    """Both, the old ones first."""
    return Records(*(np.concatenate(pair) for pair in zip(old, new, strict=True)))


def scale_of(records: Records) -> Scale:
    """The moments of some records."""
    x_std, y_std = deviation(records.x), float(deviation(records.y))
    return Scale(records.x.mean(0), np.where(x_std > 0, x_std, 1.0), float(records.y.mean()), y_std or 1.0)


def standardised(scale: Scale, x) -> np.ndarray:
    """Features of zero mean and unit deviation, held within 6 deviations: a new task may lie far off."""
    return np.clip((np.asarray(x, np.float64) - scale.x_mean) / scale.x_std, -6.0, 6.0)


def _fitted(regressor, x: np.ndarray, y: np.ndarray):
    """The regressor, fitted; of a single record nothing but its score can be learned, and half of it is no sample."""
    from sklearn.dummy import DummyRegressor

    return (regressor if len(y) > 1 else DummyRegressor()).fit(x, y)


def cross_fitted(regressor: Callable[[int], Any], *, num_members: int = 1, num_folds: int = 3) -> Predictor:
    """A regressor with `fit` and `predict`, as scikit-learn's, with an error learned on tasks that it had not seen.

    The mean of a prediction is that of the members, which have read every record; its variance is the members' variance
    plus the mean squared error, on each fold of the tasks, of a regressor fitted without it. `update` fits again: such
    models are no online learners.

    Args:
      regressor: from a seed to an unfitted regressor of standardised features and scores.
      num_members: regressors from different seeds, averaged; 1 for one without chance.
      num_folds: of the tasks; with fewer tasks than that as many, and with a single task none: the error is then the
        deviation of the scores.

    Returns:
      A predictor.

    Raises:
      ValueError: if there are fewer than 2 folds.

    Reference: Barber, Candes, Ramdas, Tibshirani, "Predictive inference with the jackknife+", 2021.
    """
    if num_folds < 2 or num_members < 1:
        raise ValueError(f"num_folds is {num_folds} and num_members {num_members}: give at least 2 and 1.")

    def fit(records: Records, key: Key) -> Crossed:
        scale = scale_of(records)
        x, y = standardised(scale, records.x), (records.y - scale.y_mean) / scale.y_std
        seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
        tasks = np.unique(records.groups)
        folds = min(num_folds, len(tasks))
        members = tuple(_fitted(regressor(seed + number), x, y) for number in range(num_members))
        if folds == 1:
            return Crossed(records, scale, members, scale.y_std)
        order = np.random.default_rng(seed).permutation(len(tasks))
        fold = (order % folds)[np.searchsorted(tasks, records.groups)]
        squares = 0.0
        for left_out in range(folds):
            out = fold == left_out
            blind = _fitted(regressor(seed + left_out), x[~out], y[~out])
            squares += float(np.sum((blind.predict(x[out]) - y[out]) ** 2))
        return Crossed(records, scale, members, scale.y_std * float(np.sqrt(squares / len(y))))

    def predict(state: Crossed, x) -> tuple[np.ndarray, np.ndarray]:
        rows = standardised(state.scale, x)
        each = np.stack([member.predict(rows) for member in state.members])
        spread = state.scale.y_std * each.std(0)
        return state.scale.y_mean + state.scale.y_std * each.mean(0), np.hypot(spread, state.error)

    def update(state: Crossed, new: Records, key: Key) -> Crossed:
        return fit(joined(state.records, new), key)

    return Predictor(fit, predict, update)


def ridge(*, penalty: float = 100.0, degree: int = 2, num_folds: int = 3) -> Predictor:
    """Ridge regression on all products of at most `degree` features: the strongest of the simple baselines.

    Args:
      penalty: of the squared weights; features are standardised.
      degree: of the products; 1: linear.
      num_folds: see `cross_fitted`.

    Returns:
      A predictor.
    """

    def regressor(seed):
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import PolynomialFeatures, StandardScaler

        del seed  # has no random part
        return make_pipeline(PolynomialFeatures(degree, include_bias=False), StandardScaler(), Ridge(penalty))

    return cross_fitted(regressor, num_folds=num_folds)


def trees(
    *, num_trees: int = 150, depth: int = 4, learning_rate: float = 0.07, num_members: int = 2, num_folds: int = 3
) -> Predictor:
    """Gradient-boosted regression trees, each on half of the records.

    Args:
      num_trees: of a member.
      depth: of a tree.
      learning_rate: shrinkage of each tree.
      num_members: see `cross_fitted`.
      num_folds: see `cross_fitted`.

    Returns:
      A predictor.

    Reference: Friedman, "Stochastic gradient boosting", 2002.
    """

    def regressor(seed):
        from sklearn.ensemble import GradientBoostingRegressor

        return GradientBoostingRegressor(
            n_estimators=num_trees, max_depth=depth, learning_rate=learning_rate, subsample=0.5, min_samples_leaf=5,
            random_state=seed % 2**31,
        )  # fmt: skip

    return cross_fitted(regressor, num_members=num_members, num_folds=num_folds)


def gaussian_process(num_features: int, *, max_records: int = 512, num_steps: int = 30) -> Predictor:
    """The Gaussian process of `searchers.gp` with one length scale a feature, on at most `max_records` records.

    A covariance matrix of n records costs n^3; beyond `max_records` it learns from a random part of them, which
    `update` draws anew.

    Args:
      num_features: of the records.
      max_records: rows of the covariance matrix at most.
      num_steps: of a fit of the hyper-parameters.

    Returns:
      A predictor; its deviation includes the noise of a record.
    """
    kernel = kernels.rbf(num_features)
    conditioned = jax.jit(regression.condition, static_argnums=0)
    predicted = jax.jit(regression.predict, static_argnums=0)

    def fit(records: Records, key: Key) -> Conditioned:
        scale = scale_of(records)
        seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
        rows = np.sort(np.random.default_rng(seed).permutation(len(records.y))[:max_records])
        size = padded_length(len(rows))
        both = standardised(scale, records.x[rows]), (records.y[rows] - scale.y_mean) / scale.y_std
        x, y = (jnp.asarray(padded(part, size), jnp.float32) for part in both)
        data = regression.Data(x, y, jnp.arange(size) < len(rows))
        found = regression.fit(kernel, data, key, num_restarts=1, num_steps=num_steps)
        return Conditioned(records, scale, found, conditioned(kernel, found.hyper, data))

    def predict(state: Conditioned, x) -> tuple[np.ndarray, np.ndarray]:
        size = padded_length(len(x))
        rows = padded(standardised(state.scale, x), size)
        mean, variance, _ = predicted(kernel, state.given, jnp.asarray(rows, jnp.float32))
        std = np.sqrt(np.asarray(variance, np.float64) + float(regression.noise_variance(state.fit.hyper)))
        whole = state.scale.y_mean + state.scale.y_std * np.asarray(mean, np.float64)
        return whole[: len(x)], state.scale.y_std * std[: len(x)]

    def update(state: Conditioned, new: Records, key: Key) -> Conditioned:
        return fit(joined(state.records, new), key)

    return Predictor(fit, predict, update)
