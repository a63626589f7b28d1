"""The order of the candidates: by records of fine-tunings, and where there are too few by what is known beforehand."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.stats import rankdata

from jnas.recipes.zoo import candidates
from jnas.recipes.zoo.records import LOGME, NAMES, STANDING, STEPS, as_read, matrix
from jnas.recipes.zoo.settings import FineTuning, Selection
from jnas.searchers import hedge, importance, predictor

INTERVAL = 1.6449  # deviations on either side of the mean: 90 % of a normal distribution
PRIOR_TASKS = 10  # on record, as much as which the order without records counts, see experiments/zoo
PRIORS = {"source": (STANDING,), "probe": (LOGME,), "both": (STANDING, LOGME)}


class Choice(NamedTuple):
    """A network with hyper-parameters."""

    candidate: candidates.Candidate
    settings: FineTuning
    features: Mapping[str, float]  # of `records.NAMES`, without the steps
    steps: tuple[int, ...]  # of the fine-tuning from its beginning to the end of each rung
    step_seconds: float  # as measured; NaN: not known

    def seconds(self, rung: int, begun: int = -1) -> float:
        """Of the fine-tuning up to the end of a rung, from the end of another one."""
        return self.step_seconds * (self.steps[rung] - (self.steps[begun] if begun >= 0 else 0))

    def row(self, rung: int) -> dict[str, float]:
        """The features at the end of a rung."""
        return {**self.features, STEPS: float(np.log10(self.steps[rung]))}


class Expected(NamedTuple):
    """The accuracy at the end of a rung as a predictor has it, with its 90 % interval."""

    mean: float
    low: float
    high: float


def ranked(
    config: Selection, choices: Sequence[Choice], records: Sequence[dict[str, Any]]
) -> tuple[np.ndarray, list[list[Expected]] | None]:
    """The choices in order, the first first, and what is expected of each.

    Without records whole networks with the middle learning rate come first, one network after the other in the order of
    `prior_ranks`, and then the same networks with the other hyper-parameters. Where the records suffice (`enough`) the
    order is that of two ranks, of the predicted mean and of the order without records, which counts as much as
    `PRIOR_TASKS` tasks on record; with a target accuracy the choices that reach it on the mean come before the others,
    the cheapest first.

    Args:
      config: the settings.
      choices: to be ordered.
      records: from `records.of_zoo`, and those of the run.

    Returns:
      `(indices of the choices, what is expected of each at the end of every rung, or None)`.
    """
    before = _beforehand(config, choices)
    if not enough(config, records):
        return before, None
    model, known = predictor_of(config.predictor), as_read(records)
    asked = matrix([choice.row(rung) for choice in choices for rung in range(len(choice.steps))])
    asked = np.where(np.isfinite(asked), asked, known.x.mean(0)[None])
    mean, std = model.predict(model.fit(known, jax.random.key(config.seed)), asked)
    each = np.stack([mean, mean - INTERVAL * std, mean + INTERVAL * std], -1).reshape(len(choices), -1, 3)
    last, cost = each[:, -1, 0], np.nan_to_num(np.array([choice.seconds(-1) for choice in choices]), nan=np.inf)
    unlikely = last < (np.inf if config.target_accuracy is None else config.target_accuracy)
    tasks = len({record["task"] for record in records})
    rank = tasks * rankdata(-last) + PRIOR_TASKS * np.argsort(before)
    order = np.lexsort((rank, np.where(unlikely, 0.0, cost), unlikely))
    return order, [[Expected(*values) for values in rungs] for rungs in each.tolist()]


def _beforehand(config: Selection, choices: Sequence[Choice]) -> np.ndarray:
    """The order without records."""
    rates = sorted(config.learning_rates)
    middle = rates[len(rates) // 2]
    ranks = prior_ranks(config.prior, choices)
    rank = (ranks / ranks.max(1, keepdims=True)).mean(0)
    keys = [(c.settings.frozen, c.settings.learning_rate != middle, r) for c, r in zip(choices, rank, strict=True)]
    return np.array(sorted(range(len(choices)), key=keys.__getitem__))


def enough(config: Selection, records: Sequence[dict[str, Any]]) -> bool:
    """Whether there are records to predict from: so many, and of two tasks, or no error on a new one is known."""
    return len(records) >= config.least_records and len({record["task"] for record in records}) > 1


def standings(offered: Sequence[candidates.Candidate]) -> list[float]:
    """Of each network the share of those of the same source that are less accurate there; half of it and its equals.

    Accuracies on different data are not compared: the best of ten digits' networks and the best of ten birds' stand
    alike. A network that is alone with its source has .5, one of unknown accuracy stands behind the others.
    """
    accuracy = np.array([-np.inf if one.accuracy is None else one.accuracy for one in offered])
    found = np.zeros(len(offered))
    for source in {one.data for one in offered}:
        there = [one.data == source for one in offered]
        found[there] = (rankdata(accuracy[there]) - 0.5) / sum(there)
    return found.tolist()


def prior_ranks(prior: str, choices: Sequence[Choice]) -> np.ndarray:
    """The ranks of the choices before anything was fine-tuned, 1 the best; equal ones, as those of one network, share.

    Args:
      prior: a key of `PRIORS`: `standings`, and LogME of the frozen features on the task's training images.
      choices: to be ordered by the mean over the parts.

    Returns:
      `[num_parts, n]`, a row for each of `PRIORS[prior]`.
    """
    values = [[-choice.features[name] for choice in choices] for name in PRIORS[prior]]
    return rankdata(values, "dense", axis=1)


def carrying(config: Selection, records: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What each feature is worth to the predictor on tasks left out, as values of JSON, the most worth first.

    Returns:
      `predictor`, `records`, `tasks`, `error` and `guess` (root mean squared, of accuracies), `coverage` (the share of
      accuracies within their 90 % interval, each task predicted from the others), and `features`: the name and the
      `rise` of the error when it is shuffled, with its deviation; None where nothing can be predicted.
    """
    if not enough(config, records):
        return None
    model, known, key = predictor_of(config.predictor), as_read(records), jax.random.key(config.seed)
    found = importance.permutation_importance(model, known, key)
    return {
        "predictor": config.predictor, "records": len(records), "tasks": len({record["task"] for record in records}),
        "error": found.error, "guess": found.guess,
        "coverage": float(importance.coverage(model, known, key, deviations=INTERVAL).mean()),
        "features": [
            {"name": NAMES[at], "rise": float(found.rise[at]), "spread": float(found.spread[at])}
            for at in np.argsort(-found.rise, kind="stable")
        ],
    }  # fmt: skip


def predictor_of(name: str) -> predictor.Predictor:
    """A predictor by the name in the settings, sized for the few records of a zoo."""
    if name == "gp":
        return predictor.gaussian_process(len(NAMES))
    if name == "hedge":
        return hedge.hedge_network(width=32, depth=3)
    return predictor.trees() if name == "trees" else predictor.ridge(penalty=10.0, degree=1)
