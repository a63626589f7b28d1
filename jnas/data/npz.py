"""Data sets in one .npz file."""

import pathlib
from collections.abc import Mapping

import numpy as np

from jnas.data.arrays import Splits, splits_of
from jnas.errors import UserError
from jnas.files.reading import arrays_of, opened

MOST_CHANNELS = 4  # beyond which the last axis is hardly that of the channels
KEYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: pathlib.Path, name: str) -> Splits:
    """Reads the arrays x_train, y_train, x_test and y_test of an .npz file.

    Images of more than four channels are refused, for most of them are channels first, unless the file says the number
    in an array `channels`.

    Args:
        path: the file.
        name: what reports call the data.

    Returns:
        The two data sets; `num_classes` is one more than the largest training label.

    Raises:
        UserError: The file is missing or damaged, or an array of it is missing or unfit.
    """
    return splits_from(_arrays(path), name, path)


def splits_from(arrays: Mapping[str, np.ndarray], name: str, path: object) -> Splits:
    """The data sets of the arrays of `read_npz`, which come from `path`; raises a UserError where one is unfit."""
    train = _checked(arrays, "train", path)
    test = _checked(arrays, "test", path)
    if train[0].shape[1:] != test[0].shape[1:]:
        raise UserError(
            f"x_train of {path} has images of shape {train[0].shape[1:]} and x_test of {test[0].shape[1:]}: "
            "give both the same"
        )
    present = np.unique(train[1])
    num_classes = len(present)
    if present[-1] != num_classes - 1:
        absent = int(np.argmax(present != np.arange(num_classes)))
        raise UserError(
            f"y_train of {path} goes up to {present[-1]} and no label is {absent}: "
            "number the classes from 0 without a gap"
        )
    if test[1].max() >= num_classes:
        raise UserError(
            f"y_test of {path} has the label {test[1].max()} and y_train goes up to {num_classes - 1}: "
            "give every class training images"
        )
    return splits_of((train, test), num_classes, name)


def _arrays(path):
    if not path.exists():
        raise UserError(f"there is no file {path}: check the name")
    try:
        return arrays_of(path, KEYS, optional=("channels",))
    except KeyError as error:
        *missing, there = error.args
        raise UserError(
            f"{path} has no array {', '.join(missing)} (it has {', '.join(there) or 'none'}): "
            f"save {', '.join(KEYS)} with numpy.savez"
        ) from error
    except UserError:
        raise
    except ValueError as error:
        with opened(path) as file:
            if file.read(6) == b"\x93NUMPY":
                raise UserError(
                    f"{path} holds a single array: save x_train, y_train, x_test and y_test with numpy.savez"
                ) from error
        raise UserError(
            f"{path} cannot be read: it is cut off or damaged, or holds objects; save its arrays again with numpy.savez"
        ) from error


def _checked(arrays, part, path):
    """Images `[N, H, W, C]` and labels `[N]`, checked."""
    images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
    for key in ("x", "y"):
        if not isinstance(arrays[f"{key}_{part}"], np.ndarray):
            raise UserError(f"{key}_{part} of {path} is no array: save it with numpy.savez")
    where = f"x_{part} of {path}"
    if images.dtype != np.uint8:
        raise UserError(f"{where} is {images.dtype}: give the pixels as uint8, from 0 to 255")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not images.size:
        raise UserError(f"{where} has the shape {images.shape}: give [N, H, W, C] or [N, H, W], none of them 0")
    first, last = images.shape[1], images.shape[-1]
    unusual = last > MOST_CHANNELS or (first in (1, 3) and last not in (1, 3))
    if unusual and not np.array_equal(arrays.get("channels"), last):
        guess = "channels first" if first <= MOST_CHANNELS else f"{last} channels"
        raise UserError(
            f"{where} has the shape {images.shape}, {guess}: numpy.moveaxis(x, 1, -1) puts them last; if that is where "
            f"they are, save channels={last} beside it"
        )
    where = f"y_{part} of {path}"
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(f"{where} is {labels.dtype} of shape {labels.shape}: give whole numbers of shape [N] or [N, 1]")
    if len(labels) != len(images):
        raise UserError(f"{where} has {len(labels)} labels for {len(images)} images: give one for each")
    if labels.min() < 0:
        raise UserError(f"{where} has the label {labels.min()}: number the classes from 0")
    return images, labels
