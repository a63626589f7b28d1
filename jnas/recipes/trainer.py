"""The training of a network's weights, on one level: what every recipe that trains one shares."""

import itertools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax
from flax import linen as nn
from jax.sharding import Mesh

from jnas import bilevel, data, distributed
from jnas.bilevel.problem import Init
from jnas.distributed.meshes import mesh_of_one
from jnas.recipes import flat
from jnas.recipes.classification import training_loss
from jnas.recipes.optimisers import behind, rate_of
from jnas.recipes.settings import Training
from jnas.train import Saving, chunks_of, fit, standard_hooks
from jnas.types import Array, Aux, Context, Examples, Key, Learner, Loss, PyTree, Source


class Job(NamedTuple):
    """What is trained, on what, and for how long; kept and used again it is not compiled again."""

    learner: Learner
    tree: Callable[[PyTree], PyTree]  # from the learner's weights to the network's parameters
    source: Source
    batch_size: int
    steps_per_epoch: int
    num_steps: int


def classifier_loss(
    net: nn.Module,
    *,
    auxiliary_weight: float = 0.0,
    smoothing: float = 0.0,
    drop_path: optax.Schedule | None = None,
    beside: Mapping[str, PyTree] | None = None,
) -> Loss:
    """The loss of a training over `Examples`: cross-entropy, the weighted auxiliary head's added.

    Args:
      net: a network of a fixed space.
      auxiliary_weight: of the auxiliary head's loss, if the network has one.
      smoothing: label smoothing.
      drop_path: step to the probability, in [0, 1), with which an edge is dropped; None: never.
      beside: collections of the network beside its parameters, such as the rules by which it is quantised.

    Returns:
      A loss whose alpha is the empty pytree.
    """

    def loss(weights, alpha, batch: Examples, context: Context) -> tuple[Array, Aux]:
        keys = {} if context.key is None else {"drop_path": context.key}
        rate = 0.0 if drop_path is None else drop_path(context.step)
        given = {"smoothing": smoothing, "auxiliary": auxiliary_weight, "drop_path": rate, "rngs": keys}
        return training_loss(net, {"params": weights, **(beside or {})}, batch, context, **given)

    return loss


def sgd_of(training: Training, *num_steps: int) -> optax.GradientTransformation:
    """The optimiser of a training: clip, weight decay, then SGD with its momentum and a cosine over `num_steps`.

    Of several numbers of steps each has a cosine of its own, one after another: Loshchilov and Hutter, "SGDR:
    stochastic gradient descent with warm restarts", ICLR 2017.
    """
    nesterov = training.nesterov and training.heavy_ball > 0
    rates = [rate_of(training, max(number, 1)) for number in num_steps]
    rate = optax.join_schedules(rates, list(itertools.accumulate(num_steps))[:-1])
    return behind(training, optax.sgd(rate, training.heavy_ball or None, nesterov=nesterov))


def job_of(
    net: nn.Module,
    loss: Loss,
    optimiser: Callable[[int], optax.GradientTransformation],
    source: Source,
    examples: data.Dataset,
    settings: Any,
    *,
    start: Init | None = None,
) -> Job:
    """A training of all weights.

    Args:
      net: the network.
      loss: of its parameters, a tree; over the batches of `source`.
      optimiser: number of steps to the optimiser of the weights, such as `partial(sgd_of, training)`.
      source: of the batches.
      examples: of which an epoch is made; of them only the number and the shape are used.
      settings: with `epochs` and `batch_size`.
      start: where it begins, see `flat.start`; None: anew.

    Returns:
      The job. The weights are one vector while they are trained, see `recipes.flat`.
    """
    steps_per_epoch, unravel = len(examples) // settings.batch_size, flat.unravel_of(net, examples.shape)
    num_steps = settings.epochs * steps_per_epoch
    of_vector: Loss = lambda weights, *rest: loss(unravel(weights), *rest)
    learner = bilevel.supervised(of_vector, start or flat.start(net, examples.shape), optimiser(num_steps))
    return Job(learner, unravel, source, settings.batch_size, steps_per_epoch, num_steps)


def train(
    job: Job,
    key: Key,
    *,
    folder: pathlib.Path | None = None,
    saving: Saving | None = None,
    title: str = "train",
    shown: tuple[str, ...] = ("loss", "accuracy"),
    steps_per_call: int | None = None,
    mesh: Mesh | None = None,
) -> dict[str, PyTree]:
    """Train the weights to the end, or go on from the last checkpoint.

    Args:
      job: from `job_of`.
      key: of weights, order and augmentation.
      folder: of metrics, curves and checkpoints, one an epoch; None: nothing is kept or shown.
      saving: where checkpoints are kept without metrics and curves, in place of a folder; None: nowhere.
      title: of the progress line.
      shown: metrics in it.
      steps_per_call: see `train.chunks_of`.
      mesh: of the devices, see `fit`.

    Returns:
      `{"params": a tree, "batch_stats": the running statistics}`, with a mesh on the host: what follows a training is
      done once and not by every device.

    Raises:
      Diverged: if the loss is not finite.
      Interrupted: after a signal, when everything is saved.
    """
    hooks = chunks_of(steps_per_call)
    if folder is not None:
        hooks = standard_hooks(folder, title, *shown, steps_per_call=steps_per_call)
        saving = Saving(folder / "checkpoints", job.steps_per_epoch)
    state = fit(
        job.learner, job.source, key=key, num_steps=job.num_steps, hooks=hooks, checkpoints=saving,
        mesh=mesh_of_one(mesh, job.batch_size),
    )  # fmt: skip
    if mesh is not None:
        state = distributed.to_host(state)
    return {"params": job.tree(state.point.weights), "batch_stats": state.variables}
