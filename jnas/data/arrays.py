"""A data set is two arrays on the host; what is computed from a whole one stands here."""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from jnas.types import Key


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, all of one shape, on the host.

    Rows are flat because gathering a batch out of `[N, H, W, C]` makes XLA lay out the whole set anew at every step on
    a TPU.

    Args:
        images: `[num_examples, height * width * channels]` uint8, the pixels as they are in the file.
        labels: `[num_examples]` int32, from 0 to `num_classes - 1`.
        shape: `(height, width, channels)` of one image.
        num_classes: number of classes.
        name: what reports call the data.
        class_names: of the classes, in their order; empty: they have none.

    Raises:
        ValueError: An array of another dtype or shape, or a label outside the classes.

    >>> Dataset(np.zeros((2, 12), np.uint8), np.array([0, 1], np.int32), (2, 2, 3), 2, "black")
    Dataset(name='black', num_examples=2, shape=(2, 2, 3), num_classes=2)
    """

    images: np.ndarray  # [num_examples, height * width * channels] uint8
    labels: np.ndarray  # [num_examples] int32
    shape: tuple[int, int, int]
    num_classes: int
    name: str = "data"
    class_names: tuple[str, ...] = ()

    def __post_init__(self):
        pixels = int(np.prod(self.shape))
        if self.images.dtype != np.uint8 or self.images.ndim != 2 or self.images.shape[1] != pixels:
            raise ValueError(
                f"images are {self.images.dtype} {self.images.shape}: give uint8 of shape (num_examples, {pixels}), "
                f"the flat pixels of images of shape {self.shape}"
            )
        if self.labels.dtype != np.int32 or self.labels.shape != (len(self.images),):
            raise ValueError(
                f"labels are {self.labels.dtype} {self.labels.shape}: give int32 of shape ({len(self.images)},)"
            )
        if len(self.labels) and (self.labels.min() < 0 or self.labels.max() >= self.num_classes):
            raise ValueError(
                f"labels run from {self.labels.min()} to {self.labels.max()}: "
                f"number the {self.num_classes} classes from 0 to {self.num_classes - 1}"
            )

    def __len__(self):
        return len(self.images)

    def part(self, index: np.ndarray) -> "Dataset":
        """Some of the examples, in the order of `index` [num_chosen]."""
        return dataclasses.replace(self, images=self.images[index], labels=self.labels[index])

    def __repr__(self):
        return (
            f"Dataset(name={self.name!r}, num_examples={len(self)}, shape={self.shape}, num_classes={self.num_classes})"
        )


class Splits(NamedTuple):
    """The two official halves of a data set. Search and validation use `train` only; the test set chooses nothing."""

    train: Dataset
    test: Dataset


def splits_of(
    parts: Iterable[tuple[np.ndarray, np.ndarray]], num_classes: int, name: str, class_names: tuple[str, ...] = ()
) -> Splits:
    """Splits from the images `[N, H, W, C]` uint8 and the labels `[N]` to train on, and those to test on."""
    return Splits(
        *(
            Dataset(
                images.reshape(len(images), -1),
                labels.astype(np.int32),
                images.shape[1:],
                num_classes,
                name,
                class_names,
            )
            for images, labels in parts
        )
    )


def split(dataset: Dataset, key: Key, fraction: float) -> tuple[Dataset, Dataset]:
    """Divides a data set at random into two: disjoint, and together the whole.

    When to use it: to make the inner (training) and the outer (validation) half of a search out of the training images.

    Args:
        dataset: what to divide.
        key: PRNG key; the same key gives the same halves.
        fraction: the part that goes to the first, between 0 and 1 exclusive; the number of examples is rounded.

    Returns:
        The two parts, each in a random order.

    Raises:
        ValueError: One of the parts would be empty.

    >>> whole = Dataset(np.zeros((10, 4), np.uint8), np.zeros(10, np.int32), (2, 2, 1), 1)
    >>> [len(part) for part in split(whole, jax.random.key(0), 0.7)]
    [7, 3]
    """
    left, right = (dataset.part(index) for index in split_index(len(dataset), key, fraction))
    return left, right


def split_index(num_examples: int, key: Key, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the examples in the two parts of `split`.

    When to use it: to keep one copy of the images for several searches, each with halves of its own.

    Args:
        num_examples: of the whole.
        key: PRNG key, as for `split`.
        fraction: as for `split`.

    Returns:
        Two disjoint arrays of int32, together a permutation of all numbers.

    Raises:
        ValueError: One of the parts would be empty.
    """
    first = round(num_examples * fraction) if 0 < fraction < 1 else 0
    if not 0 < first < num_examples:
        raise ValueError(
            f"fraction {fraction} of {num_examples} examples leaves one part empty: "
            "choose one strictly between 0 and 1 that gives each part an example"
        )
    order = np.asarray(jax.random.permutation(key, num_examples), np.int32)
    return order[:first], order[first:]


def normalisation(dataset: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, over all pixels of all images.

    When to use it: on the training images, for `Augment(mean=..., std=...)`.

    Computed from integer histograms, so exact up to the last division. The deviation is that of the population (divided
    by the number of pixels), as in the published constants of CIFAR-10.

    Args:
        dataset: the images; at least one.

    Returns:
        `(mean, std)`, each with one float a channel, in units where black is 0 and white is 1. A channel that never
        changes has the deviation 1, so that dividing by it is harmless.

    Raises:
        ValueError: The data set is empty.

    >>> normalisation(Dataset(np.array([[0, 255]], np.uint8), np.zeros(1, np.int32), (1, 2, 1), 1))
    ((0.5,), (0.5,))
    """
    if not len(dataset):
        raise ValueError(f"data set {dataset.name!r} has 0 images: give at least one to take a mean")
    channels = dataset.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(dataset), 4096):  # in pieces: bincount widens its input to 64 bits
        pixels = dataset.images[start : start + 4096].reshape(-1, channels)
        for channel in range(channels):
            counts[channel] += np.bincount(pixels[:, channel], minlength=256)
    level = np.arange(256) / 255.0
    weight = counts / counts.sum(axis=1, keepdims=True)
    mean = weight @ level
    variance = (weight * (level[None, :] - mean[:, None]) ** 2).sum(axis=1)
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())
