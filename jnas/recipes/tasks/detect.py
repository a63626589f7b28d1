"""Detection with a found network: a detector on its feature maps, trained, and measured by average precision."""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnas import data, distributed, files, report
from jnas.data.detection.datasets import DetectionDataset, DetectionSplits, joined, load_detection
from jnas.data.detection.sources import BoxAugment, Boxed, boxed_source
from jnas.errors import UserError
from jnas.nets.boxes import places
from jnas.nets.detection import Detector, assign, detect, detection_loss, reached
from jnas.recipes import run_folder
from jnas.recipes.tasks.average_precision import Detections, Truth, average_precision, voc_curve
from jnas.recipes.tasks.settings import TrainDetector
from jnas.recipes.tasks.training import Plan, backbone_of, facts_of
from jnas.types import Array, Aux, Context, Loss, PyTree

TASK: str = "detection"
SHOWN: tuple[str, ...] = ("loss", "mean_overlap")
PICTURES = 6  # of held-out photos, drawn for the report
POINTS = 200  # most points of a curve that are kept for the report


def plan(config: TrainDetector) -> Plan:
    """A detector, its photos and its loss, see `training.Plan`; `found` has the average precisions.

    Raises:
      UserError, ValueError: for settings that do not fit each other or the data.
    """
    build(config, 1)  # before photos are read: settings that do not fit each other
    splits = load_detection(config.data, frame(config))
    trained_on, held_out = parts(splits, config.held_out)
    if not ((held_out.labels >= 0) & ~held_out.ignored).any():
        raise UserError(f"the {config.held_out} photos of {config.data} have no box: nothing could be measured on them")
    detector = build(config, trained_on.num_classes)
    augment = augmentation(config, trained_on)
    missed = [unreached(detector, part) for part in (trained_on, held_out)]
    note = unreached_words(detector, missed)
    if note and distributed.is_first():
        print(note, file=sys.stderr)

    def measure(weights: PyTree, run: pathlib.Path, network: pathlib.Path) -> dict[str, Any]:
        found = search_all(detector, weights, held_out, augment, config)
        measured = average_precision(truths(held_out), found, held_out.class_names)
        distributed.from_first(lambda: show(run, held_out, found, measured, config, note))
        return {**measured, "measured_on": config.held_out, "photos": len(held_out)}

    return Plan(
        detector,
        loss_of(detector, trained_on.shape[:2]),
        boxed_source(trained_on, batch_size=config.train.batch_size, augment=augment),
        trained_on.as_images(),
        facts_of(TASK, config, trained_on, augment),
        {
            "name": trained_on.name, "train": len(trained_on), "test": len(held_out), "shape": trained_on.shape,
            "dropped_boxes": trained_on.dropped + held_out.dropped,
            **({"unreached_boxes": {"train": missed[0][0], "test": missed[1][0]}} if note else {}),
        },
        measure,
    )  # fmt: skip


def build(config: TrainDetector, num_classes: int) -> Detector:
    """The detector that the settings describe.

    Raises:
      ValueError: for settings that do not fit each other.
    """
    return Detector(
        backbone_of(config).net, num_classes, tuple(config.strides), config.head_channels, config.head_depth
    )


