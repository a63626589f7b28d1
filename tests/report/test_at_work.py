"""The part of the page about detection and recognition, and pictures."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from jnas.report.at_work import at_work_section, precision_recall_chart
from jnas.report.pictures import COLOURS, boxes_picture, colour_of, row_picture

FIGURES = {"voc_ap50": 0.5, "coco_ap50": 0.25, "coco_ap": None}
DETECTION = {
    "task": "detection", "measured_on": "test", "photos": 2, "pictures": [{"file": "a.jpg", "caption": "<one>"}],
    "measured": {**FIGURES, "classes": {"disc": {**FIGURES, "boxes": 3}}},
    "curves": {"disc": {"recall": [0.5, 0.75], "precision": [1, 0.5]}},
}  # fmt: skip
RECOGNITION = {
    "task": "recognition", "queries": 2, "gallery": 3, "measured": {"recall_at_1": 0.5, "map_at_r": 0.25},
}  # fmt: skip


def pixels_of(content):
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_a_detection_run_shows_figures_curve_and_pictures(tmp_path):
    (tmp_path / "a.jpg").write_bytes(row_picture([np.zeros((4, 4, 1), np.uint8)], ["black"]))
    (tmp_path / "at_work.json").write_text(json.dumps(DETECTION))
    section = at_work_section(tmp_path)
    for text in ("50.0", "25.0", "–", "2 test photos", "&lt;one&gt;", "data:image/jpeg;base64,", "data:image/svg+xml"):
        assert text in section
    (tmp_path / "at_work.json").write_text(json.dumps(DETECTION | {"note": "3 of 4 boxes & more"}), encoding="utf-8")
    assert "3 of 4 boxes &amp; more." in at_work_section(tmp_path)
    assert "disc reaches recall 0.75" in precision_recall_chart(DETECTION["curves"]).alt


@pytest.mark.parametrize("content", ["{", "[]", '{"task": "detection"}'])
def test_a_damaged_file_is_said_and_no_file_is_nothing(tmp_path, content):
    assert at_work_section(tmp_path) == ""
    (tmp_path / "at_work.json").write_text(content)
    assert "could not be read" in at_work_section(tmp_path)


@pytest.mark.parametrize("name", ["/secret.jpg", "../secret.jpg", "link.jpg", "in/../../secret.jpg", "a\0b", "x" * 300])
def test_only_pictures_of_the_run_itself_go_into_the_page(tmp_path, name):
    run, secret = tmp_path / "run", tmp_path / "secret.jpg"
    (run / "in").mkdir(parents=True)
    secret.write_bytes(row_picture([np.zeros((4, 4, 1), np.uint8)], ["black"]))
    (run / "link.jpg").symlink_to(secret)
    (run / "own.jpg").write_bytes(secret.read_bytes())
    (run / "text.jpg").write_text("no picture", encoding="utf-8")
    names = (name.replace("/secret", str(secret)) if name.startswith("/") else name, "text.jpg", "in", "own.jpg")
    pictures = [{"file": file, "caption": f"picture {at}"} for at, file in enumerate(names)]
    (run / "at_work.json").write_text(json.dumps(RECOGNITION | {"pictures": pictures}), encoding="utf-8")
    section = at_work_section(run)
    assert section.count("data:image/jpeg") == 1
    assert "picture 3" in section


def test_boxes_are_drawn_where_they_are(tmp_path):
    Image.new("RGB", (240, 240)).save(tmp_path / "photo.png")
    box = np.array([[40.0, 60, 200, 220]])
    drawn = pixels_of(boxes_picture(tmp_path / "photo.png", box, ["cat"], np.array([0.9]), class_names=("ape", "cat")))
    colour = np.array([int(COLOURS[1][i : i + 2], 16) for i in (1, 3, 5)])
    assert colour_of("cat", ("ape", "cat")) == COLOURS[1]
    for row, column in ((140, 40), (140, 199), (61, 190), (219, 100)):
        assert np.abs(drawn[row, column] - colour).max() < 60  # JPEG
    assert drawn[140, 120].max() < 20  # inside, and outside
    assert drawn[20, 20].max() < 20


def test_images_in_a_row_keep_their_order():
    images = [np.full((8, 8, 1), 255, np.uint8), np.full((4, 8, 3), 128, np.uint8)]
    drawn = pixels_of(row_picture(images, ["white", "a word too long for its place, cut off"], side=32))
    assert drawn[20, 20].min() > 240
    assert np.abs(drawn[12, 66] - 128).max() < 12
