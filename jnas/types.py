"""The nouns that several rooms of the package share: what a batch, a context, a learner and a source are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

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
    # Further inner batches, leading axis [num_further]: for each Neumann term, or each weight step after the first.
    further: Batch | None = None


class Context(NamedTuple):
    """What a loss reads beside weights, alpha and batch, and is not differentiated in."""

    variables: PyTree = ()  # running batch-norm statistics and the like
    key: Key | None = None  # dropout, drop path: the SAME key wherever two evaluations are compared
    step: Array | int = 0  # [] int32, of the learner: drop path is a function of it


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
    returns those rows of every array (along the second axis in `Batches.further`). Without it every process fetches
    the whole. Either way `batch` sees the whole batch, the same for any number of processes.
    """

    batch: Callable[..., Batch]  # (arrays, step [] int32, key) -> Batch; traced under jit
    arrays: PyTree = ()
    fetch: Callable[..., PyTree] | None = None
    batch_size: int | None = None  # examples of a batch, if `fetch` takes rows
    # [num_runs, ...], for `fit(runs=...)`: with it `batch` gets (arrays, the row of its run) in place of arrays.
    per_run: PyTree = None
