"""Data sets in a folder of class folders of images."""

import pathlib
import sys

import numpy as np

from jnas.data.arrays import Splits, splits_of
from jnas.data.memory import check_memory
from jnas.distributed import is_first
from jnas.errors import UserError
from jnas.files.images import ENDINGS, GREY, opened, pixels_of
from jnas.files.text import check_text
from jnas.files.urls import printable

PARTS = ("train", "test", "valid", "val", "validation")  # the second that is there has the test images
HELD_OUT = 5  # without a test folder, one image in five is a test image


def read_folder(path: pathlib.Path, size: tuple[int, int] | None) -> Splits:
    """Reads `train/CLASS/*.png` and `test/CLASS/*.png`, or `CLASS/*.png` alone; .jpg, .webp and .bmp likewise.

    Classes are numbered in the order of their names. Beside `train`, a folder `val`, `valid` or `validation` is taken
    for `test` where there is none. Without either, images 0, 5, 10, ... of each class, in the order of their names, are
    the test images: no random number is involved, so that every machine divides alike. Images have one channel if all
    of them are grey, otherwise three; transparency is dropped. What is left out is said.

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
    folders = [entry for entry in sorted(path.iterdir()) if entry.is_dir()]
    below = {entry.name.lower(): entry for entry in folders}
    parts = [below[part] for part in PARTS if part in below] if below.keys() & {"train", "test"} else []
    if twice := [entry for entry in folders if parts and entry.name.lower() in PARTS and entry not in parts]:
        raise UserError(
            f"{path} has a folder {twice[0].name} and {below[twice[0].name.lower()].name}: keep one of them"
        )
    if parts and ("train" not in below or len(parts) == 1):
        raise UserError(f"{path} has a folder {parts[0].name} alone: give it both train and test, or neither")
    notes: list[str] = []
    if parts:
        _note([e for e in sorted(path.iterdir()) if e not in parts and (e in folders or _is_image(e))], path, notes)
        train, test, *others = (_classes(folder, notes) for folder in parts)
        if "test" not in below:
            notes.append(f"{path} has no folder test: the images of {parts[1].name} are the test images")
        for folder, groups in zip(parts[2:], others, strict=True):
            notes.append(
                f"{path} has test images: the {sum(map(len, groups.values()))} images of {folder.name} are left out"
            )
        if train.keys() != test.keys():
            odd = ", ".join(sorted(train.keys() ^ test.keys()))
            raise UserError(
                f"the classes of {parts[0]} and {parts[1]} differ in {odd}: give both the same class folders"
            )
    else:
        train, test = _hold_out(_classes(path, notes))
    files = [file for part in (train, test) for group in part.values() for file in group]
    images = _read(files, size)
    labels = [np.repeat(np.arange(len(part)), [len(group) for group in part.values()]) for part in (train, test)]
    halves = zip(np.split(images, [len(labels[0])]), labels, strict=True)
    if is_first():
        print(*map(printable, notes), sep="\n", end="\n" if notes else "", file=sys.stderr)
    return splits_of(halves, len(train), path.resolve().name, tuple(train))


def _classes(folder, notes: list[str]) -> dict[str, list[pathlib.Path]]:
    """The image files of each class, both in the order of their names; what is left out joins the notes."""
    groups, others = {}, []
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            inside = sorted(entry.iterdir())
            groups[entry.name] = [file for file in inside if _is_image(file)]
            others += [file for file in inside if not _is_image(file)]
        elif _is_image(entry):  # beside the class folders, of which class?
            others.append(entry)
    for name in (folder.resolve().name, *groups):
        check_text(name, "the name of a folder of images")
    _note(others, folder, notes)
    if not groups:
        raise UserError(f"{folder} has no class folders: put the images in one folder a class")
    for name, files in groups.items():
        if not files:
            raise UserError(f"class folder {folder / name} has no image: add {', '.join(ENDINGS)} files or remove it")
    return groups


def _is_image(file: pathlib.Path) -> bool:
    return file.suffix.lower() in ENDINGS


def _note(others: list[pathlib.Path], folder: pathlib.Path, notes: list[str]) -> None:
    """What of a folder is not read, but for what is hidden."""
    if others := [entry for entry in others if entry.name[0] != "."]:
        count = f"{len(others)} files{' and folders' if any(entry.is_dir() for entry in others) else ''}"
        kinds = f"{', '.join(ENDINGS)} in class folders"
        notes.append(f"{count} of {folder} are left out, such as {others[0].name!r}: {kinds} are read")


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
                "make all images one size, or resize them with image_size=SIDE, such as image_size=32"
            )
    channels = 1 if all(grey for grey, _ in heads) else 3
    size = f"{len(files)} images of {shape[0]} x {shape[1]} pixels: resize them with a smaller image_size"
    check_memory(2 * len(files) * shape[0] * shape[1] * channels, size)  # and once more on the device
    images = np.empty((len(files), *shape, channels), np.uint8)
    for row, file in zip(images, files, strict=True):
        with opened(file) as image:
            row[...] = pixels_of(image, shape, channels)
    return images


def _head(file) -> tuple[bool, tuple[int, int]]:
    """Whether an image is grey, and its height and width."""
    with opened(file) as image:
        return image.mode in GREY, (image.height, image.width)
