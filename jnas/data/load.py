"""From what a user names to two data sets on the host."""

import dataclasses
import pathlib

from jnas.data.arrays import Splits
from jnas.data.folder import read_folder
from jnas.data.npz import read_npz
from jnas.data.tfds import read_tfds
from jnas.errors import UserError

SLICE = "fashion-mnist-slice"
SLICE_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def load(name: str, *, size: tuple[int, int] | None = None) -> Splits:
    """Reads a data set whole into memory. Nothing is downloaded.

    When to use it: whenever the data fit in memory; otherwise give a `tfds.data_source` to `stream_source`.

    ==========================  ================================================================================
    `name`                      data
    ==========================  ================================================================================
    `fashion-mnist-slice`       5,000 training and 1,000 test images of Fashion-MNIST, part of this package
    `FILE.npz`                  arrays x_train, y_train, x_test, y_test; images uint8 `[N, H, W, C]` or `[N, H, W]`,
                                labels whole numbers `[N]` or `[N, 1]`
    a folder                    `train/CLASS/*.png` and `test/CLASS/*.png`, or `CLASS/*.png`, whose every fifth image
                                (by name, within its class) is then a test image; also .jpg and .jpeg
    `tfds:NAME`,                a data set of TensorFlow Datasets that is prepared as array_record, in its default
    `tfds:NAME:DATA_DIR`        place or in DATA_DIR; TensorFlow itself is not needed
    ==========================  ================================================================================

    Args:
        name: one of the above.
        size: (height, width) in pixels to which the images of a folder are resized; None: they must be of one size.

    Returns:
        Training and test images, with the same shape and the same classes.

    Raises:
        UserError: There is no such data set, or it cannot be used; the sentence says what to change.

    Reference: Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747 (Fashion-MNIST).

    >>> load("fashion-mnist-slice").train
    Dataset(name='fashion-mnist-slice', num_examples=5000, shape=(28, 28, 1), num_classes=10)
    """
    path = pathlib.Path(name).expanduser()
    is_folder = name not in ("", SLICE) and not name.startswith("tfds:") and path.is_dir()
    if size is not None and not is_folder:
        raise UserError(f"size {size} resizes the images of a folder and {name!r} is none: leave it out")
    if name == SLICE:
        splits = read_npz(pathlib.Path(__file__).with_name("fashion_mnist_slice.npz"), SLICE)
        return Splits(*(dataclasses.replace(part, class_names=SLICE_CLASSES) for part in splits))
    if name.startswith("tfds:"):
        return read_tfds(name)
    if is_folder:
        return read_folder(path, size)
    if path.suffix == ".npz":
        return read_npz(path, path.stem)
    raise UserError(
        f"no data set is called {name!r} and no folder either: "
        f"give {SLICE}, FILE.npz, an existing folder of class folders, tfds:NAME or tfds:NAME:DATA_DIR"
    )
