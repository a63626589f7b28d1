"""Photos and boxes as COCO lays them out: one JSON file for all the photos of a part."""

import json
import os
import pathlib
from typing import Any

from jnas.data.detection.annotations import Box, Parts, Photo
from jnas.data.detection.photos import photo_size
from jnas.errors import UserError
from jnas.files.reading import text_of
from jnas.files.text import shortened

LONGEST = 2**32  # bytes; those of the 118,287 training photos of COCO are 4.5e8
_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def read_coco(folder: pathlib.Path) -> tuple[tuple[str, ...], Parts] | None:
    """Reads `annotations/*train*.json` and its like, or `train/_annotations.coco.json` and its like.

    A box is `[left, top, width, height]`, pixels counted from 0; one whose width or height is not positive is marked
    degenerate. Crowds are ignored boxes. Photos are looked for beside the JSON file, in the folder, in its folder
    `images`, and in folders of either named as the part (`train2017` for `instances_train2017.json`).

    Args:
        folder: of the data set.

    Returns:
        The names of the classes in the order of their numbers, and the photos of each part; None if the folder is not
        of this layout.

    Raises:
        UserError: A file cannot be read, or does not fit the others; the sentence names it.
    """
    files = {part: _file(folder, names) for part, names in _NAMES.items()}
    present = {part: path for part, path in files.items() if path is not None}
    if not present:
        return None
    read = {part: _read(path) for part, path in present.items()}
    names: dict[int, str] = {}
    for part, content in read.items():
        for category in content["categories"]:
            number, name = category["id"], str(category["name"])
            if names.setdefault(number, name) != name:
                raise UserError(
                    f"{present[part]} calls category {number} {shortened(name)!r} and another part "
                    f"{shortened(names[number])!r}: use one"
                )
    used = {entry["category_id"] for content in read.values() for entry in content["annotations"]}
    if not used <= names.keys():
        raise UserError(f"a box in {folder} has category {min(used - names.keys())}, which is not listed: add it")
    # A category that no box has, such as the root that some tools write, would be a class that nothing can be.
    kept = {number: name for number, name in sorted(names.items()) if number in used}
    if len(set(kept.values())) < len(kept):
        raise UserError(f"two categories in {folder} have one name: rename one of {', '.join(kept.values())}")
    return tuple(kept.values()), {p: _photos(folder, present[p], content, kept) for p, content in read.items()}


def _file(folder: pathlib.Path, names: tuple[str, ...]) -> pathlib.Path | None:
    for name in names:
        inside = folder / name / "_annotations.coco.json"
        if inside.is_file():
            return inside
    found = [
        path
        for path in sorted((folder / "annotations").glob("*.json"))
        if any(path.stem.removeprefix("instances_").startswith(name) for name in names)
    ]
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1]} are both {names[0]} annotations: leave one of them there")
    return found[0] if found else None


def _read(path: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(text_of(path, most=LONGEST))
    except (ValueError, RecursionError) as error:
        where = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"annotations {path} are not JSON{where}: correct the file") from error
    try:
        for image in content["images"]:
            _ = image["id"] + 0, image["file_name"] + ""
        for category in content["categories"]:
            _ = category["id"] + 0, category["name"] + ""
        for entry in content["annotations"]:
            _ = entry["image_id"] + 0, entry["category_id"] + 0, (entry.get("iscrowd") or 0) + 0
            if len(entry["bbox"]) != 4 or not all(abs(value) < 1e6 for value in entry["bbox"]):
                raise ValueError(entry["bbox"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"annotations {path} lack what COCO's have ({type(error).__name__}: {shortened(str(error))}): give lists "
            "images (id, file_name), categories (id, name) and annotations (image_id, category_id, bbox of 4 numbers)"
        ) from error
    return content


def _photos(folder: pathlib.Path, path: pathlib.Path, content, names: dict[int, str]) -> list[Photo]:
    part = path.stem.removeprefix("instances_") if path.parent.name == "annotations" else path.parent.name
    places = [path.parent, folder, folder / part, folder / "images", folder / "images" / part]
    boxes: dict[int, list[Box]] = {image["id"]: [] for image in content["images"]}
    if len(boxes) < len(content["images"]):
        raise UserError(f"annotations {path} give one id to two photos: number them")
    for entry in content["annotations"]:
        if entry["image_id"] not in boxes:
            raise UserError(f"annotations {path} have a box of image {entry['image_id']}, which is not listed: add it")
        left, top, width, height = map(float, entry["bbox"])
        boxes[entry["image_id"]].append(
            Box(
                names[entry["category_id"]],
                (left, top, left + width, top + height),
                ignored=bool(entry.get("iscrowd", 0)),
                degenerate=not (width > 0 and height > 0),
            )
        )
    photos = []
    for image in sorted(content["images"], key=lambda image: image["id"]):
        found = [place / image["file_name"] for place in places if os.path.isfile(place / image["file_name"])]
        if not found:
            name = shortened(image["file_name"])
            raise UserError(f"photo {name} of {path} is not there: put it into {folder / part}")
        photos.append(Photo(found[0], photo_size(found[0]), tuple(boxes[image["id"]])))
    return photos
