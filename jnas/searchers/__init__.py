"""Pure searchers over spaces, `(init, ask, tell)`, and the probability model of one of them."""

from jnas.searchers import descriptors, gp
from jnas.searchers.base import Evaluation, Objective, Observations, Searcher, within
from jnas.searchers.evolution import evolution, genetic
from jnas.searchers.front import front
from jnas.searchers.gp import acquisition, kernels
from jnas.searchers.gp.searcher import (
    Acquire,
    Surrogate,
    by_improvement,
    by_information,
    gaussian_process,
    normal_scores,
    standardised,
    surrogate,
)
from jnas.searchers.halving import budgeted, halving
from jnas.searchers.pooled import Pooled, pooled
from jnas.searchers.random import random
from jnas.searchers.reinforce import reinforce
from jnas.searchers.samplers import from_optuna, nsga2, tpe, weighted

__all__ = [
    "Acquire",
    "Evaluation",
    "Objective",
    "Observations",
    "Pooled",
    "Searcher",
    "Surrogate",
    "acquisition",
    "budgeted",
    "by_improvement",
    "by_information",
    "descriptors",
    "evolution",
    "from_optuna",
    "front",
    "gaussian_process",
    "genetic",
    "gp",
    "halving",
    "kernels",
    "normal_scores",
    "nsga2",
    "pooled",
    "random",
    "reinforce",
    "standardised",
    "surrogate",
    "tpe",
    "weighted",
    "within",
]
