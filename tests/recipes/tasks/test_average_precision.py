"""Average precision by hand, and against figures of pycocotools."""

import json
import pathlib

import numpy as np
import pytest

from jnas.recipes.tasks.average_precision import (
    Detections,
    Truth,
    average_precision,
    coco_average,
    coco_curve,
    voc_average,
    voc_curve,
)
from jnas.recipes.tasks.retrieval import retrieval

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "coco_average_precision.json"
A, B, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (50, 50, 60, 60)


def truth(*boxes, ignored=()):
    return Truth(
        np.array(boxes, float).reshape(-1, 4), np.zeros(len(boxes), int), np.isin(np.arange(len(boxes)), ignored)
    )


def detections(*rows):
    return Detections(
        np.array([row[0] for row in rows], float).reshape(-1, 4), np.array([row[1] for row in rows], float),
        np.zeros(len(rows), int),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("there", "found", "voc", "coco"),
    [
        # everything found
        ([truth(A, B)], [detections((A, 0.9), (B, 0.8))], 1, 1),
        # one of two, and then a false alarm, which costs nothing
        ([truth(A, B)], [detections((A, 0.9), (FAR, 0.8))], 0.5, 51 / 101),
        # the false alarm comes first: precision 1/2 up to recall 1/2
        ([truth(A, B)], [detections((FAR, 0.9), (A, 0.8))], 0.25, 0.5 * 51 / 101),
        # hit, miss, hit: precision 1 up to 1/2 and then 2/3
        ([truth(A, B)], [detections((A, 0.9), (FAR, 0.8), (B, 0.7))], 0.5 + 0.5 * 2 / 3, (51 + 50 * 2 / 3) / 101),
        # a double is a false alarm: hit, miss, hit again
        ([truth(A, B)], [detections((A, 0.9), (A, 0.8), (B, 0.7))], 0.5 + 0.5 * 2 / 3, (51 + 50 * 2 / 3) / 101),
        # an ignored box is neither to be found nor a false alarm
        ([truth(A, B, ignored=(0,))], [detections((A, 0.9), (B, 0.8))], 1, 1),
        # scores are compared over all images
        ([truth(A), truth(B)], [detections((FAR, 0.5), (A, 0.4)), detections((B, 0.6))], 0.5 + 0.5 * 2 / 3,
         (51 + 50 * 2 / 3) / 101),
        # overlap of exactly one half counts
        ([truth(A)], [detections(((0, 0, 10, 5), 0.9))], 1, 1),
        ([truth(A)], [detections(((0, 0, 10, 4.9), 0.9))], 0, 0),
        ([truth(A)], [detections()], 0, 0),
    ],
)  # fmt: skip
def test_by_hand(there, found, voc, coco):
    assert voc_average(voc_curve(there, found, 0)) == pytest.approx(voc)
    assert coco_average(coco_curve(there, found, 0)) == pytest.approx(coco)


def test_a_double_close_to_a_taken_box_is_forgiven_by_coco_alone():
    # Both detections overlap the first box most; the second one also reaches the second box.
    near = (0, 0, 10, 10), (0, 4, 10, 14)
    found = [detections(((0, 0, 10, 10), 0.9), ((0, 1, 10, 11), 0.8))]
    assert voc_average(voc_curve([truth(*near)], found, 0)) == 0.5
    assert coco_average(coco_curve([truth(*near)], found, 0)) == 1


def test_a_class_that_is_nowhere_has_no_average():
    measured = average_precision([truth(A)], [detections((A, 0.9))], ("cell", "ghost"))
    assert (measured["voc_ap50"], measured["coco_ap"]) == (1, 1)
    assert measured["classes"]["ghost"] == {"voc_ap50": None, "coco_ap50": None, "coco_ap": None, "boxes": 0}
    with pytest.raises(ValueError, match="1 images with boxes and 0 with detections"):
        average_precision([truth(A)], [], ("cell",))


def test_as_pycocotools():
    golden = json.loads(GOLDEN.read_text())
    boxes = lambda rows: np.array(rows, float).reshape(-1, 4)
    there = [
        Truth(boxes(i["boxes"]), np.array(i["label"], int), np.array(i["ignored"], bool)) for i in golden["images"]
    ]
    found = [
        Detections(boxes(i["found"]), np.array(i["score"], float), np.array(i["found_label"], int))
        for i in golden["images"]
    ]
    measured = average_precision(there, found, ("a", "b"))
    assert measured["coco_ap"] == pytest.approx(golden["ap"], abs=1e-12)
    assert measured["coco_ap50"] == pytest.approx(golden["ap50"], abs=1e-12)
    for name, ap, ap50 in zip("ab", golden["per_class"], golden["per_class50"], strict=True):
        assert measured["classes"][name]["coco_ap"] == pytest.approx(ap, abs=1e-12)
        assert measured["classes"][name]["coco_ap50"] == pytest.approx(ap50, abs=1e-12)


def test_retrieval_is_that_of_plain_loops():
    rng = np.random.default_rng(0)
    on_sphere = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    labels, gallery_labels = rng.integers(0, 4, 13), rng.integers(0, 3, 30)  # class 3 is not in the gallery
    queries = on_sphere(rng.normal(size=(13, 4)) + np.eye(4)[labels])
    gallery = on_sphere(rng.normal(size=(30, 4)) + np.eye(4)[gallery_labels])
    first, average = [], []
    for query, label in zip(queries, labels, strict=True):
        number = int((gallery_labels == label).sum())
        if not number:
            continue
        order = np.argsort([-float(query @ other) for other in gallery])
        hits = [gallery_labels[i] == label for i in order[:number]]
        first.append(hits[0])
        average.append(sum(np.mean(hits[: i + 1]) for i in range(number) if hits[i]) / number)
    measured = retrieval(queries, labels, gallery, gallery_labels, block=5)
    assert measured["queries"] == len(first) < 13
    assert measured["recall_at_1"] == pytest.approx(np.mean(first))
    assert measured["map_at_r"] == pytest.approx(np.mean(average))
    assert 0 < measured["map_at_r"] < 1
    with pytest.raises(ValueError, match="none of 13 queries"):
        retrieval(queries, labels + 9, gallery, gallery_labels)
