"""What a linear solver is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core

from jnas.types import Batch, Metrics, PyTree, State, Weights

# (v, a row of the batches, or None for the inner batch) -> (H v, whatever else that pass yields, or an empty tree)
Product = Callable[[Weights, Batch | None], tuple[Weights, PyTree]]


class Solution(NamedTuple):
    """What a solver found."""

    p: Weights  # approximately (H + damping I)^-1 v
    state: State
    metrics: Metrics
    last: tuple[Weights, PyTree] | None  # product(p) on the inner batch, where the solver made it


class Solver(NamedTuple):
    """A linear solver of `(H + damping I) p = v`.

    Attributes:
      init: `weights -> state`, what is kept between steps (the eigenvalue estimate).
      solve: `(product, v, batches, state, refresh=True) -> Solution`. `batches` is None, or has the leading axis
        [num_batches + 1], the last row being the inner batch; `refresh`, a [] bool that may be traced, says whether the
        state is renewed.
      num_batches: how many fresh batches it can use, 0 where one operator is needed throughout.
      damping: added to the diagonal of H.
    """

    init: Callable[[Weights], State]
    solve: Callable[..., Solution]
    num_batches: int
    damping: float


def known(value: Any) -> bool:
    """Whether a number can be checked: one that differs between the runs of a program is known when it runs."""
    return not isinstance(value, jax.core.Tracer)
