"""What an architecture is worth, a short training or the shared weights of a supernet, less what it costs."""

import functools
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnas import data, nets, spaces
from jnas.files.locks import exclusive
from jnas.files.writing import prepare_folder
from jnas.recipes import trainer
from jnas.recipes.classification import accuracy, cross_entropy, evaluate, training_loss
from jnas.recipes.scores import Score, score_of
from jnas.recipes.settings import Training
from jnas.searchers.base import Evaluation, Objective
from jnas.study import Progress
from jnas.train import Saving
from jnas.types import Array, Aux, Context, Examples, Key, PyTree

LONGEST = 600  # steps of a training that is not worth a program of its own, measured: see experiments/trials
Cost = Callable[[np.ndarray], float]  # of an architecture [num_choices]


class MixedBatch(NamedTuple):
    """Examples, and the mixture with which the supernet reads them."""

    examples: Examples
    mix: dict[str, Array] | None  # None: one architecture drawn for the step


class Supernet(NamedTuple):
    """A trained supernet whose weights candidates share."""

    net: nets.Network
    weights: PyTree
    variables: PyTree
    augment: data.Augment  # its normalisation


class Rungs(NamedTuple):
    """The budgets of successive halving: what is promoted goes on from its checkpoint, from the learning rate's top.

    So every score is that of weights whose learning rate has come down, as it has at the end of a training. All
    architectures have one key: they see the same batches, and one that is trained again comes to the same bits. One
    that is asked at a smaller budget than its checkpoint has is trained from scratch, and keeps nothing.
    """

    epochs: tuple[int, ...]  # in all, the fewest first
    key: Key  # of weights, order and augmentation
    folder: pathlib.Path  # of a folder of checkpoints for each architecture, and of its lock


def short_training(
    space: spaces.CellSpace,
    train: data.Dataset,
    validation: data.Dataset,
    training: Training,
    rungs: Rungs | None = None,
    by: Score = "likelihood",
) -> Objective:
    """What validation images say after a training from scratch, of which one program serves every architecture.

    What is trained is the supernet under the architecture's one-hot mixture, of which only the chosen operators are
    computed: the same steps from the same weights as the network by itself. Nothing is compiled for the second
    architecture, and every step takes a little longer: right up to `LONGEST` steps; for longer ones `own_training`.

    Args:
      space: of the architectures.
      train: images to train on.
      validation: images that judge; not those of the test set.
      training: width, depth, epochs and optimiser; drop path, auxiliary head and label smoothing are not used.
      rungs: in place of its epochs; then the last entry of a code says which, see `searchers.halving`.
      by: "likelihood", exp(-loss), the geometric mean of the probability of the true class, in (0, 1]: it ranks
        architectures better than "accuracy", the share of the images that are right (measured: experiments/trials).

    Returns:
      An objective with metrics `accuracy` and `loss`, with rungs also `epochs`; `Diverged` fails the trial.

    Raises:
      ValueError: if a batch is larger than the data.
    """
    net, augment = _supernet(space, train, training, affine=True)
    net = net.clone(normalise_pools=False)  # as the network by itself
    job = _job(net, train, training, augment, rungs)

    def objective(code: np.ndarray, key: Key) -> Evaluation:
        mix = spaces.one_hot_alpha(space, jnp.asarray(code[: len(space.choices)]))
        given = job.source._replace(arrays=(job.source.arrays[0], mix))
        weights, about = _trained(job._replace(source=given), code, key, rungs)
        measured = evaluate(net, weights, validation, augment, mix=mix)
        return Evaluation(score_of(measured, by), {**measured, **about})

    return objective


def own_training(
    space: spaces.CellSpace,
    train: data.Dataset,
    validation: data.Dataset,
    training: Training,
    rungs: Rungs | None = None,
    by: Score = "likelihood",
) -> Objective:
    """What validation images say after training the network by itself, compiled for each architecture.

    Args:
      space: of the architectures.
      train: images to train on.
      validation: images that judge; not those of the test set.
      training: as for `short_training`.
      rungs: as for `short_training`.
      by: as for `short_training`.

    Returns:
      An objective with metrics `accuracy`, `loss`, `parameters`, with rungs also `epochs`; `Diverged` fails the trial.

    Raises:
      ValueError: if a batch is larger than the data.
    """
    _, augment = _supernet(space, train, training, affine=True)

    def objective(code: np.ndarray, key: Key) -> Evaluation:
        net = _network(spaces.fix(space, code[: len(space.choices)]), train, training)
        weights, about = _trained(_job(net, train, training, augment, rungs), code, key, rungs)
        measured = evaluate(net, weights, validation, augment)
        size = nets.count_parameters(weights["params"])
        return Evaluation(score_of(measured, by), {**measured, **about, "parameters": size})

    return objective


