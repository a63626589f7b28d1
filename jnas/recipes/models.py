"""Trained networks of any task, read back from their folders, as functions from pixels to answers."""

import dataclasses
import json
import os
import pathlib
import reprlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnas import data, report
from jnas.errors import UserError
from jnas.files import own, reading
from jnas.files.urls import printable
from jnas.nets.detection import detect as detect_boxes
from jnas.recipes import chains, quantised, run_folder, train_network
from jnas.recipes.classification import evaluate
from jnas.recipes.config import build
from jnas.recipes.tasks import detect, recognise
from jnas.recipes.tasks.settings import TrainDetector, TrainEmbedding
from jnas.spaces import networks
from jnas.train.weights import load_tree
from jnas.types import Array, PyTree

CLASSIFICATION = "classification"


class Model(NamedTuple):
    """A trained network."""

    task: str  # "classification", "recognition" or "detection"
    net: Any  # a Flax module
    weights: PyTree  # what it is applied with: {"params": ..., "batch_stats": ...}, of a quantised one "quant", too
    shape: tuple[int, int, int]  # height, width and channels of the images it reads
    class_names: tuple[str, ...]
    facts: dict[str, Any]  # network.json
    folder: pathlib.Path
    policy: quantised.Quantised | None = None  # the widths of its parts; None: floating-point numbers

    def __repr__(self) -> str:
        return f"Model({self.task!r}, shape={self.shape}, {len(self.class_names)} classes, folder={str(self.folder)!r})"


def network_folder(path: str | os.PathLike[str]) -> pathlib.Path:
    """The folder of the trained network that a user means by that of a run or of a network.

    Args:
      path: `RUN` or `RUN/train/NAME`.

    Returns:
      `RUN/train/NAME`.

    Raises:
      UserError: if there is no trained network.
    """
    folder = pathlib.Path(path)
    result = run_folder.read_json(folder / run_folder.RESULT) or {}
    chosen = result.get("found", {}).get("name", "found")
    if pathlib.PurePath(chosen).name != chosen:
        raise reading.wrong(folder / run_folder.RESULT, "found.name", repr(chosen), "the name of a folder in train/")
    for place in (folder, *(folder / "train" / name for name in dict.fromkeys((chosen, "found", "named")))):
        if (place / train_network.NETWORK).is_file():
            return place
    if not (folder / run_folder.CONFIG).exists():
        raise UserError(f"{folder} is no run: name the folder of one, as printed when it ended")
    if "quantised" in result:
        raise UserError(
            f"{folder} holds a quantised network of a version that kept no ranges of its activations: search again, or "
            f"jnas train {folder} trains the same architecture without its widths"
        )
    if result:
        raise UserError(f"{folder} holds no trained network: its folder train has to be restored")
    raise unfinished(folder)


def unfinished(folder: pathlib.Path) -> UserError:
    """What to raise where something is asked of a run that has not ended: one sentence with what goes on with it."""
    run = report.read_run(folder)
    again = [command for command, _ in report.next_steps(run) if not run.result]
    return UserError(f"the run in {folder} is not finished: {again[0] if again else 'what began it'} goes on with it")


def load_model(path: str | os.PathLike[str], *, space: networks.NetworkSpace | None = None) -> Model:
    """Read a trained network.

    Args:
      path: see `network_folder`.
      space: of the network, if its name alone does not say what it is.

    Returns:
      The network.

    Raises:
      UserError: if there is none, its files are damaged, or it is of another space.
    """
    folder = network_folder(path)
    facts = read_facts(folder)
    if space is not None:
        recorded = facts["space"] if facts.get("task", CLASSIFICATION) == CLASSIFICATION else facts["settings"]["space"]
        own.check_unchanged(recorded, space.name, f"the network in {folder} was trained", "search again")
        if recorded != space.name:
            raise UserError(f"the network is of space {recorded!r} and not {space.name!r}: give that space")
        for holder in (facts, facts.get("settings", {})):
            holder["space"] = own.Own(space.name, space)
    task, shape, number = facts.get("task", CLASSIFICATION), tuple(facts["shape"]), facts["num_classes"]
    names = tuple(facts.get("class_names") or map(str, range(number)))
    with run_folder.as_user_input():
        net = _rebuild(task, facts)
        one = quantised.of_facts(net, facts)
        abstract = quantised.shapes(one, net, shape)
    weights = quantised.variables(one, load_tree(folder / train_network.WEIGHTS, abstract))
    return Model(task, net, weights, shape, names, facts, folder, one)


