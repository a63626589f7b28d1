"""What the readers of annotated photos share: a photo and its boxes as its file says them."""

import pathlib
from typing import NamedTuple


class Box(NamedTuple):
    """One annotated object."""

    name: str  # of its class
    corners: tuple[float, float, float, float]  # left, top, right, bottom in pixels; the photo's corner is (0, 0)
    ignored: bool = False  # difficult, or a crowd
    degenerate: bool = False  # as the file writes it, without any width or height


class Photo(NamedTuple):
    """A photo and its boxes, before anything is scaled."""

    file: pathlib.Path
    size: tuple[int, int]  # height and width in pixels, of the photo itself
    boxes: tuple[Box, ...]


Parts = dict[str, list[Photo]]  # by "train", "val", "test"
