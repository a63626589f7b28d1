"""From what a user names to two data sets on the host."""

import dataclasses
import hashlib
import os
import pathlib

import numpy as np

from jnas.data.arrays import Splits
from jnas.data.folder import read_folder
from jnas.data.npz import read_npz
from jnas.data.tfds import read_tfds
from jnas.errors import UserError
from jnas.files import own
from jnas.files.text import shortened

EMBEDDED, SLICE = "fashion-mnist-5k", "fashion-mnist-slice"
_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def load(name: str, *, size: tuple[int, int] | None = None) -> Splits:
    """Reads a data set whole into memory. Nothing is downloaded.

    When to use it: whenever the data fit in memory; otherwise give a `tfds.data_source` to `stream_source`.

    ==========================  ================================================================================
    `name`                      data
    ==========================  ================================================================================
    `fashion-mnist-5k`          5,000 training images and all 10,000 test images of Fashion-MNIST, in this package
    `fashion-mnist-slice`       the same training images and 1,000 of the test images
    `FILE.npz`                  arrays x_train, y_train, x_test, y_test; images uint8 `[N, H, W, C]` or `[N, H, W]`,
                                labels whole numbers `[N]` or `[N, 1]`
    a folder                    `train/CLASS/*.png` and `test/CLASS/*.png` (or valid, val, validation in place of test),
                                or `CLASS/*.png`, whose every fifth image (by name, within its class) is then a test
                                image; also .jpg, .jpeg, .webp and .bmp
    `tfds:NAME`,                a data set of TensorFlow Datasets that is prepared, as tfrecord or array_record, in its
    `tfds:NAME:DATA_DIR`        default place or in DATA_DIR; TensorFlow itself is not needed
    `own.Own`                   of the user's own, which come with their name
    ==========================  ================================================================================

    Args:
        name: one of the above.
        size: (height, width) in pixels to which the images of a folder are resized; None: they must be of one size.

    Returns:
        Training and test images, with the same shape and the same classes.

    Raises:
        UserError: There is no such data set, or it cannot be used; the sentence says what to change.

    Reference: Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747 (Fashion-MNIST).

    >>> load("fashion-mnist-5k").test
    Dataset(name='fashion-mnist-5k', num_examples=10000, shape=(28, 28, 1), num_classes=10)
    """
    part = own.part_of(name, "data")
    path = pathlib.Path(os.path.expanduser(name))
    is_folder = name not in ("", EMBEDDED, SLICE) and not name.startswith("tfds:") and os.path.isdir(path)
    if size is not None and not is_folder:
        raise UserError(f"size {size} resizes the images of a folder and {shortened(name)!r} is none: leave it out")
    if part is not None:
        return part
    if name in (EMBEDDED, SLICE):
        train, test = read_npz(pathlib.Path(__file__).with_name("fashion_mnist_5k.npz"), name)
        test = test.part(_smallest(test.labels, 100)) if name == SLICE else test
        return Splits(*(dataclasses.replace(part, class_names=_CLASSES) for part in (train, test)))
    if name.startswith("tfds:"):
        return read_tfds(name)
    if is_folder:
        return read_folder(path, size)
    if path.suffix == ".npz":
        if not os.path.isfile(path):  # also a pipe, which would keep us waiting
            raise UserError(f"there is no file {shortened(name)}: check the name")
        return read_npz(path, path.stem)
    raise UserError(
        f"no data set is called {shortened(name)!r} and no folder either: "
        f"give {EMBEDDED}, FILE.npz, an existing folder of class folders, tfds:NAME or tfds:NAME:DATA_DIR"
    )


def _smallest(labels: np.ndarray, count: int) -> np.ndarray:
    """The positions of the test images of each class whose SHA-256 of "0:t10k:INDEX" is smallest, ascending."""
    rank = lambda index: hashlib.sha256(f"0:t10k:{index}".encode()).hexdigest()
    groups = [sorted(np.flatnonzero(labels == label).tolist(), key=rank)[:count] for label in range(10)]
    return np.sort(np.concatenate(groups))
