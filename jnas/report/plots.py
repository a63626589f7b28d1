"""Line charts as SVG text, drawn with matplotlib's figure objects and without pyplot, and one fixed style an operator.

A colour means the same in every drawing and every curve. The colours are those of Okabe and Ito, which readers with any
common colour blindness can tell apart; yellow is left out because it cannot be read on white. Colour stands for the
kind of operator and dashes for its kernel size.
"""

import base64
import contextlib
import html
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np


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
_DASHES_OF_OTHERS = ((), (8, 2), (3, 2), (8, 2, 2, 2), (3, 1, 1, 1))
_DASHES = (("1x1", (1, 2)), ("5x5", (5, 2)), ("7x7", (5, 2, 1, 2)))


def style(op: str) -> Style:
    """Return the kind, the colour and the dashes of an operator.

    Use it wherever an operator is drawn; an operator with an unknown name is black, with dashes by its name.

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
    dash = next((dash for size, dash in _DASHES if op.endswith(size)), None)
    if dash is None:
        dash = _DASHES_OF_OTHERS[zlib.crc32(op.encode()) % len(_DASHES_OF_OTHERS)] if kind == "other" else ()
    return Style(kind, colour, dash)


FIRST, SECOND = "#0072B2", "#D55E00"
COLOURS = (FIRST, SECOND, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # of what is compared, in turn
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "jnas",  # the same run gives the same file
    "svg.fonttype": "path",  # the same look on every machine
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e6e9ec",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


class Line(NamedTuple):
    """One curve."""

    label: str  # empty: not in the legend
    x: np.ndarray  # [n]
    y: np.ndarray  # [n]
    colour: str = FIRST
    width: float = 1.6
    dash: tuple[float, ...] = ()  # lengths in line widths, on and off in turn; empty: solid


class Chart(NamedTuple):
    """A picture and the sentence that says what it shows to those who cannot see it."""

    title: str
    alt: str
    svg: str


@contextlib.contextmanager
def axes_of(height: float = 3.3, *, width: float = 5.6, grid: bool = True) -> Iterator[Any]:
    """The axes of a new figure, so many inches high and wide, in the style of the page; save it inside the block."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "axes.grid": grid}):
        yield Figure(figsize=(width, height), layout="constrained").subplots()


def draw_matrix(axes: Any, values: np.ndarray, most: float, digits: int, **look: Any) -> Any:
    """Draw a table of numbers from -most to most as coloured fields with the numbers in them, and return the image."""
    image = axes.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, **look)
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if abs(value) > 0.6 * most else INK
        axes.text(column, row, f"{value:.{digits}f}", ha="center", va="center", fontsize=7, color=colour)
    return image


def picture(kind: str, content: bytes, alt: str, caption: str = "") -> str:
    """A picture as HTML, such as one of kind "image/jpeg"; it cannot clash with ids of others, nor fetch anything."""
    words = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return f'<figure><img alt="{html.escape(alt)}" src="{source}">{words}</figure>'


def as_picture(chart: Chart) -> str:
    """A chart as HTML."""
    return picture("image/svg+xml", chart.svg.encode(), chart.alt)


def figures(charts: Sequence[Chart | None]) -> str:
    """Those charts that there are side by side, as HTML."""
    pictures = "".join(as_picture(chart) for chart in charts if chart is not None)
    return f'<div class="grid">{pictures}</div>' if pictures else ""


def thinned(x: np.ndarray, y: np.ndarray, max_points: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Average a long curve over windows of equal length, so that it can be drawn.

    Args:
      x: [n] positions.
      y: [n] values; a window with a value that is not finite becomes NaN, a gap in the curve: nothing is hidden.
      max_points: most points to return.

    Returns:
      `(x, y, window)`: means over windows of `window` points (fewer in the last); the curve itself when window is 1.

    >>> thinned(np.arange(4.0), np.array([1.0, 3.0, 5.0, 7.0]), 2)
    (array([0.5, 2.5]), array([2., 6.]), 2)
    """
    window = max(1, -(-len(x) // max_points))
    if window == 1:
        return x, np.where(np.isfinite(y), y, np.nan), 1
    starts = np.arange(0, len(x), window)
    counts = np.diff(np.append(starts, len(x)))
    y = np.where(np.isfinite(y), y, np.nan)
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts, window


def line_chart(lines: Sequence[Line], *, title: str, xlabel: str, ylabel: str, log=False, max_points=400) -> Chart:
    """Draw curves over one axis.

    Args:
      lines: the curves; those without points are left out.
      title: what is shown.
      xlabel: what the horizontal axis counts.
      ylabel: what the vertical axis measures, with its unit.
      log: whether the vertical axis is logarithmic (when every value that is drawn is positive).
      max_points: longer curves are averaged over windows, and their label says over how many points.

    Returns:
      The chart.
    """
    lines = [line for line in lines if len(line.x)]
    with axes_of() as axes:
        smallest, labelled = np.inf, False  # the title already names a single curve
        for line in lines:
            x, y, window = thinned(line.x, line.y, max_points)
            note = f"means of {window} points" if window > 1 else ""
            label = f"{line.label} ({note})" if line.label and note else line.label or note or "_"
            mark = "o" if len(x) < 30 else None
            dash = (0, line.dash) if line.dash else "-"
            axes.plot(
                x, y, color=line.colour, linestyle=dash, linewidth=line.width, label=label, marker=mark,
                markersize=1.8 * line.width,
            )  # fmt: skip
            labelled |= label != "_" and not (label == line.label and len(lines) == 1)
            smallest = min([smallest, *y[np.isfinite(y)]])
        if log and 0 < smallest < np.inf:
            axes.set_yscale("log")
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axes.locator_params(axis="x", integer=True)  # steps and epochs
        if labelled:
            axes.legend(loc="best")
        ends = [f"{line.label} ends at {line.y[-1]:.4g}" for line in lines if line.label]
        return Chart(title, f"{title}, against {xlabel}. " + "; ".join(ends), to_svg(axes.figure))


def to_svg(figure) -> str:
    """Return the `<svg>` element of a figure alone: no prologue, no metadata, nothing that names another machine.

    Args:
      figure: a `matplotlib.figure.Figure`, drawn inside `matplotlib.rc_context(STYLE)`.

    Returns:
      The text of the element.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    # A hundredth of a point cannot be seen, and half of the text would be further digits of coordinates.
    return re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text[text.index("<svg") :])
