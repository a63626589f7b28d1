"""What a found network does on images: the part of a run's page about detection or recognition."""

import base64
from pathlib import Path
from typing import Any

import numpy as np

from jnas.errors import UserError
from jnas.files.reading import json_of
from jnas.report.pictures import colour_of
from jnas.report.plots import STYLE, Chart, to_svg
from jnas.report.summary import escaped
from jnas.report.tables import Table, as_html

AT_WORK = "at_work.json"  # in the run folder
LARGEST = 2**24  # bytes of a picture


def at_work_section(folder: Path) -> str:
    """The part of the page, from what a recipe wrote to `at_work.json`.

    Args:
      folder: of the run.

    Returns:
      HTML; empty where the run has no such file.
    """
    path = folder / AT_WORK
    if not path.exists():
        return ""
    try:
        facts = json_of(path)
    except UserError as error:
        return f'<p class="note warn">{AT_WORK} could not be read and is left out: {escaped(error)}.</p>'
    parts = _detection(facts) if facts["task"] == "detection" else _recognition(facts)
    return "\n".join([*parts, _pictures(folder, facts["pictures"])])


def precision_recall_chart(curves: dict[str, dict[str, list[float]]]) -> Chart:
    """Draw how precision falls as more of a class is to be found.

    Args:
      curves: for each class `{"recall": [n], "precision": [n]}`, by rising recall.

    Returns:
      The chart.
    """
    import matplotlib
    from matplotlib.figure import Figure

    title = "Precision and recall at overlap 0.5"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.9), layout="constrained")
        axes = figure.subplots()
        for name, curve in curves.items():
            recall, precision = np.asarray(curve["recall"], float), np.asarray(curve["precision"], float)
            axes.plot(recall, precision, color=colour_of(name, list(curves)), label=name, linewidth=1.6)
        axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
        if curves:
            axes.legend(loc="lower left")
        reached = {name: max(curve["recall"], default=0.0) for name, curve in curves.items()}
        ends = "; ".join(f"{name} reaches recall {recall:.2f}" for name, recall in reached.items())
        return Chart(title, f"{title}, one curve a class. {ends}", to_svg(figure))


def _detection(facts: dict[str, Any]) -> list[str]:
    rows = [*facts["measured"]["classes"].items(), ("mean over classes", facts["measured"])]
    columns = ("class", "boxes", "AP at .5, all points (VOC) [%]", "AP at .5 (COCO) [%]", "AP at .5 to .95 (COCO) [%]")
    keys = ("voc_ap50", "coco_ap50", "coco_ap")
    cells = tuple((name, str(row.get("boxes", "–")), *(_percent(row[key]) for key in keys)) for name, row in rows)
    title = f"Average precision on {facts['photos']} {facts['measured_on']} photos"
    chart = precision_recall_chart(facts["curves"])
    note = [f'<p class="note">{escaped(str(facts["note"]))}.</p>'] if facts.get("note") else []
    return [as_html(Table(title, columns, cells)), *note, _figure("image/svg+xml", chart.svg.encode(), chart.alt)]


def _recognition(facts: dict[str, Any]) -> list[str]:
    measured = facts["measured"]
    rows = (
        ("nearest neighbour is of the class (recall at 1)", _percent(measured["recall_at_1"])),
        ("mean average precision at R", _percent(measured["map_at_r"])),
    )
    title = f"{facts['queries']:,} test images looked up among {facts['gallery']:,} training images"
    return [as_html(Table(title, ("measure", "[%]"), rows))]


def _pictures(folder: Path, pictures: list[dict[str, str]]) -> str:
    shown = []
    for name, caption in ((picture["file"], picture["caption"]) for picture in pictures):
        content = _within(folder, name)
        if content is not None:
            shown.append(_figure("image/jpeg", content, caption, caption))
    return f'<div class="grid">{"".join(shown)}</div>' if shown else ""


def _within(folder: Path, name: str) -> bytes | None:
    """A JPEG of the run itself: a page that is mailed must not carry another file of this machine away."""
    try:
        path = (folder / name).resolve()
        inside = path.is_relative_to(folder.resolve()) and not {"..", "/"} & set(Path(name).parts) and path.is_file()
        if not inside or path.stat().st_size > LARGEST:
            return None
        content = path.read_bytes()
    except (OSError, ValueError):  # a name too long, or with a null character
        return None
    return content if content.startswith(b"\xff\xd8\xff") else None


def _figure(kind: str, content: bytes, alt: str, caption: str = "") -> str:
    words = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return f'<figure><img alt="{escaped(alt)}" src="{source}">{words}</figure>'


def _percent(value: float | None) -> str:
    return f"{100 * value:.1f}" if value is not None and np.isfinite(value) else "–"
