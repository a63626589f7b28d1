"""The order of the candidates: by records of fine-tunings, and where there are too few by what is known beforehand."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.stats import rankdata

from jnas.recipes.zoo import candidates
from jnas.recipes.zoo.records import LOGME, NAMES, SOURCE, STEPS, as_read, matrix
from jnas.recipes.zoo.settings import FineTuning, Selection
from jnas.searchers import hedge, importance, predictor

INTERVAL = 1.6449  # deviations on either side of the mean: 90 % of a normal distribution
PRIORS = {"source": (SOURCE,), "probe": (LOGME,), "both": (SOURCE, LOGME)}


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

    Where the records suffice (`enough`) the order is that of the predicted mean; with a target accuracy the choices
    that reach it on the mean come first, the cheapest first. Else nothing is predicted: whole networks with the middle
    learning rate come first, one network after the other in the order of `prior_ranks`, and then the same networks with
    the other hyper-parameters.

    Args:
      config: the settings.
      choices: to be ordered.
      records: from `records.of_zoo`, and those of the run.

    Returns:
      `(indices of the choices, what is expected of each at the end of every rung, or None)`.
    """
    if not enough(config, records):
        rates = sorted(config.learning_rates)
        middle = rates[len(rates) // 2]
        rank = prior_ranks(config.prior, choices).mean(0)
        keys = [(c.settings.frozen, c.settings.learning_rate != middle, r) for c, r in zip(choices, rank, strict=True)]
        return np.array(sorted(range(len(choices)), key=keys.__getitem__)), None
    model, known = predictor_of(config.predictor), as_read(records)
    asked = matrix([choice.row(rung) for choice in choices for rung in range(len(choice.steps))])
    asked = np.where(np.isfinite(asked), asked, known.x.mean(0)[None])
    mean, std = model.predict(model.fit(known, jax.random.key(config.seed)), asked)
    each = np.stack([mean, mean - INTERVAL * std, mean + INTERVAL * std], -1).reshape(len(choices), -1, 3)
    last, cost = each[:, -1, 0], np.nan_to_num(np.array([choice.seconds(-1) for choice in choices]), nan=np.inf)
    unlikely = last < (np.inf if config.target_accuracy is None else config.target_accuracy)
    order = np.lexsort((-last, np.where(unlikely, 0.0, cost), unlikely))
    return order, [[Expected(*values) for values in rungs] for rungs in each.tolist()]


def enough(config: Selection, records: Sequence[dict[str, Any]]) -> bool:
    """Whether there are records to predict from: so many, and of two tasks, or no error on a new one is known."""
    return len(records) >= config.least_records and len({record["task"] for record in records}) > 1


def prior_ranks(prior: str, choices: Sequence[Choice]) -> np.ndarray:
    """The ranks of the choices before anything was fine-tuned, 1 the best; equal ones, as those of one network, share.

    Args:
      prior: a key of `PRIORS`; LogME is that of the frozen features on the task's training images.
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