def frame(config: TrainDetector) -> tuple[int, int]:
    """Height and width of the images in pixels: those of the settings, up to a multiple of the coarsest stride."""
    coarsest = max(config.strides)
    height, width = (-(-side // coarsest) * coarsest for side in (config.height, config.width))
    return height, width


def parts(splits: DetectionSplits, held_out: str) -> tuple[DetectionDataset, DetectionDataset]:
    """What is trained on and what is measured on.

    Raises:
      UserError: if validation photos are asked for and there are none.
    """
    train, validation, test = splits
    if held_out == "test":
        return (train if validation is None else joined(train, validation)), test
    if validation is None:
        raise ValueError("held_out is validation and the data name no validation photos: measure on the test photos")
    return train, validation


def augmentation(config: TrainDetector, dataset: DetectionDataset) -> BoxAugment:
    """What happens to the training photos, normalised by the mean and deviation of these."""
    mean, std = data.normalisation(dataset.as_images())
    return BoxAugment(**dataclasses.asdict(config.augmentation), mean=mean, std=std)


def loss_of(detector: Detector, shape: tuple[int, int]) -> Loss:
    """The detector's loss over `Boxed` batches; its alpha is the empty pytree.

    Args:
      detector: the network.
      shape: (height, width) of the images.

    Returns:
      The loss.
    """
    where = places(shape, detector.strides)

    def loss(weights, alpha, batch: Boxed, context: Context) -> tuple[Array, Aux]:
        predictions, updated = detector.apply(
            {"params": weights, "batch_stats": context.variables}, batch.image, train=True, mutable=["batch_stats"]
        )
        targets = jax.vmap(functools.partial(assign, where))(batch.boxes, batch.label, batch.ignored)
        value, metrics = detection_loss(predictions, targets, where)  # pyright: ignore[reportArgumentType]
        return value, Aux(updated["batch_stats"], metrics)

    return loss


def unreached(detector: Detector, dataset: DetectionDataset) -> tuple[int, int]:
    """How many boxes no place of the detector has to find, in the photos as they are, and of how many.

    Most are smaller than its finest stride. What they show is background in training, and missed when it is measured.
    """
    where = places(dataset.shape[:2], detector.strides)
    rows = tuple(map(jnp.asarray, (dataset.boxes, dataset.labels, dataset.ignored)))
    found = jax.jit(lambda rows: jax.lax.map(lambda row: reached(where, *row), rows))(rows)
    wanted = (dataset.labels >= 0) & ~dataset.ignored
    return int((wanted & ~np.asarray(found)).sum()), int(wanted.sum())


def unreached_words(detector: Detector, missed: Sequence[tuple[int, int]]) -> str:
    """`unreached` of the photos to train on and of those to measure on, as a sentence; empty if there is none."""
    (small, total), (others, all_others) = missed
    sentence = (
        f"{small:,} of {total:,} boxes to train on and {others:,} of {all_others:,} to measure on hold no place of the "
        f"feature maps, the finest of stride {detector.strides[0]}: a larger height and width reach smaller objects"
    )
    return sentence if small + others else ""


def search_all(
    detector: Detector,
    weights: PyTree,
    dataset: DetectionDataset,
    augment: BoxAugment,
    config: TrainDetector,
    *,
    batch_size: int = 8,
) -> list[Detections]:
    """What the detector finds in every photo, in pixels of the scaled images."""
    shape, norm = dataset.shape, data.Augment(mean=augment.mean, std=augment.std)

    @jax.jit
    def look(weights, rows):
        image = data.augment(norm, None, rows, shape)
        predictions: Any = detector.apply(weights, image, train=False)
        return detect(
            predictions, shape[:2], detector.strides, most=config.most_boxes, most_overlap=config.most_overlap
        )

    batches = data.padded(dataset.as_images(), min(batch_size, len(dataset)))
    rows = [jax.device_get(look(weights, images)) for images in batches.images]
    found = jax.tree.map(lambda *parts: np.concatenate(parts)[: len(dataset)], *rows)
    return [
        Detections(boxes[score > 0], score[score > 0], label[score > 0])
        for boxes, score, label in zip(*found, strict=True)
    ]


def truths(dataset: DetectionDataset) -> list[Truth]:
    """The boxes of every photo."""
    return [
        Truth(boxes[label >= 0], label[label >= 0], ignored[label >= 0])
        for boxes, label, ignored in zip(dataset.boxes, dataset.labels, dataset.ignored, strict=True)
    ]


def show(
    folder: pathlib.Path,
    dataset: DetectionDataset,
    found: list[Detections],
    measured: dict[str, Any],
    config: TrainDetector,
    note: str,
) -> None:
    """Write what the report draws: curves, and photos with what was found in them."""
    curves, there = {}, truths(dataset)
    for label, name in enumerate(dataset.class_names):
        curve = voc_curve(there, found, label)
        chosen = np.unique(np.linspace(0, max(len(curve.recall) - 1, 0), POINTS).astype(int))
        if len(curve.recall):
            curves[name] = {"recall": curve.recall[chosen].tolist(), "precision": curve.precision[chosen].tolist()}
    place = files.prepare_folder(folder / "pictures")
    pictures = []
    for row in np.unique(np.linspace(0, len(dataset) - 1, PICTURES).astype(int)).tolist():
        scale, seen = dataset.scales[row], found[row].score >= config.threshold
        file = pathlib.Path(dataset.files[row])
        content = report.boxes_picture(
            file,
            found[row].boxes[seen] / scale,
            [dataset.class_names[label] for label in found[row].label[seen]],
            found[row].score[seen],
            class_names=dataset.class_names,
            truth=there[row].boxes / scale,
        )
        files.atomic_write(place / f"{file.stem}.jpg", content)
        pictures.append({
            "file": f"pictures/{file.stem}.jpg",
            "caption": f"{file.stem}: {int(seen.sum())} boxes with a score of at least {config.threshold:g}, "
            f"{len(there[row].label)} in the annotation (thin white)",
        })  # fmt: skip
    run_folder.write_json(
        folder / report.AT_WORK,
        {
            "task": TASK, "measured_on": config.held_out, "photos": len(dataset), "measured": measured,
            "curves": curves, "pictures": pictures, **({"note": note} if note else {}),
        },
    )  # fmt: skip
