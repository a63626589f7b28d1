"""Photos with boxes drawn into them, and images beside one another, as JPEG."""

import io
import os
from collections.abc import Sequence

import numpy as np

from jnas.files.images import opened

COLOURS = ("#E69F00", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442", "#000000")  # Okabe and Ito
_QUALITY = 82


def colour_of(name: str, class_names: Sequence[str]) -> str:
    """The colour of a class, `#rrggbb`, the same in every picture and chart; beyond eight classes they come again.

    >>> colour_of("cat", ("ape", "cat")) == COLOURS[1]
    True
    """
    return COLOURS[list(class_names).index(name) % len(COLOURS)]


def boxes_picture(
    photo: str | os.PathLike[str],
    boxes: np.ndarray,
    names: Sequence[str],
    scores: np.ndarray,
    *,
    class_names: Sequence[str],
    truth: np.ndarray | None = None,
) -> bytes:
    """Draw what was found in a photo.

    Args:
      photo: its file.
      boxes: `[n, 4]`: left, top, right, bottom in pixels of the photo.
      names: [n] the class of each.
      scores: [n] in [0, 1].
      class_names: all of them, which fixes the colours.
      truth: `[m, 4]` boxes of the annotation, drawn as thin white lines.

    Returns:
      A JPEG file of the size of the photo.
    """
    from PIL import ImageDraw, ImageFont

    with opened(photo) as image:
        picture = image.convert("RGB")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(10, picture.height // 40))
    width = max(2, round(picture.height / 240))
    for box in () if truth is None else truth:
        draw.rectangle([float(value) for value in box], outline="white", width=1)
    for box, name, score in zip(boxes, names, scores, strict=True):
        colour = colour_of(name, class_names)
        left, top, right, bottom = (float(value) for value in box)
        draw.rectangle([left, top, max(left, right), max(top, bottom)], outline=colour, width=width)
        words = f"{name} {score:.2f}"
        ground = draw.textbbox((left + width, top + width), words, font=font)
        draw.rectangle(ground, fill=colour)
        draw.text((left + width, top + width), words, fill=_ink(colour), font=font)
    return _jpeg(picture)


def row_picture(images: Sequence[np.ndarray], words: Sequence[str], *, side: int = 96) -> bytes:
    """Draw images beside one another, a word under each; the first stands apart.

    Args:
      images: each `[height, width, channels]` uint8, grey or colour.
      words: one an image.
      side: of the square that each is shown in, in pixels.

    Returns:
      A JPEG file.
    """
    from PIL import Image, ImageDraw, ImageFont

    gap, line = 6, 16
    picture = Image.new("RGB", (len(images) * (side + gap) + 2 * gap, side + line + 2 * gap), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=11)
    for index, (pixels, word) in enumerate(zip(images, words, strict=True)):
        left = gap + index * (side + gap) + (gap if index else 0)
        shown = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
        factor = side / max(shown.size)
        shown = shown.resize([max(1, round(length * factor)) for length in shown.size], resample=2)
        picture.paste(shown, (left, gap))
        draw.text((left, gap + side + 1), _shortened(word, draw, font, side), fill="#1f2328", font=font)
    return _jpeg(picture)


def _shortened(word: str, draw, font, room: int) -> str:
    while len(word) > 1 and draw.textlength(word, font=font) > room:
        word = word[:-2].rstrip("…") + "…"
    return word


def _ink(ground: str) -> str:
    red, green, blue = (int(ground[i : i + 2], 16) for i in (1, 3, 5))
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 128 else "white"


def _jpeg(picture) -> bytes:
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=_QUALITY)
    return content.getvalue()
