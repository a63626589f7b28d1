"""Measures networks for recognition and detection on a data set."""

import pathlib
from typing import Any

from jnas.data.detection.datasets import load_detection
from jnas.data.detection.sources import BoxAugment
from jnas.errors import UserError
from jnas.recipes import models, run_folder
from jnas.recipes.config import build
from jnas.recipes.tasks import detect, recognise
from jnas.recipes.tasks.average_precision import average_precision
from jnas.recipes.tasks.retrieval import retrieval
from jnas.recipes.tasks.settings import TrainDetector
from jnas.spaces import networks


def of_folder(
    folder: str | pathlib.Path, name: str | None, split: str, *, space: networks.NetworkSpace | None = None
) -> dict[str, Any]:
    """Measure a trained network.

    Args:
      folder: of the network.
      name: of the data; None: those it was trained on.
      split: "test" or "train"; with recognition "train" looks up nothing and is refused.
      space: of the network, see `models.load_model`.

    Returns:
      What was measured, with network, data and split.

    Raises:
      UserError: if the data do not fit the network.
    """
    model = models.load_model(folder, space=space)
    if model.task == detect.TASK:
        measured, dataset = _detection(model, name, split)
    else:
        measured, dataset = _recognition(model, name, split)
    return {"network": str(folder), "data": dataset.name, "split": split, "examples": len(dataset), **measured}


def _detection(model: models.Model, name: str | None, split: str):
    config = build(TrainDetector, model.facts["settings"])
    splits = load_detection(name or config.data, model.shape[:2])
    dataset = splits.test if split == "test" else splits.train
    if dataset.class_names != model.class_names:
        raise UserError(
            f"{dataset.name} has the classes {', '.join(dataset.class_names)} and the network finds "
            f"{', '.join(model.class_names)}: give data with its classes"
        )
    augment = BoxAugment(mean=tuple(model.facts["mean"]), std=tuple(model.facts["std"]))
    found = detect.search_all(model.net, model.weights, dataset, augment, config)
    missed, _ = detect.unreached(model.net, dataset)
    measured = average_precision(detect.truths(dataset), found, dataset.class_names)
    return {**measured, **({"unreached_boxes": missed} if missed else {})}, dataset


def _recognition(model: models.Model, name: str | None, split: str):
    settings = model.facts["settings"]
    if split == "train":
        raise UserError("split is train and the training images are the gallery of this network: measure on test")
    dataset = run_folder.load_data(name or settings["data"], None if name else settings["image_size"]).test
    models.check_fits(model, dataset)
    gallery = recognise.read_gallery(model.folder, model.facts)
    queries = recognise.embed_all(model.net, model.weights, dataset, models.normalisation_of(model))
    return retrieval(queries, dataset.labels, gallery["embedding"], gallery["label"]), dataset
