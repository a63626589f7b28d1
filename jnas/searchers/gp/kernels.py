"""Covariance functions over codes of architectures and over real descriptors."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnas.spaces.base import Space
from jnas.spaces.cell import CellSpace
from jnas.spaces.paths import count_paths, path_words
from jnas.types import Array


class Kernel(NamedTuple):
    """A covariance function with positive parameters, learned as logs.

    Build it once and keep it: `covariance` is a closure, and a kernel built again compiles again.
    """

    init: tuple[float, ...]  # where each log parameter starts, and the mean of its weak prior
    # (log parameters [num_parameters], x [n, num_features], z [m, num_features]) -> [n, m]
    covariance: Callable[[Array, Array, Array], Array]


def hamming(num_choices: int, *, tied: bool = False) -> Kernel:
    """Codes that differ in few choices perform alike; how much a choice matters is learned.

    k(x, z) = a exp(-sum_i s_i [x_i != z_i]): a product over the choices, so that choices may interact.

    >>> kernel = hamming(2)
    >>> x = np.array([[0, 1]], np.int32), np.array([[0, 1], [0, 2]], np.int32)
    >>> print(kernel.covariance(jnp.log(jnp.array([2.0, 1.0, 3.0])), *x).round(1))
    [[2.  0.1]]

    Args:
      num_choices: entries of a code.
      tied: one scale for all choices, where there are too few examples to tell them apart.

    Returns:
      A kernel of int codes with parameters (a, s_1 .. s_num_choices), or (a, s) if tied.
    """

    def covariance(log_parameters, x, z):
        scales = jnp.broadcast_to(jnp.exp(log_parameters[1:]), (num_choices,))
        return jnp.exp(log_parameters[0] - _weighted(jnp.not_equal, x, z, scales))

    return Kernel((0.0, *[-math.log(num_choices)] * (1 if tied else num_choices)), covariance)


def _weighted(compare, x, z, weights):
    # sum_i weights_i compare(x_i, z_i), choice by choice: nothing of size [n, m, num_choices] is written to memory.
    return sum(weights[i] * compare(x[:, None, i], z[None, :, i]).astype(weights.dtype) for i in range(len(weights)))


def additive(num_choices: int) -> Kernel:
    """Every option of every choice adds its own effect: a linear mean on the one-hot code, with learned weights.

    k(x, z) = a mean_i [x_i == z_i], the covariance of sum_i w_i[x_i] with independent normal weights of variance
    a / num_choices. The weights' posterior mean is ridge regression on the one-hot code.

    Args:
      num_choices: entries of a code.

    Returns:
      A kernel of int codes with the parameter (a,).
    """

    def covariance(log_parameters, x, z):
        ones = jnp.ones(num_choices, log_parameters.dtype)
        return jnp.exp(log_parameters[0]) / num_choices * _weighted(jnp.equal, x, z, ones)

    return Kernel((-1.0,), covariance)


def shared(tokens: Sequence[Sequence[int]]) -> Kernel:
    """Every operator adds its own effect wherever it stands: how often each occurs, not where.

    k(x, z) = a mean over pairs (i, j) of [token_i(x_i) == token_j(z_j)], times num_choices. Beside `additive` it lets
    the places of an operator learn from one another: position by position there are sixteen times fewer examples.

    Args:
      tokens: for each choice, for each option, the number of what it places; equal numbers are equal operators. See
        `tokens_of`.

    Returns:
      A kernel of int codes with the parameter (a,).
    """
    size = max(map(max, tokens)) + 1
    longest = max(map(len, tokens))
    table = np.array([[*row, *[0] * (longest - len(row))] for row in tokens], np.int32)

    def counts(codes, dtype):
        placed = jnp.asarray(table)[jnp.arange(len(table)), codes]
        return jnp.sum(jax.nn.one_hot(placed, size, dtype=dtype), axis=1)

    def covariance(log_parameters, x, z):
        dtype = log_parameters.dtype
        return jnp.exp(log_parameters[0]) / len(table) * (counts(x, dtype) @ counts(z, dtype).T)

    return Kernel((-1.5,), covariance)


def tokens_of(space: Space) -> tuple[tuple[int, ...], ...]:
    """Numbers the distinct options of a space, for `shared`.

    >>> from jnas import spaces
    >>> tokens_of(spaces.nasbench201())[5]
    (0, 1, 2, 3, 4)

    Args:
      space: any space.

    Returns:
      For each choice, for each option, the number of the option among all that the space has.
    """
    numbers: dict = {}
    return tuple(
        tuple(numbers.setdefault(option, len(numbers)) for option in choice.options) for choice in space.choices
    )


def rbf(num_features: int) -> Kernel:
    """Smooth functions of real descriptors (depth, width, parameters), with a learned scale per feature.

    k(x, z) = a exp(-1/2 sum_i s_i (x_i - z_i)^2): s_i is one over a squared length.

    Args:
      num_features: of a descriptor; standardise each.

    Returns:
      A kernel of float descriptors with parameters (a, s_1 .. s_num_features).
    """

    def covariance(log_parameters, x, z):
        root = jnp.exp(0.5 * log_parameters[1:])[None]
        difference = (x * root)[:, None, :] - (z * root)[None, :, :]
        return jnp.exp(log_parameters[0] - 0.5 * jnp.sum(difference**2, -1))

    return Kernel((0.0, *[-math.log(num_features)] * num_features), covariance)


def sum_of(*kernels: Kernel) -> Kernel:
    """The covariance of a sum of independent processes; the likelihood decides how much each of them explains.

    Args:
      *kernels: over the same inputs.

    Returns:
      A kernel with all their parameters, in order.

    Raises:
      ValueError: if there is none.
    """
    if not kernels:
        raise ValueError("a sum of no kernels has no covariance: give one at least.")
    ends = np.cumsum([len(kernel.init) for kernel in kernels])

    def covariance(log_parameters, x, z):
        parts = jnp.split(log_parameters, ends[:-1])
        return sum(
            (k.covariance(part, x, z) for k, part in zip(kernels[1:], parts[1:], strict=True)),
            kernels[0].covariance(parts[0], x, z),
        )

    return Kernel(tuple(value for kernel in kernels for value in kernel.init), covariance)


def paths(space: CellSpace) -> Kernel:
    """Cells that hold the same paths from input to output perform alike, wherever the operators stand.

    k(x, z) = a exp(-1/2 sum_l s_l sum_w (n_w(x) - n_w(z))^2), w over the sequences of l operators, n_w how many paths
    run through w (`spaces.count_paths`): a function of what the cell computes. A skip connection on one edge is news of
    the skip connections elsewhere, while `hamming` sees an edge that was never tried.

    Args:
      space: of the codes.

    Returns:
      A kernel of int codes with parameters (a, s_0 .. s_longest).

    Reference: paths as features of a cell: White, Neiswanger, Savani, "BANANAS: Bayesian optimization with neural
    architectures for neural architecture search", AAAI 2021.
    """
    lengths = np.array([len(word) for _, _, word in path_words(space)])
    count = int(lengths.max()) + 1

    def covariance(log_parameters, x, z):
        root = jnp.exp(0.5 * log_parameters[1:])[lengths][None]
        x, z = (count_paths(space, codes).astype(root.dtype) * root for codes in (x, z))
        square = jnp.sum(x**2, -1)[:, None] + jnp.sum(z**2, -1)[None, :] - 2.0 * (x @ z.T)
        return jnp.exp(log_parameters[0] - 0.5 * jnp.maximum(square, 0.0))

    return Kernel((0.0, *[-math.log(count)] * count), covariance)


def default(space: Space) -> Kernel:
    """Interactions, effects of place and effects of operator, `hamming` + `additive` + `shared`; of cells `paths` too.

    Args:
      space: of the codes.

    Returns:
      A kernel of int codes.
    """
    count = len(space.choices)
    codes = (hamming(count), additive(count), shared(tokens_of(space)))
    return sum_of(*codes, paths(space)) if isinstance(space, CellSpace) else sum_of(*codes)
