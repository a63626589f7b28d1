"""The sharpness of the outer loss in alpha: its extreme eigenvalues without the matrix, and when to stop for them."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jnas.bilevel.problem import Point
from jnas.types import Array, Batch, Context, Key, Loss


class Eigenvalues(NamedTuple):
    """The ends of a symmetric matrix's spectrum."""

    dominant: Array  # [] the one of largest modulus, with its sign
    largest: Array  # []
    smallest: Array  # []
    residual: Array  # [] |H x - dominant x| for the unit vector x found, an upper bound of the dominant one's error


def alpha_eigenvalues(
    loss: Loss, point: Point, batch: Batch, context: Context, key: Key, *, num_iterations: int = 20
) -> Eigenvalues:
    """Extreme eigenvalues of `hessian_aa loss(w, a)` at fixed weights, by Lanczos on Hessian-vector products.

    Pass the outer loss: when its dominant eigenvalue grows, the derived architecture is far worse than the mixture that
    it is derived from. The Hessian may be indefinite; with a negative dominant eigenvalue `dominant` is negative, and
    `largest` is what RobustDARTS tracks.

        q_1 random;  H Q = Q T + beta_m q_{m+1} e_m',  T tridiagonal;  eigenvalues of T ~ the ends of those of H

    Each iteration costs one jvp of `grad_a loss`. Vectors are orthogonalised in full, twice, and an exhausted subspace
    goes on with a fresh vector, so multiple eigenvalues and tiny matrices do no harm. Call it under `jax.jit`.

    Args:
      loss: `(weights, alpha, batch, context) -> (scalar, Aux)`.
      point: where.
      batch: its examples: large, for the estimate is as noisy as a gradient's.
      context: batch-norm statistics and key.
      key: of the first vector.
      num_iterations: at most; the number of alphas, if smaller, suffices for exact values.

    Returns:
      The eigenvalues.

    Raises:
      ValueError: for `num_iterations` below 1.

    References:
      Zela et al., "Understanding and robustifying differentiable architecture search", ICLR 2020.
      Paige, "Error analysis of the Lanczos algorithm for tridiagonalizing a symmetric matrix", 1976.
    """
    if num_iterations < 1:
        raise ValueError(f"alpha_eigenvalues: num_iterations is {num_iterations}; give 1 or more.")
    flat, unravel = ravel_pytree(point.alpha)
    length = min(num_iterations, flat.size)

    def gradient(vector: Array) -> Array:
        slope = jax.grad(lambda a: loss(point.weights, a, batch, context)[0])(unravel(vector))
        return ravel_pytree(slope)[0]

    def product(vector: Array) -> Array:
        return jax.jvp(gradient, (flat,), (vector,))[1]

    def away_from(basis: Array, vector: Array) -> Array:  # twice is enough
        for _ in range(2):
            vector = vector - basis.T @ (basis @ vector)
        return vector

    def iterate(carry, row):
        basis, scale = carry  # [length, n] with zeros in the rows to come; the largest entry of T so far
        number, fresh_key = row
        image = product(basis[number])
        diagonal = basis[number] @ image
        rest = away_from(basis, image)
        size = jnp.linalg.norm(rest)
        scale = jnp.maximum(scale, jnp.maximum(jnp.abs(diagonal), size))
        # Nothing left of H q: the subspace is invariant, and any vector orthogonal to it starts another one.
        exhausted = size <= 10 * jnp.finfo(flat.dtype).eps * flat.size**0.5 * scale
        fresh = away_from(basis, jax.random.normal(fresh_key, flat.shape, flat.dtype))
        following = jnp.where(exhausted, fresh, rest)
        following = following / jnp.maximum(jnp.linalg.norm(following), jnp.finfo(flat.dtype).tiny)
        coupling = jnp.where(exhausted, jnp.zeros_like(size), size)
        basis = jnp.where((jnp.arange(length) == number + 1)[:, None], following[None], basis)
        return (basis, scale), (diagonal, coupling)

    keys = jax.random.split(key, length + 1)
    first = jax.random.normal(keys[0], flat.shape, flat.dtype)
    basis = jnp.zeros((length, flat.size), flat.dtype).at[0].set(first / jnp.linalg.norm(first))
    start = (basis, jnp.zeros((), flat.dtype))
    _, (diagonals, couplings) = jax.lax.scan(iterate, start, (jnp.arange(length), keys[1:]))
    between = couplings[:-1]
    values, vectors = jnp.linalg.eigh(jnp.diag(diagonals) + jnp.diag(between, 1) + jnp.diag(between, -1))
    at = jnp.where(-values[0] > values[-1], 0, length - 1)
    return Eigenvalues(values[at], values[-1], values[0], couplings[-1] * jnp.abs(vectors[-1, at]))


class Stop(NamedTuple):
    """What `early_stop` decides; both are positions in the history."""

    at: int  # the measurement that triggers the stop
    back_to: int  # the measurement whose architecture is to be taken


def early_stop(
    history: Sequence[float],
    *,
    every: int = 1,
    window: int = 5,
    delta: int = 4,
    start: int = 10,
    factor: float = 1.3,
) -> Stop | None:
    """Whether the dominant eigenvalue has grown too fast, and to which measurement to go back.

        m_i = mean of the last `window` measurements up to i, which is centred at i - window // 2
        stop at the first i with m_i > factor * m_{i - delta};  go back to i - window // 2 - delta

    A pure function of what was measured, so a resumed run decides as the uninterrupted one. Where `m_{i - delta}` is
    not positive the ratio says nothing and the search goes on.

    Args:
      history: dominant (largest) eigenvalues, oldest first; the k-th was measured after epoch `k * every`.
      every: epochs between two measurements.
      window: measurements in a mean (fewer at the start, but no fewer than half of them, rounded up).
      delta: measurements between the two means.
      start: first epoch to which the search may go back.
      factor: largest growth that is tolerated.

    Returns:
      The decision, or None: go on.

    Raises:
      ValueError: for a window, delta or interval below 1.

    >>> early_stop([1.0] * 16 + [4.0]), early_stop([1.0] * 17)
    (Stop(at=16, back_to=10), None)

    References:
      Zela et al., "Understanding and robustifying differentiable architecture search", ICLR 2020, section 4.3, and its
      code, github.com/automl/RobustDARTS (window 5, delta 4, factor 1.3, start 10, measured every second epoch).
    """
    if min(window, delta, every) < 1:
        raise ValueError(f"early_stop: window={window}, delta={delta}, every={every}; each must be at least 1.")
    values = [float(value) for value in history]
    half = (window + 1) // 2
    windows = {i: values[max(0, i + 1 - window) : i + 1] for i in range(half - 1, len(values))}
    means = {i: sum(some) / len(some) for i, some in windows.items()}
    for i, mean in means.items():
        back_to, before = i - window // 2 - delta, means.get(i - delta)
        if before is not None and before > 0 and back_to * every >= start and mean > factor * before:
            return Stop(i, back_to)
    return None
