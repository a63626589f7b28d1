"""What a trained network does on other data."""

import pathlib

import jax

from jnas import data, nets
from jnas.errors import UserError
from jnas.recipes import chains, run_folder
from jnas.recipes.classification import evaluate
from jnas.recipes.train_network import NETWORK, WEIGHTS
from jnas.spaces.networks import NetworkSpace
from jnas.train.weights import load_tree


def measure(
    folder: str | pathlib.Path, dataset: data.Dataset, *, space: NetworkSpace | None = None
) -> dict[str, float]:
    """Loss and accuracy of a trained network on a data set.

    Args:
      folder: of the network, `RUN/train/NAME`.
      dataset: images of the shape and classes that it was trained on.
      space: of the network, see `chains.rebuild`.

    Returns:
      See `classification.evaluate`.

    Raises:
      UserError: if the folder holds no trained network or the data do not fit it.
    """
    path = pathlib.Path(folder)
    facts = run_folder.read_json(path / NETWORK)
    if facts is None:
        raise UserError(f"{path} holds no trained network ({NETWORK} is missing): name a finished run")
    if tuple(facts["shape"]) != dataset.shape or facts["num_classes"] != dataset.num_classes:
        raise UserError(
            f"{dataset.name} has images {dataset.shape} of {dataset.num_classes} classes and the network reads "
            f"{tuple(facts['shape'])} of {facts['num_classes']}: give data like those it was trained on"
        )
    net = chains.rebuild(facts, space)
    params, stats = jax.eval_shape(lambda key: nets.initialise(net, key, dataset.shape), jax.random.key(0))
    tree = load_tree(path / WEIGHTS, {"params": params, "batch_stats": stats})
    augment = data.Augment(mean=tuple(facts["mean"]), std=tuple(facts["std"]))
    return evaluate(net, tree, dataset, augment)
