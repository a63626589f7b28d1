"""One fixed style an operator, so that a colour means the same in every drawing and every curve.

The colours are those of Okabe and Ito, which readers with any common colour blindness can tell apart; yellow is left
out because it cannot be read on white. Colour stands for the kind of operator and dashes for its kernel size.
"""

from typing import NamedTuple


class Style(NamedTuple):
    """How an operator is drawn."""

    kind: str  # what the colour stands for
    colour: str  # #rrggbb
    dash: tuple[int, ...]  # lengths in points, on and off in turn; empty: a solid line


INK = "#1f2328"  # text and the frames of states
QUIET = "#8a929b"  # lines that carry no operator

_KINDS = (
    ("none", "zero", "#6E6E6E"),
    ("skip", "identity", "#009E73"),
    ("sep_conv", "separable convolution", "#0072B2"),
    ("dil_conv", "dilated convolution", "#D55E00"),
    ("nor_conv", "convolution", "#56B4E9"),
    ("conv", "convolution", "#56B4E9"),
    ("max_pool", "max pooling", "#CC79A7"),
    ("avg_pool", "average pooling", "#E69F00"),
)
_OTHER = ("other", "#000000")
_DASHES = (("1x1", (1, 2)), ("5x5", (5, 2)), ("7x7", (5, 2, 1, 2)))


def style(op: str) -> Style:
    """Return the kind, the colour and the dashes of an operator.

    Use it wherever an operator is drawn; an operator with an unknown name is black.

    Args:
      op: name of the operator, such as `"sep_conv_3x3"`.

    Returns:
      The style; the same for the same name, always.

    >>> style("sep_conv_3x3").colour == style("sep_conv_5x5").colour
    True
    >>> style("sep_conv_5x5").dash
    (5, 2)
    >>> style("lstm").kind
    'other'

    Reference: M. Okabe and K. Ito, "Color Universal Design", 2008.
    """
    kind, colour = next(((kind, colour) for prefix, kind, colour in _KINDS if op.startswith(prefix)), _OTHER)
    dash = next((dash for size, dash in _DASHES if op.endswith(size)), ())
    return Style(kind, colour, dash)
