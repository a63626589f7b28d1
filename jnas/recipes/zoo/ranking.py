"""The order of the choices: networks with hyper-parameters, ranked by a predictor that reads the records of a zoo."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnas.data.description import Description
from jnas.files import schemas
from jnas.recipes.zoo import candidates, entries
from jnas.recipes.zoo.settings import FineTuning, Selection
from jnas.searchers import hedge, importance, predictor
from jnas.searchers.gp import acquisition

TASK = tuple(f"task: {name}" for name in Description._fields if name not in ("nearest_centroid", "logme"))
NAMES = (
    "model: log parameters", "model: log operations", "model: accuracy at its source", "fit: nearest centroid",
    "fit: LogME", "setting: frozen", "setting: log learning rate", "setting: log steps", *TASK,
)  # fmt: skip


class Choice(NamedTuple):
    """A network with hyper-parameters."""

    candidate: candidates.Candidate
    settings: FineTuning
    features: np.ndarray  # [len(NAMES)]
    seconds: float  # of the fine-tuning: steps times the measured time of a step


def records_of(folder: str) -> tuple[list[dict[str, Any]], list[str]]:
    """What fine-tunings came to so far, in a zoo; records of another version's features are left out."""
    found, complaints = entries.notes(folder, entries.RECORDS, schema=schemas.Record)
    return [record for record in found if set(NAMES) == set(record["features"])], complaints


def ranked(
    config: Selection, choices: Sequence[Choice], records: Sequence[dict[str, Any]], *, task: str
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """The choices in order, the first first, and the predicted mean and deviation of each.

    With fewer records than `least_records` nothing is predicted: the longest fine-tuning of the whole network with the
    middle learning rate comes first, of one network after the other in the order of how well their frozen features tell
    the classes apart, so that several trials are of several networks.
    """
    if len(records) < config.least_records:
        rates = sorted(config.learning_rates)
        middle = rates[len(rates) // 2]
        keys = [
            (c.settings.frozen, c.settings.learning_rate != middle, -c.settings.epochs,
             -c.features[NAMES.index("fit: nearest centroid")])
            for c in choices
        ]  # fmt: skip
        return np.array(sorted(range(len(choices)), key=keys.__getitem__)), None
    model = predictor_of(config.predictor)
    state = model.fit(as_records(records), jax.random.key(config.seed))
    mean, std = model.predict(state, np.array([choice.features for choice in choices]))
    score = mean
    if config.acquisition == "expected_improvement":
        best = max([record["score"] for record in records if record["task"] == task], default=float(mean.max()))
        score = np.asarray(acquisition.expected_improvement(*(jnp.asarray(v, jnp.float32) for v in (mean, std, best))))
    return np.argsort(-score, kind="stable"), (mean, std)


def as_records(records: Sequence[dict[str, Any]]) -> predictor.Records:
    """Records of a zoo as a predictor reads them."""
    x = np.array([[record["features"][name] for name in NAMES] for record in records])
    tasks = [record["task"] for record in records]
    groups = np.array([sorted(set(tasks)).index(name) for name in tasks])
    return predictor.checked(x, [record["score"] for record in records], groups)


def carrying(config: Selection, records: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What each feature is worth to the predictor on tasks left out, as values of JSON, the most worth first.

    Returns:
      `predictor`, `records`, `tasks`, `error` and `guess` (root mean squared, of accuracies), and `features`: the name
      and the `rise` of the error when it is shuffled, with its deviation; None where there are too few records to
      predict from, or all of one task.
    """
    if len(records) < config.least_records or len({record["task"] for record in records}) < 2:
        return None
    found = importance.permutation_importance(
        predictor_of(config.predictor), as_records(records), jax.random.key(config.seed)
    )
    return {
        "predictor": config.predictor, "records": len(records), "tasks": len({record["task"] for record in records}),
        "error": found.error, "guess": found.guess,
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