def train_supernet(
    space: spaces.CellSpace,
    train: data.Dataset,
    training: Training,
    *,
    key: Key,
    folder: pathlib.Path | None = None,
) -> Supernet:
    """Train a supernet whose every step is one architecture drawn uniformly, so that each can use its weights.

    Args:
      space: of the architectures.
      train: images to train on.
      training: width, depth, epochs and optimiser, as for `short_training`.
      key: of weights, order, augmentation and the architectures drawn.
      folder: of curves and checkpoints, from which an interrupted training goes on; None: none.

    Returns:
      The supernet.

    Reference: Guo et al., "Single path one-shot neural architecture search with uniform sampling", ECCV 2020.
    """
    net, augment = _supernet(space, train, training, affine=False)
    weights = trainer.train(_job(net, train, training, augment), key, folder=folder, title="supernet")
    return Supernet(net, weights["params"], weights["batch_stats"], augment)


def shared_weights(
    supernet: Supernet, validation: data.Dataset, *, by: Score = "likelihood", batch_size: int = 250
) -> Objective:
    """What validation images say of an architecture with the weights of a supernet.

    Batch norms use the statistics of the batch that they see: the running ones are those of all architectures together.

    Args:
      supernet: from `train_supernet`.
      validation: images that judge; not those of the test set.
      by: as for `short_training`.
      batch_size: images at a time; those left over are not used.

    Returns:
      An objective with metrics `accuracy` and `loss`: the ranks are worth more than the values.

    Raises:
      ValueError: if there are fewer images than a batch.
    """
    size = min(batch_size, len(validation))
    if size < 2:
        raise ValueError(f"there are {len(validation)} images to judge by: give at least 2")
    whole = validation.part(np.arange(len(validation) // size * size))
    batches = data.padded(whole, size)
    net, shape = supernet.net, validation.shape

    @jax.jit
    def measured(weights, variables, mix, images, labels):
        def one(batch):
            image = data.augment(supernet.augment, None, batch[0], shape)
            logits, _ = net.apply(
                {"params": weights, "batch_stats": variables}, image, mix, train=True, mutable=["batch_stats"],
                rngs={"drop_path": jax.random.key(0)},
            )  # fmt: skip
            return accuracy(logits.main, batch[1]), cross_entropy(logits.main, batch[1])

        accuracies, losses = jax.lax.map(one, (images, labels))
        return {"accuracy": accuracies.mean(), "loss": losses.mean()}

    images, labels = jnp.asarray(batches.images), jnp.asarray(batches.labels)

    def objective(arch: np.ndarray, key: Key) -> Evaluation:
        mix = spaces.one_hot_alpha(net.space, jnp.asarray(arch))
        found = measured(supernet.weights, supernet.variables, mix, images, labels)
        values = {name: float(value) for name, value in found.items()}
        return Evaluation(score_of(values, by), values)

    return objective


def with_metrics(objective: Callable[[np.ndarray, Key], Evaluation | float]) -> Objective:
    """An objective that may return its score alone."""

    def evaluated(arch: np.ndarray, key: Key) -> Evaluation:
        found = objective(arch, key)
        return found if isinstance(found, Evaluation) else Evaluation(float(found))

    return evaluated


def minus(objective: Objective, costs: Mapping[str, tuple[Cost, float]]) -> Objective:
    """One score, less the weighted costs: `score - sum over costs of weight * cost`.

    Args:
      objective: with one score.
      costs: name -> (cost, weight); a weight is in scores a unit of cost.

    Returns:
      An objective with the costs, and `score` without them, among its metrics.
    """

    def combined(arch: np.ndarray, key: Key) -> Evaluation:
        score, metrics = objective(arch, key)
        assert isinstance(score, float | int)
        measured = {name: float(cost(arch)) for name, (cost, _) in costs.items()}
        total = sum(weight * measured[name] for name, (_, weight) in costs.items())
        return Evaluation(score - total, {**metrics, "score": score, **measured})

    return combined


def beside(objective: Objective, costs: Mapping[str, Cost]) -> Objective:
    """Several scores: the objective's own, and then the costs, to be minimised; the study has their Pareto front.

    Args:
      objective: with one score.
      costs: name -> cost, in the order of the study's objectives.

    Returns:
      An objective with `1 + len(costs)` scores.
    """

    def combined(arch: np.ndarray, key: Key) -> Evaluation:
        score, metrics = objective(arch, key)
        assert isinstance(score, float | int)
        return Evaluation((score, *(float(cost(arch)) for cost in costs.values())), metrics)

    return combined


def _network(space: spaces.CellSpace, train: data.Dataset, training: Training, **options: Any) -> nets.Network:
    return nets.network_for(
        space, channels=training.channels, depth=training.depth, num_classes=train.num_classes, stem=training.stem,
        **options,
    )  # fmt: skip


def _supernet(space, train, training, *, affine: bool) -> tuple[nets.Network, data.Augment]:
    return _network(space, train, training, affine=affine, edge_strategy="switch"), training.augmentation.of(train)


def _trained(job: trainer.Job, code: np.ndarray, key: Key, rungs: Rungs | None) -> tuple[dict[str, PyTree], dict]:
    """The weights, and with rungs the epochs that they have been trained for."""
    if rungs is None:
        return trainer.train(job, key), {}
    rung, folder = int(code[-1]), prepare_folder(rungs.folder) / _named(code)
    lengths = [epochs * job.steps_per_epoch for epochs in rungs.epochs]
    job = job._replace(num_steps=lengths[rung])
    with exclusive(rungs.folder / f".{folder.name}"):
        beyond = any(path.name.isdigit() and int(path.name) > job.num_steps for path in folder.glob("*"))
        weights = trainer.train(job, rungs.key, saving=None if beyond else Saving(folder))
    return weights, {"epochs": rungs.epochs[rung]}


def _named(code: np.ndarray) -> str:
    """The name of the folder of an architecture with a rung."""
    return "-".join(map(str, code[:-1].tolist()))


def clearing(rungs: Rungs, *, eta: int, num_evaluations: int) -> Callable[[Progress], None]:
    """Remove checkpoints that no later rung needs, whenever trials have finished.

    Of those known at a rung the best `floor(known / eta)` are promoted, and no more than `num_evaluations / eta^rung`
    will be known at it: who is behind as many as that makes, or has the largest budget, is done, and in the end all
    are. Where that is wrong, as after `num_evaluations` was raised, an architecture is trained from scratch, to the
    same bits.

    Args:
      rungs: of the search.
      eta: see `searchers.halving`.
      num_evaluations: of the search.

    Returns:
      A hook of `study.search`. What another process trains just now is left to the next call.
    """

    def clear(progress: Progress) -> None:
        best = sorted(progress.trials, key=lambda trial: -trial.scores[0])
        at = [dict.fromkeys(_named(trial.code) for trial in best if trial.code[-1] == n) for n in range(last + 1)]
        done = set[str]()
        for rung in reversed(range(last + 1)):
            due = num_evaluations // eta ** (rung + 1) if rung < last else 0
            done |= {name for name in list(at[rung])[due:] if not any(name in above for above in at[rung + 1 :])}
        for folder in rungs.folder.glob("[0-9]*"):
            if folder.name in done or len(progress.trials) >= num_evaluations:
                with exclusive(rungs.folder / f".{folder.name}", wait=False) as mine:
                    if mine:
                        shutil.rmtree(folder, ignore_errors=True)

    last = len(rungs.epochs) - 1
    return clear


def _job(
    net: nets.Network, train: data.Dataset, training: Training, augment: data.Augment, rungs: Rungs | None = None
) -> trainer.Job:
    """Training of weights under the mixture that comes with the arrays, or under one drawn for the step."""
    plain = data.supervised_source(train, batch_size=training.batch_size, augment=augment)

    def batch(arrays, step, key) -> MixedBatch:
        rows, mix = arrays
        return MixedBatch(plain.batch(rows, step, key), mix)

    def loss(weights, alpha, batch: MixedBatch, context: Context) -> tuple[Array, Aux]:
        assert context.key is not None
        key_arch, key_noise = jax.random.split(context.key)
        mix = batch.mix
        if mix is None and not net.space.is_fixed:
            mix = spaces.one_hot_alpha(net.space, spaces.sample(net.space, key_arch, 1)[0])
        return training_loss(net, {"params": weights}, batch.examples, context, mix, rngs={"drop_path": key_noise})

    source = plain._replace(batch=batch, arrays=(plain.arrays, None))
    optimiser = functools.partial(trainer.sgd_of, training)
    if rungs is not None:
        steps = np.diff((0, *rungs.epochs)) * (len(train) // training.batch_size)
        optimiser = lambda _: trainer.sgd_of(training, *steps.tolist())
    return trainer.job_of(net, loss, optimiser, source, train, training)
