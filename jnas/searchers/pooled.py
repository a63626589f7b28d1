"""A Gaussian process over spaces that learns from every network drawn from them, not from a summary of the networks.

The mean of four networks of a space is as much news of which four were drawn as of the space. So the process is one
over descriptors of NETWORKS; a space is where its networks are on average, and its performance the process there. For
the part of the process that is linear in the descriptor this is exactly the mean over the space's networks.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jnas.searchers.base import Observations, Searcher, padded, padded_length, within
from jnas.searchers.gp import regression
from jnas.searchers.gp.kernels import Kernel
from jnas.searchers.gp.searcher import Process, Surrogate, by_improvement, by_information, model_of, searcher_of
from jnas.spaces.base import Space

# code [num_choices] of a space -> the descriptors [n, num_features] and the scores [n] of its networks
Evidence = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Pooled(NamedTuple):
    """A searcher over spaces and its model."""

    searcher: Searcher  # told the summaries of spaces, which only say which spaces are known
    model: Surrogate
    # What the targets of the model are made of, `[n]`: the scores of all networks known. None: the known summaries.
    values: Callable[[Observations], np.ndarray] | None = None
    asker: Searcher | None = None  # asks in the place of `searcher`, which the model goes on with
    allowed: Callable[[np.ndarray], bool] | None = None  # what it asks for and what may be the answer; None: anything

    def within(self, space: Space, allowed: Callable[[np.ndarray], bool]) -> "Pooled":
        """Which asks for allowed architectures only, see `base.within`."""
        return self._replace(asker=within(self.searcher, space, allowed), allowed=allowed)


def pooled(
    family: Space,
    *,
    kernel: Kernel,
    features: Callable[[np.ndarray], np.ndarray],
    evidence: Evidence,
    transform: Callable[[np.ndarray], np.ndarray],
    num_initial: int = 4,
    num_candidates: int = 2048,
    num_restarts: int = 2,
    num_steps: int = 30,
    information: bool = False,
) -> Pooled:
    """Asks for spaces by what is known of their networks.

    Args:
      family: the space of spaces.
      kernel: over descriptors.
      features: host function, codes `[n, num_choices]` of spaces -> `[n, num_features]`, the mean of the descriptors of
        a space's networks.
      evidence: host function, see `Evidence`; asked for the spaces that have a value. Where it has no row, that value
        counts, at the mean of the descriptors.
      transform: host function of the networks' scores `[n]` to targets of about zero mean and unit variance.
      num_initial: random spaces before the first fit.
      num_candidates: among which the acquisition is maximised; a few hundred with `information`.
      num_restarts: of a fit.
      num_steps: of a fit.
      information: choose by mutual information; otherwise by expected improvement over the best space seen.

    Returns:
      The searcher and its model.

    Raises:
      ValueError: if a number is too small or the family has one member.
    """

    def of_space(code, value):
        rows, scores = evidence(code)
        return (rows, scores) if len(scores) else (features(code[None]), np.array([value]))

    def known(state):
        return [of_space(*told) for told in zip(state.codes[state.known], state.values[state.known], strict=True)]

    def values(state):
        return np.concatenate([scores for _, scores in known(state)])

    def data_of(state):
        rows = known(state)
        inputs = np.concatenate([descriptors for descriptors, _ in rows])
        targets = transform(np.concatenate([scores for _, scores in rows]))
        count, length = len(targets), padded_length(len(targets))
        inputs, targets = (jnp.asarray(padded(part, length), jnp.float32) for part in (inputs, targets))
        return regression.Data(inputs, targets, jnp.arange(length) < count)

    process = Process(
        kernel, data_of, features, lambda state, data: (data.mask, (features(state.codes), state.known)), num_restarts,
        num_steps,
    )  # fmt: skip
    choose = by_information if information else by_improvement
    return Pooled(searcher_of(process, family, choose, num_initial, num_candidates), model_of(process), values)
