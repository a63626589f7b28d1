"""Kernels over real descriptors whose features come in kinds: one learned scale a kind, not one a feature."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jnas.searchers.gp.kernels import Kernel, sum_of


def linear(num_features: int) -> Kernel:
    """Every feature adds its own effect: Bayesian linear regression.

    k(x, z) = a / num_features sum_i x_i z_i, the covariance of w . x with independent normal weights of variance
    a / num_features.

    >>> kernel = linear(2)
    >>> print(kernel.covariance(jnp.zeros(1), jnp.array([[1.0, 3.0]]), jnp.array([[2.0, 0.0]])))
    [[1.]]

    Args:
      num_features: of a descriptor; standardise each.

    Returns:
      A kernel of float descriptors with the parameter (a,).
    """

    def covariance(log_parameters, x, z):
        return jnp.exp(log_parameters[0]) / num_features * (x @ z.T)

    return Kernel((-0.5,), covariance)


def smooth(groups: Sequence[int]) -> Kernel:
    """Smooth functions of a descriptor, with a learned scale for each group of its features.

    k(x, z) = a exp(-1/2 sum_g s_g mean over i in g of (x_i - z_i)^2): with a handful of observations a scale for every
    feature, as `kernels.rbf` has, fits whatever comes.

    Args:
      groups: for each feature the number of its group.

    Returns:
      A kernel of float descriptors with parameters (a, s of each group in increasing order of its number).
    """
    numbers, column, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    share = (1 / np.sqrt(counts[column])).astype(np.float32)

    def covariance(log_parameters, x, z):
        root = (jnp.exp(0.5 * log_parameters[1:])[column] * share.astype(log_parameters.dtype))[None]
        x, z = x * root, z * root
        square = jnp.sum(x**2, -1)[:, None] + jnp.sum(z**2, -1)[None, :] - 2.0 * (x @ z.T)
        return jnp.exp(log_parameters[0] - 0.5 * jnp.maximum(square, 0.0))

    return Kernel((0.0, *[-math.log(len(numbers))] * len(numbers)), covariance)


def of_descriptors(groups: Sequence[int]) -> Kernel:
    """Effects that add up and a smooth remainder, `linear` + `smooth`; the likelihood divides the work.

    Args:
      groups: for each feature the number of its group, see `smooth`.

    Returns:
      A kernel of float descriptors.
    """
    return sum_of(linear(len(groups)), smooth(groups))
