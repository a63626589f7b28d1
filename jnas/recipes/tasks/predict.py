"""What a trained or exported network says about the user's photos, in words, numbers and pictures."""

import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jnas import exported, report
from jnas.data.detection.photos import fit_photo, read_image
from jnas.errors import UserError
from jnas.files import atomic_write, prepare_folder
from jnas.files.images import ENDINGS
from jnas.recipes import models, run_folder
from jnas.recipes.tasks import detect, recognise
from jnas.recipes.tasks.retrieval import nearest
from jnas.spaces import networks

BATCH = 16  # photos at a time
LINES = "predictions.jsonl"


class Predictor(NamedTuple):
    """A network of either kind, ready to be asked."""

    task: str
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    ask: Callable[[np.ndarray], dict[str, np.ndarray]]  # [batch, height, width, channels] uint8 -> answers
    gallery: dict[str, np.ndarray]  # of a recognition network: "embedding", "label"
    images: Callable[[np.ndarray], Sequence[np.ndarray]] | None  # the gallery's images by number; None: not at hand


def open_network(path: str | os.PathLike[str], *, space: networks.NetworkSpace | None = None) -> Predictor:
    """A network from the folder of a run or of a network, or from an exported file.

    Args:
      path: of either.
      space: of a run, see `models.load_model`.

    Returns:
      The network.

    Raises:
      UserError: if there is none, or it is damaged.
    """
    if pathlib.Path(path).is_file():
        network = exported.load(path)
        return Predictor(network.task, network.class_names, network.shape, network, network.gallery, None)
    model = models.load_model(path, space=space)
    function = jax.jit(models.answer(model))

    def ask(pixels):
        return jax.device_get(function(model.weights, pixels))

    plain = Predictor(model.task, model.class_names, model.shape, ask, {}, None)
    if model.task != recognise.TASK:
        return plain
    settings = model.facts["settings"]

    @functools.cache
    def gallery():
        return run_folder.load_data(settings["data"], settings["image_size"]).train

    def images(index):
        return [gallery().images[i].reshape(model.shape) for i in index]

    return plain._replace(gallery=recognise.read_gallery(model.folder, model.facts), images=images)


def photos_of(names: Sequence[str]) -> list[pathlib.Path]:
    """The image files that a user names, those of a folder (and of the folders in it) in the order of their names.

    Args:
      names: of files and folders.

    Returns:
      The files; at least one.

    Raises:
      UserError: if a name is no file or folder, or a folder holds no image.
    """
    files = []
    for name in names:
        path = pathlib.Path(os.path.expanduser(name))
        found = [path] if path.is_file() else []
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
        if not found:
            raise UserError(f"{name} is no image and no folder with {', '.join(ENDINGS)} files: name one")
        files += found
    return files


def predict(network: Predictor, files: Sequence[pathlib.Path], *, top: int, threshold: float) -> Iterator[dict]:
    """Answers for photos, one after another.

    Args:
      network: from `open_network`.
      files: the photos; each is scaled to what the network reads, as its training images were.
      top: most classes, or neighbours, of an answer.
      threshold: least score of a box.

    Yields:
      For each photo a value of JSON. Classification: `class`, `probability`, and `top`. Detection: `boxes`, each with
      `class`, `score` and `box`: left, top, right, bottom in pixels of the photo. Recognition: `class`, of the nearest
      neighbour, and `neighbours`, each with `class`, `similarity` and its number in the gallery.

    Raises:
      UserError: if a photo cannot be read.
    """
    size = min(BATCH, len(files))
    for start in range(0, len(files), size):
        chunk = files[start : start + size]
        read = [_read(network, file) for file in chunk]
        pixels = np.zeros((size, *network.shape), np.uint8)  # filled up: one shape, one compilation
        for row, (image, _) in zip(pixels, read, strict=False):
            row[...] = image
        answers = network.ask(pixels)
        for row, (file, (_, scale)) in enumerate(zip(chunk, read, strict=True)):
            one = {name: value[row] for name, value in answers.items()}
            yield {"image": str(file), **_words(network, one, scale, top, threshold)}


def draw(network: Predictor, said: dict[str, Any]) -> bytes:
    """The picture of an answer, as JPEG: boxes in the photo, or the photo beside its class or its neighbours.

    Args:
      network: which gave the answer.
      said: from `predict`.

    Returns:
      The content of the file.
    """
    file = pathlib.Path(said["image"])
    if network.task == detect.TASK:
        boxes = said["boxes"]
        return report.boxes_picture(
            file,
            np.array([box["box"] for box in boxes]).reshape(-1, 4),
            [box["class"] for box in boxes],
            np.array([box["score"] for box in boxes]),
            class_names=network.class_names,
        )
    image, _ = _read(network, file)
    if network.task == recognise.TASK:
        neighbours = said["neighbours"]
        words = [f"{near['class']} {near['similarity']:.2f}" for near in neighbours]
        if network.images is None:  # an exported file has no images
            return report.row_picture([image], words[:1])
        shown = network.images(np.array([near["index"] for near in neighbours]))
        return report.row_picture([image, *shown], [file.name, *words])
    return report.row_picture([image], [f"{said['class']} {said['probability']:.2f}"], side=224)


def write_pictures(network: Predictor, answers: Sequence[dict[str, Any]], folder: str | os.PathLike[str]) -> None:
    """Write the pictures and, last, `predictions.jsonl` into a folder.

    Args:
      network: which gave the answers.
      answers: from `predict`; a line gets the name of its picture.
      folder: made if absent.

    Raises:
      UserError: if it cannot be written.
    """
    place = prepare_folder(folder)
    lines, used = [], set()
    for said in answers:
        stem = pathlib.Path(said["image"]).stem
        name = next(n for n in (stem, *(f"{stem}-{i}" for i in range(2, len(answers) + 2))) if n not in used)
        used.add(name)
        atomic_write(place / f"{name}.jpg", draw(network, said))
        lines.append(models.as_json({**said, "picture": f"{name}.jpg"}))
    atomic_write(place / LINES, "\n".join(lines) + "\n")


def _read(network: Predictor, file: pathlib.Path) -> tuple[np.ndarray, float]:
    if network.task == detect.TASK:
        return fit_photo(file, network.shape[:2], network.shape[2])
    return read_image(file, network.shape), 1.0


def _words(network: Predictor, answer: dict[str, np.ndarray], scale: float, top: int, threshold: float) -> dict:
    names = network.class_names
    if network.task == detect.TASK:
        found = [
            {"class": names[label], "score": round(float(score), 4), "box": [round(float(v / scale), 1) for v in box]}
            for box, score, label in zip(answer["boxes"], answer["score"], answer["label"], strict=True)
            if score > 0 and score >= threshold
        ]
        return {"boxes": found}
    if network.task == recognise.TASK:
        gallery = network.gallery
        near = nearest(answer["embedding"][None], gallery["embedding"], min(top, len(gallery["label"])))
        neighbours = [
            {"class": names[gallery["label"][index]], "similarity": round(float(similarity), 4), "index": int(index)}
            for index, similarity in zip(near.index[0], near.similarity[0], strict=True)
        ]
        return {"class": neighbours[0]["class"], "neighbours": neighbours}
    probability = answer["probability"]
    order = np.argsort(-probability, kind="stable")[:top]
    best = [{"class": names[label], "probability": round(float(probability[label]), 6)} for label in order]
    return {**best[0], "top": best}
