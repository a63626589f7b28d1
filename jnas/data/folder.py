"""Data sets in a folder of class folders of images."""

import dataclasses
import pathlib

import numpy as np

from jnas.data.arrays import Dataset, Splits
from jnas.errors import UserError
from jnas.files.images import ENDINGS, GREY, opened, pixels_of

HELD_OUT = 5  # without a test folder, one image in five is a test image


def read_folder(path: pathlib.Path, size: tuple[int, int] | None) -> Splits:
    """Reads `train/CLASS/*.png` and `test/CLASS/*.png`, or `CLASS/*.png` alone; .jpg, .webp and .bmp likewise.

    Classes are numbered in the order of their names. Without `train` and `test`, images 0, 5, 10, ... of each class, in
    the order of their names, are the test images: no random number is involved, so that every machine divides alike.
    Images have one channel if all of them are grey, otherwise three; transparency is dropped.

    Args:
        path: the folder.
        size: (height, width) to which every image is resized (bilinear); None: all must have the size of the first.

    Returns:
        The two data sets.

    Raises:
        UserError: A folder has no images, the classes of the two parts differ, or an image cannot be used; it is named.
    """
    if size is not None and not (len(size) == 2 and all(side >= 1 for side in size)):
        raise UserError(f"size {size} of the images: give (height, width) in pixels, each at least 1")
    parts = {part: path / part for part in ("train", "test") if (path / part).is_dir()}
    if len(parts) == 1:
        (there,) = parts
        raise UserError(f"{path} has a folder {there} alone: give it both train and test, or neither")
    if parts:
        train, test = (_classes(folder) for folder in parts.values())
        if train.keys() != test.keys():
            odd = ", ".join(sorted(train.keys() ^ test.keys()))
            raise UserError(
                f"the classes of {path}/train and {path}/test differ in {odd}: give both the same class folders"
            )
    else:
        train, test = _hold_out(_classes(path))
    files = [file for part in (train, test) for group in part.values() for file in group]
    images = _read(files, size)
    counts = [sum(map(len, part.values())) for part in (train, test)]
    labels = np.concatenate(
        [np.repeat(np.arange(len(part)), [len(group) for group in part.values()]) for part in (train, test)]
    )
    first = Dataset(
        images.reshape(len(images), -1), labels.astype(np.int32), images.shape[1:], len(train), path.resolve().name,
        tuple(train),
    )  # fmt: skip
    return Splits(
        *(
            dataclasses.replace(first, images=first.images[rows], labels=first.labels[rows])
            for rows in (slice(None, counts[0]), slice(counts[0], None))
        )
    )


def _classes(folder) -> dict[str, list[pathlib.Path]]:
    """The image files of each class, both in the order of their names."""
    groups = {
        entry.name: sorted(file for file in entry.iterdir() if file.suffix.lower() in ENDINGS)
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }
    if not groups:
        raise UserError(f"{folder} has no class folders: put the images in one folder a class")
    for name, files in groups.items():
        if not files:
            raise UserError(f"class folder {folder / name} has no image: add {', '.join(ENDINGS)} files or remove it")
    return groups


def _hold_out(groups):
    for name, files in groups.items():
        if len(files) < 2:
            raise UserError(f"class {name} has 1 image, too few for training and test: add another or remove the class")
    test = {name: files[::HELD_OUT] for name, files in groups.items()}
    train = {name: [file for i, file in enumerate(files) if i % HELD_OUT] for name, files in groups.items()}
    return train, test


def _read(files, size) -> np.ndarray:
    """Images `[N, H, W, C]` uint8."""
    heads = [_head(file) for file in files]
    shape = size or heads[0][1]
    for file, (_, own) in zip(files, heads, strict=True):
        if size is None and own != shape:
            raise UserError(
                f"image {file} is {own[0]} x {own[1]} pixels and {files[0]} is {shape[0]} x {shape[1]}: "
                "make all images one size, or resize them with image_size=SIDE"
            )
    channels = 1 if all(grey for grey, _ in heads) else 3
    images = np.empty((len(files), *shape, channels), np.uint8)
    for row, file in zip(images, files, strict=True):
        with opened(file) as image:
            row[...] = pixels_of(image, shape, channels)
    return images


def _head(file) -> tuple[bool, tuple[int, int]]:
    """Whether an image is grey, and its height and width."""
    with opened(file) as image:
        return image.mode in GREY, (image.height, image.width)
