"""What a found network does on images: the part of a run's page about detection or recognition."""

from pathlib import Path
from typing import Any

import numpy as np

from jnas.errors import UserError
from jnas.files.reading import json_of
from jnas.report.pictures import colour_of
from jnas.report.plots import Chart, as_picture, axes_of, picture, to_svg
from jnas.report.tables import Table, as_html, escaped, number, warning

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
        return warning(f"{AT_WORK} could not be read and is left out: {error}.")
    parts = _detection(facts) if facts["task"] == "detection" else _recognition(facts)
    return "\n".join([*parts, _pictures(folder, facts["pictures"])])


def precision_recall_chart(curves: dict[str, dict[str, list[float]]]) -> Chart:
    """Draw how precision falls as more of a class is to be found.

    Args:
      curves: for each class `{"recall": [n], "precision": [n]}`, by rising recall.

    Returns:
      The chart.
    """
    title = "Precision and recall at overlap 0.5"
    with axes_of(3.9) as axes:
        for name, curve in curves.items():
            recall, precision = np.asarray(curve["recall"], float), np.asarray(curve["precision"], float)
            axes.plot(recall, precision, color=colour_of(name, list(curves)), label=name, linewidth=1.6)
        axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
        if curves:
            axes.legend(loc="lower left")
        reached = {name: max(curve["recall"], default=0.0) for name, curve in curves.items()}
        ends = "; ".join(f"{name} reaches recall {recall:.2f}" for name, recall in reached.items())
        return Chart(title, f"{title}, one curve a class. {ends}", to_svg(axes.figure))


def _detection(facts: dict[str, Any]) -> list[str]:
    rows = [*facts["measured"]["classes"].items(), ("mean over classes", facts["measured"])]
    columns = ("class", "boxes", "AP at .5, all points (VOC) [%]", "AP at .5 (COCO) [%]", "AP at .5 to .95 (COCO) [%]")
    keys = ("voc_ap50", "coco_ap50", "coco_ap")
    cells = tuple((name, str(row.get("boxes", "–")), *(number(row[key], 100, 1) for key in keys)) for name, row in rows)
    title = f"Average precision on {facts['photos']} {facts['measured_on']} photos"
    chart = precision_recall_chart(facts["curves"])
    note = [f'<p class="note">{escaped(str(facts["note"]))}.</p>'] if facts.get("note") else []
    return [as_html(Table(title, columns, cells)), *note, as_picture(chart)]


def _recognition(facts: dict[str, Any]) -> list[str]:
    measured = facts["measured"]
    rows = (
        ("nearest neighbour is of the class (recall at 1)", number(measured["recall_at_1"], 100, 1)),
        ("mean average precision at R", number(measured["map_at_r"], 100, 1)),
    )
    title = f"{facts['queries']:,} test images looked up among {facts['gallery']:,} training images"
    return [as_html(Table(title, ("measure", "[%]"), rows))]


def _pictures(folder: Path, pictures: list[dict[str, str]]) -> str:
    shown = []
    for name, caption in ((one["file"], one["caption"]) for one in pictures):
        content = _within(folder, name)
        if content is not None:
            shown.append(picture("image/jpeg", content, caption, caption))
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
