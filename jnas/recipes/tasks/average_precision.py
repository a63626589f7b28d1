"""Average precision of detections as the standard tools compute it: Pascal VOC's over all points, and COCO's."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

COCO_OVERLAPS = tuple(np.linspace(0.5, 0.95, 10).tolist())
COCO_RECALLS = np.linspace(0.0, 1.0, 101)
COCO_MOST = 100  # detections of a class that COCO looks at in an image


class Truth(NamedTuple):
    """The boxes that one image has."""

    boxes: np.ndarray  # [num_boxes, 4] float: left, top, right, bottom
    label: np.ndarray  # [num_boxes] int
    ignored: np.ndarray  # [num_boxes] bool: difficult for VOC, a crowd for COCO


class Detections(NamedTuple):
    """The boxes that were found in one image, in any order."""

    boxes: np.ndarray  # [num_found, 4] float
    score: np.ndarray  # [num_found] float
    label: np.ndarray  # [num_found] int


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """How precision falls as more is to be found, for one class and one overlap."""

    recall: np.ndarray  # [num_counted] float, after each counted detection, the surest first
    precision: np.ndarray  # [num_counted] float
    score: np.ndarray  # [num_counted] float
    num_boxes: int  # that could be found


def overlaps(found: np.ndarray, there: np.ndarray, crowd: np.ndarray | None = None) -> np.ndarray:
    """Intersection over union of every pair.

    Args:
      found: `[n, 4]`.
      there: `[m, 4]`.
      crowd: `[m]` bool: for these the area of the found box alone stands below the line, as COCO has it.

    Returns:
      `[n, m]` in [0, 1].

    >>> overlaps(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2]])).round(4)
    array([[0.3333]])
    """
    found, there = found.astype(np.float64)[:, None], there.astype(np.float64)[None]
    sides = np.minimum(found[..., 2:], there[..., 2:]) - np.maximum(found[..., :2], there[..., :2])
    shared = np.prod(np.maximum(sides, 0.0), -1)
    own, other = (np.prod(boxes[..., 2:] - boxes[..., :2], -1) for boxes in (found, there))
    whole = own + other - shared
    if crowd is not None:
        whole = np.where(crowd[None], own, whole)
    return shared / np.maximum(whole, 1e-12)


def voc_curve(truths: Sequence[Truth], found: Sequence[Detections], label: int, *, overlap: float = 0.5) -> Curve:
    """Precision against recall of one class as Pascal VOC's development kit counts.

    Detections are visited by falling score over all images. Each looks at the box of its class that it overlaps most,
    taken or not: a difficult one does not count, a free one is found, one already taken makes it a false alarm.

    Args:
      truths: one an image.
      found: one an image.
      label: of the class.
      overlap: least intersection over union of a find.

    Returns:
      The curve.
    """
    rows, number = [], 0
    for truth, detections in zip(truths, found, strict=True):
        there, seen, score = _of_class(truth, detections, label)
        ignored = truth.ignored[truth.label == label]
        number += int((~ignored).sum())
        pairs, taken = overlaps(seen, there), np.zeros(len(there), bool)
        for row, value in enumerate(score):
            best = int(pairs[row].argmax()) if len(there) else -1
            if best < 0 or pairs[row, best] < overlap:
                rows.append((value, False))
            elif not ignored[best]:
                rows.append((value, not taken[best]))
                taken[best] = True
    return _curve(rows, number)


def coco_curve(truths: Sequence[Truth], found: Sequence[Detections], label: int, *, overlap: float = 0.5) -> Curve:
    """Precision against recall of one class as COCO's tools count.

    In each image the 100 surest detections of the class are visited by falling score, each takes the free box that it
    overlaps most. What takes a crowd, which never fills up, does not count.

    Args:
      truths: one an image.
      found: one an image.
      label: of the class.
      overlap: least intersection over union of a find.

    Returns:
      The curve.
    """
    rows, number = [], 0
    least = min(overlap, 1 - 1e-10)
    for truth, detections in zip(truths, found, strict=True):
        there, seen, score = _of_class(truth, detections, label)
        crowd = truth.ignored[truth.label == label]
        order = np.argsort(crowd, kind="stable")  # boxes that count come first
        there, crowd = there[order], crowd[order]
        number += int((~crowd).sum())
        pairs, taken = overlaps(seen, there, crowd), np.zeros(len(there), bool)
        for row, value in enumerate(score[:COCO_MOST]):
            best, reached = -1, least
            for column in range(len(there)):
                if taken[column] and not crowd[column]:
                    continue
                if best >= 0 and not crowd[best] and crowd[column]:
                    break  # a box that counts is better than any crowd
                if pairs[row, column] >= reached:
                    best, reached = column, pairs[row, column]
            if best >= 0:
                taken[best] = True
            if best < 0 or not crowd[best]:
                rows.append((value, best >= 0))
    return _curve(rows, number)


def voc_average(curve: Curve) -> float:
    """Area under the curve, precision made to fall only, over all its points; NaN where there was nothing to find.

    Reference: Everingham et al., IJCV 2015 (the rule since 2010).
    """
    if not curve.num_boxes:
        return float("nan")
    recall = np.concatenate([[0.0], curve.recall, [1.0]])
    precision = _falling(np.concatenate([[0.0], curve.precision, [0.0]]))
    return float(np.sum((recall[1:] - recall[:-1]) * precision[1:]))


def coco_average(curve: Curve) -> float:
    """Mean over 101 recalls of the precision, made to fall only, at the first point that reaches each; NaN as above.

    Reference: Lin et al., ECCV 2014, and the tools of the data set.
    """
    if not curve.num_boxes:
        return float("nan")
    precision = np.append(_falling(curve.precision), 0.0)
    return float(precision[np.searchsorted(curve.recall, COCO_RECALLS, side="left")].mean())


def average_precision(
    truths: Sequence[Truth], found: Sequence[Detections], class_names: Sequence[str]
) -> dict[str, Any]:
    """The figures by which detectors are compared.

    Args:
      truths: one an image.
      found: one an image.
      class_names: of the labels.

    Returns:
      `voc_ap50` and `coco_ap50` at overlap 0.5, `coco_ap` the mean over overlaps .5, .55 .. .95; each the mean over
      the classes that are there; `classes`: the same and the number of boxes for each class. None where there is
      nothing to find.

    Raises:
      ValueError: if there are not as many images with boxes as with detections.
    """
    if len(truths) != len(found):
        raise ValueError(f"{len(truths)} images with boxes and {len(found)} with detections: give one of each an image")
    classes: dict[str, dict[str, Any]] = {}
    for label, name in enumerate(class_names):
        voc = voc_curve(truths, found, label)
        coco = [coco_average(coco_curve(truths, found, label, overlap=overlap)) for overlap in COCO_OVERLAPS]
        figures = {"voc_ap50": voc_average(voc), "coco_ap50": coco[0], "coco_ap": float(np.mean(coco))}
        classes[name] = {**(figures if voc.num_boxes else dict.fromkeys(figures)), "boxes": voc.num_boxes}
    there = [row for row in classes.values() if row["boxes"]]
    means = {
        key: float(np.mean([row[key] for row in there])) if there else None
        for key in ("voc_ap50", "coco_ap50", "coco_ap")
    }
    return {**means, "classes": classes}


def _of_class(truth: Truth, detections: Detections, label: int):
    """Boxes of a class that are there; those that were found and their scores, the surest first."""
    mine = detections.label == label
    order = np.argsort(-detections.score[mine], kind="stable")
    return truth.boxes[truth.label == label], detections.boxes[mine][order], detections.score[mine][order]


def _curve(rows: list[tuple[float, bool]], number: int) -> Curve:
    score = np.array([value for value, _ in rows], float)
    hit = np.array([hit for _, hit in rows], bool)
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(hit[order])
    recall = hits / max(number, 1)
    return Curve(recall, hits / np.arange(1, len(hits) + 1), score[order], number)


def _falling(precision: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(precision[::-1])[::-1]
