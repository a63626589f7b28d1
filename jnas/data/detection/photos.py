"""Image files of the user as arrays of the shape that a network reads."""

import os

import numpy as np

from jnas.files.images import opened, pixels_of


def photo_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of a photo in pixels, read off its head.

    Args:
        path: of the photo.

    Returns:
        Both.

    Raises:
        UserError: The photo cannot be read.
    """
    with opened(path) as image:
        return image.height, image.width


def fit_photo(path: str | os.PathLike[str], size: tuple[int, int], channels: int = 3) -> tuple[np.ndarray, float]:
    """Reads a photo and scales it into a frame, its proportions kept.

    Args:
        path: of the photo.
        size: (height, width) of the frame in pixels.
        channels: 1 for grey, 3 for colour.

    Returns:
        `[height, width, channels]` uint8, the photo in the upper left corner and black beside it; and the scale, frame
        pixels a pixel of the photo.

    Raises:
        UserError: The photo cannot be read.
    """
    frame = np.zeros((*size, channels), np.uint8)
    with opened(path) as image:
        scale = min(size[0] / image.height, size[1] / image.width)
        sides = (max(1, min(round(scale * n), m)) for n, m in zip((image.height, image.width), size, strict=True))
        height, width = sides
        frame[:height, :width] = pixels_of(image, (height, width), channels)
    return frame, scale


def read_image(path: str | os.PathLike[str], shape: tuple[int, int, int]) -> np.ndarray:
    """Reads an image and stretches it to a shape, as the images of a data set in a folder are.

    Args:
        path: of the image.
        shape: `(height, width, channels)`, one channel for grey or three for colour.

    Returns:
        `shape` uint8.

    Raises:
        UserError: The image cannot be read.
    """
    with opened(path) as image:
        return pixels_of(image, shape[:2], shape[2])
