"""What a trained network does on other data."""

import pathlib

from jnas import data
from jnas.recipes import models
from jnas.recipes.classification import evaluate
from jnas.spaces.networks import NetworkSpace


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
    model = models.load_model(folder, space=space)
    models.check_fits(model, dataset)
    return evaluate(model.net, model.weights, dataset, models.normalisation_of(model))
