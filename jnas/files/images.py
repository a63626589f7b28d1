"""The one way in which image files of the user are opened: upright, eight bits a channel, of a few formats."""

import contextlib
import errno
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from jnas.errors import UserError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")  # and no other whatever a file's name says: some run programs
NOTES = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}  # that may say how an image is turned
GREY = ("1", "L", "LA")
COLOUR = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr")


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """An image as it is meant to be seen.

    A camera that was held sideways writes so into the file, and the image is turned; grey values of 16 bits are divided
    by 257, so that the lightest stays the lightest.

    Args:
        path: of a PNG, JPEG, WebP, BMP or GIF file.

    Yields:
        A Pillow image of a mode in `GREY` or `COLOUR`.

    Raises:
        UserError: The file cannot be read, also within the block, or its pixels are of another kind.
    """
    from PIL import Image, ImageOps  # here: the command line must answer --help without it

    file = pathlib.Path(path)
    broken = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        if not file.is_file():  # a pipe would keep us waiting
            raise FileNotFoundError(errno.ENOENT, "it is no file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a note that is damaged
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                if image.format == "PNG":  # whose notes may stand behind the pixels
                    image.load()
                # Without such a note it would copy the pixels, also for those who only ask for the size.
                turned = ImageOps.exif_transpose(image) if NOTES & image.info.keys() else image
                yield turned if turned.mode in GREY + COLOUR else _eight_bits(file, turned)
    except UserError:
        raise
    except broken as error:  # SyntaxError: a broken PNG
        bomb = isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning)
        why = (
            "it is too large"
            if bomb
            else getattr(error, "strerror", None) or f"it is damaged or no {', '.join(FORMATS)}"
        )
        raise UserError(f"image {path} cannot be read ({why}): replace it or remove it") from error


def _eight_bits(file: pathlib.Path, image: Any) -> Any:
    from PIL import Image

    values = np.asarray(image) if image.mode.startswith("I") else None
    if values is None or values.min() < 0 or values.max() > 65535:
        raise UserError(f"image {file} has pixels of kind {image.mode}: save it with 8 bits a channel")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def pixels_of(image: Any, size: tuple[int, int], channels: int) -> np.ndarray:
    """The pixels of an open image, stretched to `size` (height, width) by bilinear interpolation.

    Args:
        image: from `opened`.
        size: in pixels.
        channels: 1 for grey, 3 for colour.

    Returns:
        `[height, width, channels]` uint8; transparency is dropped.
    """
    if channels not in (1, 3):
        raise UserError(f"an image file has 1 or 3 channels and {channels} are asked for: give such images as .npz")
    image = image.convert("L" if channels == 1 else "RGB")
    if (image.height, image.width) != size:
        image = image.resize((size[1], size[0]), resample=2)  # 2: bilinear
    return np.asarray(image).reshape(*size, channels)
