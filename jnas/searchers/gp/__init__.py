"""Gaussian processes over architectures: regression, kernels, acquisition, and the searcher made of them."""

from jnas.searchers.gp import acquisition, kernels, regression

__all__ = ["acquisition", "kernels", "regression"]
