"""Photos with boxes: one shape of images, rows of boxes filled up to one length, and the scale that leads back."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jnas.data.arrays import Dataset
from jnas.data.detection.annotations import Photo
from jnas.data.detection.coco import read_coco
from jnas.data.detection.photos import fit_photo
from jnas.data.detection.voc import read_voc
from jnas.data.memory import check_memory
from jnas.errors import UserError
from jnas.files.text import check_text, shortened

MOST_BOXES, LONGEST = 5000, 200  # boxes in a photo, characters of a class's name
PARTS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class DetectionDataset:
    """Photos of one shape and the boxes in them, on the host.

    A photo keeps its proportions: it is scaled to fit and lies in the upper left corner, the rest is black. Boxes are
    `(left, top, right, bottom)` in pixels of the scaled image, its upper left corner being (0, 0).

    Args:
        images: `[num_photos, height * width * channels]` uint8, flat as in `Dataset`.
        boxes: `[num_photos, most_boxes, 4]` float32; rows without a box are 0.
        labels: `[num_photos, most_boxes]` int32, from 0; -1: no box.
        ignored: `[num_photos, most_boxes]` bool: marked difficult, or standing for a crowd. They count neither as found
            nor as missed.
        scales: `[num_photos]` float32, scaled pixels a pixel of the photo.
        shape: `(height, width, channels)` of the images.
        class_names: of the labels.
        files: of the photos.
        dropped: boxes that the files have and this has not, for they hold no pixel.
        name: what reports call the data.
    """

    images: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    scales: np.ndarray
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    files: tuple[str, ...]
    dropped: int = 0
    name: str = "data"

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def __len__(self):
        return len(self.images)

    def __repr__(self):
        return (
            f"DetectionDataset(name={self.name!r}, num_photos={len(self)}, num_boxes={int((self.labels >= 0).sum())}, "
            f"dropped={self.dropped}, shape={self.shape}, class_names={self.class_names})"
        )

    def as_images(self) -> Dataset:
        """The photos without their boxes, for `normalisation`."""
        return Dataset(self.images, np.zeros(len(self), np.int32), self.shape, 1, self.name)

    def part(self, index: np.ndarray) -> "DetectionDataset":
        """Some of the photos, in the order of `index` [num_chosen]."""
        chosen = {name: getattr(self, name)[index] for name in ("images", "boxes", "labels", "ignored", "scales")}
        return dataclasses.replace(self, files=tuple(self.files[i] for i in index), **chosen)


class DetectionSplits(NamedTuple):
    """The parts of a detection data set. Choices are made on `validation`; the test photos choose nothing."""

    train: DetectionDataset
    validation: DetectionDataset | None  # None: the folder names none
    test: DetectionDataset


def load_detection(folder: str | pathlib.Path, size: tuple[int, int]) -> DetectionSplits:
    """Reads photos with boxes out of the user's folder, as Pascal VOC or COCO lay them out. Nothing is downloaded.

    ======  ==========================================================================================================
    VOC     `Annotations/*.xml`, `JPEGImages/*`, and the lists `ImageSets/Main/{train,val,trainval,test}.txt`; the
            folder itself or one below it. Without lists every fifth photo, in the order of their names, is a test photo
    COCO    `annotations/instances_{train,val,test}*.json` beside folders of photos, or `{train,valid,test}/` each with
            `_annotations.coco.json` and its photos
    ======  ==========================================================================================================

    Without test photos those of the validation part are the test photos. Boxes are clipped to the photo; those that
    hold no pixel are left out and counted.

    Args:
        folder: of the user.
        size: (height, width) in pixels into which every photo is fitted.

    Returns:
        The parts.

    Raises:
        UserError: The folder holds neither layout, or a file in it cannot be used; the sentence names it.

    Reference: Everingham et al., "The Pascal visual object classes challenge", IJCV 2010; Lin et al., "Microsoft COCO",
    ECCV 2014.
    """
    if not (len(size) == 2 and all(side >= 1 for side in size)):
        raise UserError(f"size {size} of the photos: give (height, width) in pixels, each at least 1")
    path = pathlib.Path(os.path.expanduser(folder))
    if not os.path.isdir(path):
        raise UserError(
            f"{shortened(str(folder))} is not a folder: name one with photos and boxes in the layout of VOC or COCO"
        )
    found = read_voc(path) or read_coco(path)
    if found is None:
        raise UserError(
            f"{folder} holds neither Annotations and JPEGImages (VOC) nor annotations/instances_*.json (COCO): name a "
            "folder that does"
        )
    names, parts = found
    parts = {part: photos for part, photos in parts.items() if photos}
    if "test" not in parts and "val" in parts:
        parts["test"] = parts.pop("val")
    for part in ("train", "test"):
        if part not in parts:
            raise UserError(f"{folder} lists no {part} photos: add them to its list of that name")
    part_of: dict[pathlib.Path, str] = {}
    for part, photos in parts.items():
        for photo in photos:
            other = part_of.setdefault(pathlib.Path(photo.file).resolve(), part)
            if other != part:
                raise UserError(f"{photo.file} is both a {other} and a {part} photo: take it out of one list")
    most, crowded = max((len(photo.boxes), photo.file) for photos in parts.values() for photo in photos)
    if most > MOST_BOXES:
        raise UserError(f"{crowded} has {most:,} boxes: leave at most {MOST_BOXES:,} in it")
    for name in names:
        check_text(name, f"the name of a class in {folder}")
        if len(name) > LONGEST:
            raise UserError(f"a class in {folder} has the name {shortened(name)!r}: give {LONGEST} characters at most")
    count = sum(map(len, parts.values()))
    what = f"{count:,} photos of {size[0]} x {size[1]} pixels: give a smaller height and width"
    check_memory(2 * count * (3 * size[0] * size[1] + 21 * most), what)  # and once more on the device
    read = {part: _dataset(photos, names, size, max(most, 1), path.resolve().name) for part, photos in parts.items()}
    return DetectionSplits(read["train"], read.get("val"), read["test"])


def joined(first: DetectionDataset, second: DetectionDataset) -> DetectionDataset:
    """Two parts of one data set as one."""
    names = ("images", "boxes", "labels", "ignored", "scales")
    both = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in names}
    return dataclasses.replace(
        first, files=(*first.files, *second.files), dropped=first.dropped + second.dropped, **both
    )


def _dataset(photos: Sequence[Photo], names, size, most: int, name: str) -> DetectionDataset:
    images = np.empty((len(photos), size[0] * size[1] * 3), np.uint8)
    boxes, scales = np.zeros((len(photos), most, 4), np.float32), np.empty(len(photos), np.float32)
    labels, ignored = np.full((len(photos), most), -1, np.int32), np.zeros((len(photos), most), bool)
    dropped = 0
    for row, photo in enumerate(photos):
        frame, scale = fit_photo(photo.file, size)
        images[row], scales[row] = frame.ravel(), scale
        kept = 0
        for box in photo.boxes:
            # The photo's own size decides, for what annotations say of it is often wrong.
            left, top, right, bottom = (
                min(max(scale * value, 0.0), photo_side)
                for value, photo_side in zip(box.corners, _extent(photo, scale, size), strict=True)
            )
            if box.degenerate or right <= left or bottom <= top:
                dropped += 1
                continue
            boxes[row, kept], labels[row, kept] = (left, top, right, bottom), names.index(box.name)
            ignored[row, kept] = box.ignored
            kept += 1
    return DetectionDataset(
        images, boxes, labels, ignored, scales, (*size, 3), tuple(names), tuple(str(p.file) for p in photos), dropped,
        name,
    )  # fmt: skip


def _extent(photo: Photo, scale: float, size: tuple[int, int]) -> tuple[float, float, float, float]:
    height, width = (min(scale * n, m) for n, m in zip(photo.size, size, strict=True))
    return width, height, width, height
