"""What short trainings are scored by."""

import math
from collections.abc import Mapping
from typing import Literal

Score = Literal["likelihood", "accuracy"]


def score_of(measured: Mapping[str, float], by: Score) -> float:
    """The likelihood exp(-loss), or the accuracy, of what `classification.evaluate` says."""
    return math.exp(-measured["loss"]) if by == "likelihood" else measured["accuracy"]
