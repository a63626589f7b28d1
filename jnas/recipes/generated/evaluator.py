"""Judges of networks of any space: a score for each, larger is better."""

import itertools
import json
import pathlib
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np

from jnas import data, nets, spaces
from jnas.errors import Diverged
from jnas.files.reading import lines_of
from jnas.files.schemas import Scored
from jnas.recipes import chains, train_network, trainer
from jnas.recipes.classification import evaluate
from jnas.recipes.costs import Keeps
from jnas.recipes.scores import Score, score_of
from jnas.recipes.settings import Training
from jnas.searchers.base import Evaluation
from jnas.spaces import networks
from jnas.types import Array, Key

Judge = Callable[[networks.NetworkSpace, Array], Evaluation]  # (space, architecture) -> score
Cost = Callable[[networks.NetworkSpace, np.ndarray], float]  # (space, architecture), see `costs.of_networks`
REFUSED = 20  # networks of a space outside the limits, after which no more are drawn from it
_every: Keeps = lambda space, arch: True


def from_scratch(
    judge: Training, part: data.Dataset, held: data.Dataset, key: Key, steps_per_call: int | None = None,
    by: Score = "likelihood",
) -> Judge:  # fmt: skip
    """What images held out say after a training from scratch with equal weights, images and batches for all.

    Args:
      judge: the training.
      part: the images to train on.
      held: the images to measure on.
      key: of weights, order and augmentation.
      steps_per_call: see `train.chunks_of`.
      by: "likelihood", exp(-loss), the geometric mean of the probability of the true class; or "accuracy".

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
        about = {"accuracy": measured["accuracy"], "parameters": nets.count_parameters(weights["params"])}
        return Evaluation(score_of(measured, by), about)

    return score


class Kept:
    """A judge that writes down what it said, one line a network, and is not asked twice; costs are taken off later.

    Args:
      path: of the file.
      judge: of networks.
      costs: name -> (cost, weight), written down beside the score; None: none.
      keeps: whether a network is within the limits, for who draws those to be judged.
    """

    def __init__(
        self, path: pathlib.Path, judge: Judge, costs: Mapping[str, tuple[Cost, float]] | None = None,
        keeps: Keeps = _every,
    ):  # fmt: skip
        self.path, self.judge, self.costs, self.keeps, self.rows = path, judge, costs or {}, keeps, {}
        self.rows |= {row["genotype"]: row for row in lines_of(path, Scored)[0]}  # what a kill tore is judged again

    def __call__(self, space: networks.NetworkSpace, arch) -> float:
        """The score of a network, from the file if it is there, less its weighted costs."""
        genotype = networks.to_string(space, arch)
        costs = {name: cost(space, arch) for name, (cost, _) in self.costs.items()}
        if genotype not in self.rows:
            started = time.monotonic()
            said = self.judge(space, arch)
            seconds = round(time.monotonic() - started, 3)
            row = {"genotype": genotype, "score": said.score, **said.metrics, "seconds": seconds}
            row |= {"costs": costs} if costs else {}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torn = self.path.is_file() and self.path.stat().st_size and not self.path.read_bytes().endswith(b"\n")
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" * bool(torn) + json.dumps(row) + "\n")
            self.rows[genotype] = row
        return self.rows[genotype]["score"] - sum(self.costs[name][1] * cost for name, cost in costs.items())


def draw(space: networks.NetworkSpace, key: Key, num: int, keeps: Keeps = _every) -> np.ndarray:
    """Up to `num` different connected architectures, uniformly.

    Args:
      space: to draw from.
      key: of the draw.
      num: as many, fewer if the space has no more, or hides them well.
      keeps: whether one may be drawn, see `costs.keeping`; asked once for each, until `REFUSED` may not.

    Returns:
      `[n, num_choices]` int32, n at least 1 but for what `keeps` refuses.

    Raises:
      ValueError: if none of some hundred draws is connected.
    """
    found, seen = list[np.ndarray](), set[bytes]()
    draws = (np.asarray(spaces.sample(space, jax.random.fold_in(key, attempt), 4 * num + 16)) for attempt in range(8))
    for code in itertools.chain.from_iterable(draws):
        if len(found) == num or len(seen) - len(found) == REFUSED:
            break
        if code.tobytes() not in seen and networks.is_connected(space, code):
            seen.add(code.tobytes())
            found += [code] if keeps(space, code) else []
    if not seen:
        raise ValueError(f"space {space.name!r} seems to hold no connected network: give it other operators")
    return np.array(found, np.int32).reshape(-1, len(space.choices))
