"""The coupled schedules of MRBO, as its theory has them."""

from typing import NamedTuple

import jax.numpy as jnp
import optax


class Mrbo(NamedTuple):
    """The coupled schedules of MRBO."""

    step_size: optax.Schedule  # eta_k, to be multiplied by each level's own step
    alpha_decay: optax.Schedule  # c_k
    weights_decay: optax.Schedule  # d_k


def mrbo_schedules(d0: float, m: float, c1: float, c2: float) -> Mrbo:
    """`eta_k = d0 / (m + k)^(1/3)`; `c_{k+1} = c1 eta_k^2`; `d_{k+1} = c2 eta_k^2`, both coefficients at most 1.

    Args:
      d0: scale of the step size, > 0.
      m: offset in steps, > 0.
      c1: factor of the upper level's coefficient, > 0.
      c2: factor of the lower level's coefficient, > 0.

    Returns:
      Three schedules of the step k.

    Raises:
      ValueError: for a factor that is not positive.

    References:
      Yang, Ji, Liang, "Provably faster algorithms for bilevel optimization", NeurIPS 2021.
    """
    if min(d0, m, c1, c2) <= 0:
        raise ValueError(f"mrbo_schedules: d0={d0}, m={m}, c1={c1}, c2={c2}; all must be positive.")

    def eta(step):
        return d0 / (m + jnp.asarray(step, jnp.result_type(float))) ** (1 / 3)

    def coefficient(factor):
        return lambda step: jnp.minimum(1.0, factor * eta(jnp.maximum(jnp.asarray(step) - 1, 0)) ** 2)

    return Mrbo(eta, coefficient(c1), coefficient(c2))
