"""Pure searchers over spaces, `(init, ask, tell)`, and the probability model of one of them."""

from jnas.searchers import acquisition, gp, kernels
from jnas.searchers.base import Observations, Searcher
from jnas.searchers.evolution import evolution
from jnas.searchers.gaussian_process import Surrogate, gaussian_process, normal_scores, standardised, surrogate
from jnas.searchers.random import random

__all__ = [
    "Observations",
    "Searcher",
    "Surrogate",
    "acquisition",
    "evolution",
    "gaussian_process",
    "gp",
    "kernels",
    "normal_scores",
    "random",
    "standardised",
    "surrogate",
]
