"""Gaussian processes over architectures: regression, kernels, acquisition, and the searcher made of them."""

from jnas.searchers.gp import acquisition, kernels
from jnas.searchers.gp.regression import (
    Conditioned,
    Data,
    Fit,
    Hyperparameters,
    condition,
    fit,
    jitter,
    log_evidence,
    log_likelihood,
    log_prior,
    noise_variance,
    posterior,
    predict,
    prior_mean,
)

__all__ = [
    "Conditioned",
    "Data",
    "Fit",
    "Hyperparameters",
    "acquisition",
    "condition",
    "fit",
    "jitter",
    "kernels",
    "log_evidence",
    "log_likelihood",
    "log_prior",
    "noise_variance",
    "posterior",
    "predict",
    "prior_mean",
]
