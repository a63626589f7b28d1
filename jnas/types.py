"""The nouns that several rooms of the package share: what a batch, a context, a learner and a source are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array
Key = jax.Array  # a typed PRNG key, [] key<...>
PyTree = Any
Weights = PyTree
Alpha = PyTree
Batch = PyTree
State = PyTree
Metrics = dict[str, Array]  # scalars, [] float32


class Examples(NamedTuple):
    """A batch of labelled images."""

    image: Array  # [batch, height, width, channels] float32, normalised
    label: Array  # [batch] int32


class Batches(NamedTuple):
    """What one bilevel step reads."""

    inner: Batch  # of the training loss
    outer: Batch  # of the validation loss
    curvature: Batch | None = None  # leading axis [num_terms]: a fresh batch for each Neumann term; None: use `inner`


class Context(NamedTuple):
    """What a loss reads beside weights, alpha and batch, and is not differentiated in."""

    variables: PyTree = ()  # running batch-norm statistics and the like
    key: Key | None = None  # dropout, drop path: the SAME key wherever two evaluations are compared
    step: Array | int = 0  # [] int32, of the learner: drop path and temperature are functions of it


class Aux(NamedTuple):
    """What a loss returns beside its value."""

    variables: PyTree = ()  # the updated `Context.variables`
    metrics: Metrics = {}  # noqa: RUF012 - never mutated


Loss = Callable[[Weights, Alpha, Batch, Context], tuple[Array, Aux]]


class Learner(NamedTuple):
    """A pure gradient method: `fit` runs it and knows nothing else about it.

    Build it once and keep it: the functions are closures, and a learner built again compiles again.
    """

    init: Callable[[Key], State]
    update: Callable[[State, Batch, Key], tuple[State, Metrics]]


class Source(NamedTuple):
    """Where the batches of `fit` come from: a pure function of the step, so that the iterator is an integer.

    `arrays` stay on the device and enter the compiled step as an argument (a constant would be copied into the
    program). With `fetch`, `arrays` is ignored and the host supplies what step k needs: `batch(fetch(k), k, key)`.
    A `fetch` that can read part of a batch says so by `batch_size`: in a run of several processes it is then called as
    `fetch(k, rows)`, where `rows` [n] are the positions in the batch, increasing, that this process works on, and
    returns those rows of every array (along the second axis in `Batches.curvature`). Without it every process fetches
    the whole. Either way `batch` sees the whole batch, the same for any number of processes.
    """

    batch: Callable[[PyTree, Array, Key], Batch]  # (arrays, step [] int32, key) -> Batch; traced under jit
    arrays: PyTree = ()
    fetch: Callable[..., PyTree] | None = None
    batch_size: int | None = None  # examples of a batch, if `fetch` takes rows
    # [num_runs, ...], for `fit(num_runs=...)`: with it `batch` gets (arrays, the row of its run) in place of arrays.
    per_run: PyTree = None


class Searcher(NamedTuple):
    """A pure method of search, larger scores better; a loop asks, evaluates and tells.

    The same state and key give the same architectures, and the state is a function of what was told, so that a search
    that was killed is rebuilt by telling its trials again in their order. Build it once and keep it: what it compiles
    belongs to it.
    """

    init: Callable[[], Any]
    # (state, key, num) -> int32 [num, num_choices], neither told before nor equal to one another as long as the space
    # has such architectures
    ask: Callable[[Any, Key, int], np.ndarray]
    # (state, codes [n, num_choices], values [n]) -> state. NaN says that an architecture is being evaluated or has
    # failed: it is not asked again. Its value, told later, takes the place of the NaN. With several objectives the
    # values are [n, num_objectives].
    tell: Callable[[Any, np.ndarray, np.ndarray], Any]


class Evaluation(NamedTuple):
    """What an objective says about one architecture."""

    score: float | tuple[float, ...]  # one for each objective of the study, in their order
    metrics: dict[str, Any] = {}  # noqa: RUF012 - never mutated; whatever else was measured, values of JSON


# (arch [num_choices] int32, key) -> evaluation, on the host: it may train, share weights, or look up a table. The same
# arguments give the same evaluation, so that a trial whose worker died is repeated elsewhere.
Objective = Callable[[np.ndarray, Key], Evaluation]
