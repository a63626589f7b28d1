"""Rewards of a joint search: weighted normalised metrics, a map, and the rule that ends the search."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from jnas.recipes.settings import LARGE, POSITIVE, settings

METRICS = ("accuracy", "latency", "size", "compute")


@settings(
    **dict.fromkeys(METRICS, (0, 100)),
    **dict.fromkeys(("target_latency", "target_size", "target_compute"), (POSITIVE, LARGE**2)),
)
class Reward:
    r"""What a reward is made of; it rises with accuracy and falls with every cost.

    Each metric m with a weight is divided by its reference: 1 for accuracy, for a cost that of the largest network with
    8 bits everywhere, or the target that is set. Then

        linear        w_a a - sum over costs of w_c c
        logarithmic   w_a log a - sum over costs of w_c log c

    and the result r goes through the map: identity, exp(r), or tanh(r). Logarithms with exp are the product
    a^{w_a} prod c^{-w_c}, with weights 1 and .07 the reward of MnasNet.

    Attributes:
      accuracy: weight of the accuracy, in [0, 1].
      latency: weight of the latency; the settings then name a table of latencies.
      size: weight of the bytes that the network's weights take.
      compute: weight of the bit operations of one image.
      scale: "linear" or "logarithmic".
      map: "identity", "exp" or "tanh".
      target_latency: in milliseconds; null: the reference network's.
      target_size: in bytes; null: the reference network's.
      target_compute: in bit operations; null: the reference network's.

    References:
      Tan et al., "MnasNet: Platform-aware neural architecture search for mobile", CVPR 2019.
    """

    accuracy: float = 1.0
    latency: float = 0.0
    size: float = 0.0
    compute: float = 0.0
    scale: Literal["linear", "logarithmic"] = "linear"
    map: Literal["identity", "exp", "tanh"] = "identity"
    target_latency: float | None = None
    target_size: float | None = None
    target_compute: float | None = None

    def __post_init__(self):
        if not any(getattr(self, name) for name in METRICS):
            raise ValueError("reward: all weights are 0: give accuracy or a cost a positive one")


def reward_of(reward: Reward, reference: Mapping[str, float]) -> Callable[[Mapping[str, float]], float]:
    """The function from metrics to a reward.

    >>> score = reward_of(Reward(size=0.5), {"size": 2000.0})
    >>> score({"accuracy": 0.75, "size": 1000.0})
    0.5
    >>> power = reward_of(Reward(size=0.07, scale="logarithmic", map="exp"), {"size": 2000.0})
    >>> round(power({"accuracy": 0.75, "size": 1000.0}), 5) == round(0.75 * 0.5**-0.07, 5)
    True

    Args:
      reward: the settings.
      reference: the costs that count as 1, where no target is set.

    Returns:
      `metrics -> reward`. With logarithms an accuracy of 0 counts as 1e-6.

    Raises:
      ValueError: if a weighted cost has no reference, or one that is not positive.
    """
    terms = []
    for name in METRICS:
        weight = getattr(reward, name)
        unit = 1.0 if name == "accuracy" else getattr(reward, f"target_{name}") or reference.get(name, 0.0)
        if weight and unit <= 0:
            raise ValueError(f"reward: {name} has a weight and no reference: set target_{name}, or a table of {name}")
        if weight:
            terms.append((name, weight if name == "accuracy" else -weight, unit))
    scale = (lambda x: math.log(max(x, 1e-6))) if reward.scale == "logarithmic" else float
    shape = {"identity": float, "exp": math.exp, "tanh": math.tanh}[reward.map]

    def score(metrics: Mapping[str, float]) -> float:
        return shape(sum(weight * scale(metrics[name] / unit) for name, weight, unit in terms))

    return score


def converged(rewards: Sequence[float], *, window: int, tolerance: float) -> bool:
    """Whether the best reward has changed by less than a share of itself over the last iterations.

    >>> converged([1.0, 2.0, 2.0, 2.001], window=2, tolerance=0.01)
    True
    >>> converged([1.0, 2.0], window=2, tolerance=0.01)
    False

    Args:
      rewards: of each iteration, in order; of an iteration with several candidates the best.
      window: iterations looked back, at least 1.
      tolerance: largest change that counts as none, relative to the magnitude of the earlier best.

    Returns:
      False with as few iterations as `window`.
    """
    if window < 1:
        raise ValueError(f"window is {window}: give at least 1")
    if len(rewards) <= window:
        return False
    before, now = max(rewards[:-window]), max(rewards)
    return now - before <= tolerance * max(abs(before), 1e-12)