def read_facts(folder: pathlib.Path) -> dict[str, Any]:
    """The `network.json` of a trained network, with what its task has and its parts agreeing with one another.

    Raises:
      UserError: if it is damaged.
    """
    path = folder / train_network.NETWORK
    facts = run_folder.read_json(path)
    if facts is None:
        raise UserError(f"{folder} holds no trained network ({path.name} is missing): name a finished run")
    task = facts.get("task", CLASSIFICATION)
    part = "training" if task == CLASSIFICATION else "settings"
    for name in (part, *(("gallery",) if task == recognise.TASK else ())):
        if name not in facts:
            raise reading.wrong(path, name, "missing", "what jnas writes there")
    if kind := {detect.TASK: TrainDetector, recognise.TASK: TrainEmbedding}.get(task):
        if "data" not in facts["settings"]:
            raise reading.wrong(path, "settings.data", "missing", "what the network was trained on")
        facts["settings"] = dataclasses.asdict(build(kind, facts["settings"]))  # of an older version: with what is new
    channels, number, names = facts["shape"][2], facts["num_classes"], facts.get("class_names") or ()
    for name, most in (("mean", channels), ("std", channels), ("class_names", number)):
        if len(facts.get(name) or ()) not in ({most, 0} if name == "class_names" else {1, most}):
            raise reading.wrong(path, name, reprlib.repr(facts[name]), f"{most} entries")
    if len(set(names)) < len(names):
        raise reading.wrong(path, "class_names", reprlib.repr(names), "a name once")
    return facts


def check_fits(model: Model, dataset: data.Dataset) -> None:
    """Raises a UserError unless the network reads such images and knows as many classes."""
    if dataset.shape != model.shape or dataset.num_classes != model.facts["num_classes"]:
        raise UserError(
            f"{dataset.name} has images {dataset.shape} of {dataset.num_classes} classes and the network reads "
            f"{model.shape} of {model.facts['num_classes']}: give data like those it was trained on"
        )


def as_read_by(model: Model, dataset: data.Dataset) -> data.Dataset:
    """The images with as many channels as a network reads: grey ones repeated, colours averaged to grey.

    Raises:
      ValueError: if neither helps.
    """
    height, width, channels = dataset.shape
    wanted = model.shape[-1]
    if channels == wanted:
        return dataset
    pixels = dataset.images.reshape(-1, channels)
    if channels == 1:
        changed = np.repeat(pixels, wanted, axis=1)
    elif wanted == 1:
        changed = np.round(pixels.mean(1, keepdims=True)).astype(np.uint8)
    else:
        raise ValueError(
            f"{dataset.name} has images of {channels} channels and {model.folder.name} reads {wanted}: "
            "give images of as many, or of one"
        )
    return dataclasses.replace(dataset, images=changed.reshape(len(dataset), -1), shape=(height, width, wanted))


def normalisation_of(model: Model) -> data.Augment:
    """The normalisation that a network was trained with, and no augmentation."""
    return data.Augment(mean=tuple(model.facts["mean"]), std=tuple(model.facts["std"]))


def answer(model: Model) -> Callable[[PyTree, Array], dict[str, Array]]:
    """What a network says about images, as a pure function that can be compiled and exported.

    Args:
      model: the network; its weights are not captured.

    Returns:
      `(weights, images [batch, height, width, channels] uint8) -> answers`, each with leading axis `[batch]`:
      classification: `probability [num_classes]`; recognition: `embedding [dimension]` of length 1; detection: `boxes
      [most, 4]` in pixels of the image, `score [most]` (0: nothing), `label [most]` int32.
    """
    net, facts, shape = model.net, model.facts, model.shape
    mean, std = (np.asarray(facts[name], np.float32).reshape(1, 1, 1, -1) for name in ("mean", "std"))

    def function(weights: PyTree, images: Array) -> dict[str, Array]:
        pixels = (images.astype(jnp.float32) / 255.0 - mean) / std
        output: Any = net.apply(weights, pixels, train=False)
        if model.task == detect.TASK:
            settings = facts["settings"]
            found = detect_boxes(
                output, shape[:2], net.strides, most=settings["most_boxes"], most_overlap=settings["most_overlap"]
            )
            return dict(found._asdict())
        if model.task == recognise.TASK:
            return {"embedding": output.embedding}
        return {"probability": jax.nn.softmax(output.main, -1)}

    return function


def _rebuild(task: str, facts: dict[str, Any]) -> Any:
    if task == detect.TASK:
        return detect.build(build(TrainDetector, facts["settings"]), facts["num_classes"])
    if task == recognise.TASK:
        return recognise.build(build(TrainEmbedding, facts["settings"]), facts["num_classes"])
    if task != CLASSIFICATION:
        raise UserError(f"a network for {task!r} is not one that this version knows: use the version that wrote it")
    return chains.rebuild(facts)


def as_json(value: Any) -> str:
    """A line of JSON."""
    return printable(json.dumps(value, ensure_ascii=False))


def measure(
    folder: str | pathlib.Path, dataset: data.Dataset, *, space: networks.NetworkSpace | None = None
) -> dict[str, float]:
    """Loss and accuracy of a trained network on a data set.

    Args:
      folder: of the network, `RUN/train/NAME`.
      dataset: images of the shape and classes that it was trained on.
      space: see `load_model`.

    Returns:
      See `classification.evaluate`.

    Raises:
      UserError: if the folder holds no trained network or the data do not fit it.
    """
    model = load_model(folder, space=space)
    with run_folder.as_user_input():
        dataset = as_read_by(model, dataset)
    check_fits(model, dataset)
    return evaluate(model.net, model.weights, dataset, normalisation_of(model))
