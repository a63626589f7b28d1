"""Data sets that TensorFlow Datasets has prepared, read without TensorFlow."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import numpy as np

from jnas.data.arrays import Splits, splits_of
from jnas.errors import UserError


def read_tfds(name: str) -> Splits:
    """Reads the splits train and test of a data set that is prepared on this machine, as tfrecord or array_record.

    Nothing is downloaded: preparing the common data sets needs TensorFlow, so that is a step of its own, done once and
    anywhere. Reading them does not.

    Args:
        name: `tfds:NAME` or `tfds:NAME:DATA_DIR`.

    Returns:
        The two data sets.

    Raises:
        UserError: The name is unknown, the data are not prepared, or they are not images of one shape with one label
            each.
    """
    builder, words = prepared(name)
    check_parts(builder.info, words.name, ("train", "test"))
    with explained(words):
        parts = [_rows(opened(builder, part), words.name) for part in ("train", "test")]
    shape, other = (images.shape[1:] for images, _ in parts)
    if shape != other:
        raise UserError(_shapes_differ(words.name, other, shape))
    num_classes = builder.info.features["label"].num_classes
    names = tuple(getattr(builder.info.features["label"], "names", None) or ())
    return splits_of(parts, num_classes, words.name, names)


def opened(builder: Any, part: str) -> Any:
    """The examples of a split, by their numbers."""
    try:
        return builder.as_data_source(split=part)
    except NotImplementedError:  # a format without random access
        if builder.info.file_format.value != "tfrecord":
            raise
        return _Records(builder.info.splits[part].file_instructions, builder.info.features)


class _Records:
    """Examples of TFRecord files: the length of each as eight bytes, four of a checksum, the example, four of another.

    The checksums are not looked at: the files must be filled by their records exactly, and images have their own.
    """

    def __init__(self, files, features):
        self._features, self._places = features, []
        for part in files:
            places, at, size = [], 0, os.path.getsize(part.filename)
            with open(part.filename, "rb") as file:
                while len(head := file.read(12)) == 12:
                    length = int.from_bytes(head[:8], "little")
                    places.append((part.filename, at + 12, length))
                    at += length + 16
                    file.seek(min(at, size))
            if at != size or len(places) != part.examples_in_shard:
                raise OSError(f"{part.filename} holds {len(places)} of {part.examples_in_shard} examples")
            self._places += places[part.skip : part.skip + part.take]

    def __len__(self):
        return len(self._places)

    def __getitem__(self, index):
        name, at, length = self._places[index]
        with open(name, "rb") as file:
            file.seek(at)
            record = file.read(length)
        try:
            return self._features.deserialize_example_np(record)
        except Exception as error:  # whatever the parsers of its parts raise
            raise OSError(f"example {index} of {name} cannot be read") from error


class Words(NamedTuple):
    """What a sentence about a data set says."""

    name: str
    where: str
    remedy: str


def prepared(name: str) -> tuple[Any, Words]:
    """The builder of a prepared data set."""
    import tensorflow_datasets as tfds  # here: slow to import

    _, dataset_name, *rest = name.split(":", 2)
    data_dir = os.path.expanduser(rest[0]) if rest and rest[0] else None
    try:
        builder = cast(Any, tfds.builder(dataset_name, data_dir=data_dir))  # its decorators hide its types
    except ValueError:  # its message lists every data set there is
        raise UserError(
            f"TensorFlow Datasets knows no data set {dataset_name!r}: write tfds:NAME or tfds:NAME:DATA_DIR "
            "with a name of https://www.tensorflow.org/datasets/catalog"
        ) from None
    except Exception as error:  # a damaged description raises whatever its parser raises
        raise UserError(
            f"TensorFlow Datasets cannot open {name!r} ({type(error).__name__}): check the name, or delete the folder "
            "of the data set and prepare it again"
        ) from error
    remedy = (
        "prepare it once where TensorFlow is installed, with "
        f"tfds.builder({dataset_name!r}, data_dir=...).download_and_prepare(), "
        f"and name its folder as tfds:{dataset_name}:DATA_DIR"
    )
    where = f"data set {dataset_name!r} in {builder.data_dir}"
    if not builder.is_prepared():
        raise UserError(f"{where} is not prepared: {remedy}")
    return builder, Words(dataset_name, where, remedy)


@contextlib.contextmanager
def explained(words: Words) -> Iterator[None]:
    """Turns what the library raises for unfit files into one sentence."""
    try:
        yield
    except NotImplementedError:  # a RuntimeError too, of which it speaks in the words of its own options
        raise UserError(f"{words.where} is not prepared as tfrecord or array_record: {words.remedy}") from None
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{words.where} is damaged ({type(error).__name__}): delete the folder and {words.remedy}"
        ) from error


def check_parts(info, name, parts):
    """Raises a UserError unless the data set has these splits, an image and a label."""
    absent = [f"split {part}" for part in parts if part not in info.splits]
    absent += [f"feature {part}" for part in ("image", "label") if part not in info.features]
    if not absent and getattr(info.features["label"], "num_classes", None) is None:
        absent = ["single class as its label"]
    if absent:
        raise UserError(
            f"data set {name!r} has no {absent[0]}: "
            f"choose one with the splits {' and '.join(parts)} and the features image and label"
        )


def _rows(source, name) -> tuple[np.ndarray, np.ndarray]:
    """Images `[N, H, W, C]` uint8 and labels `[N]` int32."""
    shape = source[0]["image"].shape
    images, labels = np.empty((len(source), *shape), np.uint8), np.empty(len(source), np.int32)
    for i, example in enumerate(source):
        image = example["image"]
        if image.dtype != np.uint8:
            raise UserError(f"images of data set {name!r} are {image.dtype}: choose one with uint8 images")
        if image.shape != shape:
            raise UserError(_shapes_differ(name, image.shape, shape))
        images[i], labels[i] = image, example["label"]
    if labels.min() < 0:
        raise UserError(
            f"data set {name!r} hides labels of its test images (as {labels.min()}): choose one that has them"
        )
    return images, labels


def _shapes_differ(name, one, other):
    return (
        f"images of data set {name!r} differ in shape ({one} and {other}): "
        "write them at one size into a folder or an .npz file, and load that"
    )
