"""Photos and boxes as Pascal VOC lays them out: one XML file a photo, and lists of names."""

import os
import pathlib
import xml.etree.ElementTree as ElementTree

from jnas.data.detection.annotations import Box, Parts, Photo
from jnas.data.detection.photos import photo_size
from jnas.errors import UserError
from jnas.files import images
from jnas.files.text import shortened

ENDINGS = (".jpg", *images.ENDINGS, *(ending.upper() for ending in images.ENDINGS))
HELD_OUT = 5  # without lists, one photo in five is a test photo


def read_voc(folder: pathlib.Path) -> tuple[tuple[str, ...], Parts] | None:
    """Reads what stands in `Annotations`, `JPEGImages` and `ImageSets/Main`.

    VOC counts pixels from 1 and its last pixel lies inside the box: `xmin=1, xmax=1` is one pixel wide and becomes
    `(0, 1)`. A box whose `xmax <= xmin` or `ymax <= ymin` in the file is marked degenerate.

    Args:
        folder: that holds these three, or has one folder in it that does.

    Returns:
        The names of the classes in alphabetical order, and the photos of each part; None if the folder is not of this
        layout.

    Raises:
        UserError: A list names a photo that is not there, or a file cannot be read; the sentence names it.
    """
    root = _root(folder)
    if root is None:
        return None
    lists = _lists(root)
    photos = {part: [_photo(root, name) for name in names] for part, names in lists.items()}
    found = {box.name for part in photos.values() for photo in part for box in photo.boxes}
    if not found:
        raise UserError(f"{root / 'Annotations'} holds no box for the listed photos: add <object> elements to them")
    return tuple(sorted(found)), photos


def _root(folder: pathlib.Path) -> pathlib.Path | None:
    below = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    fits = [root for root in (folder, *below) if (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir()]
    if len(fits) > 1 and fits[0] != folder:
        raise UserError(f"{folder} holds several data sets ({', '.join(f.name for f in fits)}): name one of them")
    return fits[0] if fits else None


def _lists(root: pathlib.Path) -> dict[str, list[str]]:
    """The names of the photos of each part."""
    where = root / "ImageSets" / "Main"
    lists = {part: _read_list(root, where / f"{part}.txt") for part in ("train", "val", "trainval", "test")}
    if not any(lists.values()):
        names = sorted(path.stem for path in (root / "Annotations").glob("*.xml"))
        if len(names) < 2:
            raise UserError(f"{root / 'Annotations'} has {len(names)} XML files, too few to train and test: add some")
        return {"train": [n for i, n in enumerate(names) if i % HELD_OUT], "test": names[::HELD_OUT]}
    both, others = lists.pop("trainval"), {*lists["val"], *lists["test"]}
    lists["train"] = lists["train"] or [name for name in both if name not in others]
    shared = sorted({*lists["train"], *lists["val"]} & {*lists["test"]})
    if shared:
        raise UserError(
            f"{shared[0]} and {len(shared) - 1} others stand in the test list of {where} and in another one: "
            "take them out of one"
        )
    return lists


def _read_list(root: pathlib.Path, path: pathlib.Path) -> list[str]:
    """The names in a list, each once; a line may end in a number that says whether a class is there."""
    if not path.is_file():
        return []
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no list of photos ({type(error).__name__}): write one name a line") from error
    marked = lambda line: line.split()[-1] in ("-1", "0", "1") and not _has(root, line)
    return list(dict.fromkeys(line.rsplit(None, 1)[0] if marked(line) else line for line in lines))


def _has(root: pathlib.Path, name: str) -> bool:
    return os.path.isfile(root / "Annotations" / f"{name}.xml")


def _photo(root: pathlib.Path, name: str) -> Photo:
    files = [root / "JPEGImages" / f"{name}{ending}" for ending in ENDINGS]
    file = next((path for path in files if os.path.isfile(path)), None)
    if file is None:
        photo = shortened(str(files[0]))
        raise UserError(f"photo {photo} is listed and not there: add it or take it out of the list")
    path = root / "Annotations" / f"{name}.xml"
    if not _has(root, name):
        raise UserError(f"annotation {path} is not there: add it or take {name} out of the list")
    try:
        tree = ElementTree.parse(path).getroot()
    except (OSError, LookupError, ValueError, ElementTree.ParseError) as error:  # the second and third: its encoding
        line = f" at line {error.position[0]}" if isinstance(error, ElementTree.ParseError) else ""
        raise UserError(f"annotation {path} is not XML{line}: correct it or take {name} out of the list") from error
    return Photo(file, photo_size(file), tuple(_box(path, element) for element in tree.iter("object")))


def _box(path: pathlib.Path, element: ElementTree.Element) -> Box:
    name = (element.findtext("name") or "").strip()
    try:
        corners = [float(element.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax")]
    except ValueError:
        corners = []
    if not name or not corners or not all(abs(value) < 1e6 for value in corners):
        raise UserError(
            f"annotation {path} has an object without a name or without four numbers in bndbox: complete it"
        )
    left, top, right, bottom = corners
    return Box(
        name,
        (left - 1, top - 1, right, bottom),
        ignored=(element.findtext("difficult") or "").strip().lower() in ("1", "true"),
        degenerate=right <= left or bottom <= top,
    )
