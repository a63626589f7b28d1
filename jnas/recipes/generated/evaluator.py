"""Judges of networks of any space: a score for each, larger is better."""

import json
import pathlib
import time
from collections.abc import Callable

import jax
import numpy as np

from jnas import data, nets, spaces
from jnas.errors import Diverged
from jnas.files.reading import lines_of
from jnas.files.schemas import Scored
from jnas.recipes import chains, train_network, trainer
from jnas.recipes.classification import evaluate
from jnas.recipes.settings import Training
from jnas.searchers.base import Evaluation
from jnas.spaces import networks
from jnas.types import Array, Key

Judge = Callable[[networks.NetworkSpace, Array], Evaluation]  # (space, architecture) -> score


def from_scratch(
    judge: Training, part: data.Dataset, held: data.Dataset, key: Key, steps_per_call: int | None = None
) -> Judge:
    """Accuracy on images held out, after a training from scratch with equal weights, images and batches for all.

    Args:
      judge: the training.
      part: the images to train on.
      held: the images to measure on.
      key: of weights, order and augmentation.
      steps_per_call: see `train.chunks_of`.

    Returns:
      A judge. A network that is not connected, or that diverges, scores as a guess does.

    Raises:
      ValueError: if the batch is larger than the data.
    """
    augment = judge.augmentation.of(part)
    data.supervised_source(part, batch_size=judge.batch_size, augment=augment)  # checks the size

    def score(space, arch):
        if not networks.is_connected(space, arch):
            return Evaluation(1 / held.num_classes, {"connected": False})
        net = chains.network(networks.fix(space, arch), judge, part.num_classes)
        try:
            weights = trainer.train(train_network.job_of(net, part, augment, judge), key, steps_per_call=steps_per_call)
        except Diverged:
            return Evaluation(1 / held.num_classes, {"diverged": True})
        measured = evaluate(net, weights, held, augment)
        return Evaluation(measured["accuracy"], {"parameters": nets.count_parameters(weights["params"])})

    return score


class Kept:
    """A judge that writes down what it said, one line a network, and is not asked twice."""

    def __init__(self, path: pathlib.Path, judge: Judge):
        self.path, self.judge, self.rows = path, judge, {}
        self.rows |= {row["genotype"]: row for row in lines_of(path, Scored)[0]}  # what a kill tore is judged again

    def __call__(self, space: networks.NetworkSpace, arch) -> float:
        """The score of a network, from the file if it is there."""
        genotype = networks.to_string(space, arch)
        if genotype not in self.rows:
            started = time.monotonic()
            said = self.judge(space, arch)
            seconds = round(time.monotonic() - started, 3)
            row = {"genotype": genotype, "score": said.score, **said.metrics, "seconds": seconds}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torn = self.path.is_file() and self.path.stat().st_size and not self.path.read_bytes().endswith(b"\n")
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" * bool(torn) + json.dumps(row) + "\n")
            self.rows[genotype] = row
        return self.rows[genotype]["score"]


def draw(space: networks.NetworkSpace, key: Key, num: int) -> np.ndarray:
    """Up to `num` different connected architectures, uniformly.

    Args:
      space: to draw from.
      key: of the draw.
      num: as many, fewer if the space has no more, or hides them well.

    Returns:
      `[n, num_choices]` int32, n at least 1.

    Raises:
      ValueError: if none of some hundred draws is connected.
    """
    found: dict[bytes, np.ndarray] = {}
    for attempt in range(8):
        for code in np.asarray(spaces.sample(space, jax.random.fold_in(key, attempt), 4 * num + 16)):
            if len(found) < num and code.tobytes() not in found and networks.is_connected(space, code):
                found[code.tobytes()] = code
        if len(found) == num:
            break
    if not found:
        raise ValueError(f"space {space.name!r} seems to hold no connected network: give it other operators")
    return np.stack(list(found.values()))
