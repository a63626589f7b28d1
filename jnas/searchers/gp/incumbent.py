"""What a Gaussian process holds for the best architecture, of scores that are noisy and may have outliers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jnas.searchers.base import Observations, deviation
from jnas.searchers.gp.regression import Hyperparameters
from jnas.searchers.gp.searcher import Surrogate

_AT_A_TIME = 4096  # codes in one prediction
_NEGLIGIBLE = 0.05  # added to a hyper-parameter before its log: one that matters no more may go on to zero


def centre_and_scale(values: np.ndarray) -> tuple[float, float]:
    """Median and robust standard deviation (1.4826 times the median distance from it), for scores with outliers.

    Args:
      values: `[n]`.

    Returns:
      Both; the scale falls back on the standard deviation where more than half of the values are equal, and on 1.
    """
    if not len(values):
        return 0.0, 1.0
    centre = float(np.median(values))
    rounding = 64 * np.finfo(values.dtype).eps * float(np.abs(values).max())
    robust = 1.4826 * float(np.median(np.abs(values - centre)))
    return centre, (robust if robust > rounding else float(deviation(values))) or 1.0


def clipped(values: np.ndarray) -> np.ndarray:
    """Scores to targets of a model: robustly standardised, and no worse than 3 standard deviations below the median.

    A network that did not train at all would otherwise squeeze the good ones into what a model takes for noise.
    The order of the better ones and the distances between them stay, so that a posterior can be read in units of the
    scores.

    >>> print(clipped(np.array([10.0, 91.0, 92.0, 93.0, 95.0])).round(2))
    [-3.   -0.67  0.    0.67  2.02]

    Args:
      values: `[n]`.

    Returns:
      `[n]`.
    """
    centre, scale = centre_and_scale(values)
    return np.maximum((values - centre) / scale, -3.0)


class Incumbent(NamedTuple):
    """What the model thinks at one iteration."""

    code: np.ndarray
    hyper: np.ndarray  # flat: logs, see `_NEGLIGIBLE`, and the mean
    posterior: tuple[float, float]  # mean and standard deviation of the incumbent, in units of the scores
    scale: float  # of the scores
    facts: dict[str, Any]  # for the log


def incumbent(
    model: Surrogate,
    state: Observations,
    answers: np.ndarray | None = None,
    values: Callable[[Observations], np.ndarray] | None = None,
    allowed: Callable[[np.ndarray], bool] | None = None,
) -> Incumbent:
    """The architecture of largest posterior mean, from the observations alone: the same ones give the same answer.

    Args:
      model: with targets by `clipped`.
      state: the observations.
      answers: `[n, num_choices]` to choose among; None: those observed.
      values: what the model's targets are made of; None: the known scores.
      allowed: whether one may be chosen, asked of the best ones until it is; None: any.

    Returns:
      The incumbent and what the model says.
    """
    fitted = model.fit(state, jax.random.key(0))
    hyper = fitted.hyper
    among = state.codes[: state.count] if answers is None else answers
    mean, std = _predict(model, state, hyper, among)
    if answers is None:
        mean = np.where(state.known[: state.count], mean, -np.inf)
    best = next(at for at in np.argsort(-mean, kind="stable").tolist() if allowed is None or allowed(among[at]))
    centre, scale = centre_and_scale(state.values[state.known] if values is None else values(state))
    posterior = (centre + scale * float(mean[best]), scale * float(std[best]))
    logs = np.append(np.asarray(hyper.log_kernel, np.float64), float(hyper.log_noise))
    flat = np.append(np.log(np.exp(logs) + _NEGLIGIBLE), float(hyper.mean))
    facts = {
        "mean": posterior[0], "std": posterior[1], "best": float(np.nanmax(state.values[: state.count])),
        "evaluated": bool((state.codes[: state.count] == among[best]).all(-1).any()), "scale": scale,
        "log_likelihood": float(fitted.log_likelihood), "hyper_mean": float(hyper.mean),
        "log_noise": float(hyper.log_noise), "log_kernel": np.asarray(hyper.log_kernel, np.float64).tolist(),
    }  # fmt: skip
    return Incumbent(np.asarray(among[best]), flat, posterior, scale, facts)


def _predict(model: Surrogate, state: Observations, hyper: Hyperparameters, codes: np.ndarray):
    # Padded to a power of two: one program while the observations grow.
    size = min(_AT_A_TIME, 1 << max(5, (len(codes) - 1).bit_length()))
    said = []
    for start in range(0, len(codes), size):
        part = codes[start : start + size]
        rows = np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
        said.append([np.asarray(column)[: len(part)] for column in model.predict(state, hyper, rows)])
    return (np.concatenate(columns) for columns in zip(*said, strict=True))
