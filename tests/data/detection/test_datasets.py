"""Readers of photos with boxes, against files that the tests write."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from jnas.data.detection.datasets import joined, load_detection
from jnas.data.detection.photos import fit_photo, read_image
from jnas.errors import UserError

OBJECT = "<object><name>{}</name><difficult>{}</difficult><bndbox>{}</bndbox></object>"


def photo(path, height, width, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)


def corners(left, top, right, bottom):
    return f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"


def write_voc(root, photos, lists):
    """Photos `{name: [(class, difficult, corners)]}`, each 20 high and 40 wide."""
    (root / "Annotations").mkdir(parents=True)
    for name, objects in photos.items():
        photo(root / "JPEGImages" / f"{name}.png", 20, 40)
        body = "".join(OBJECT.format(*entry) for entry in objects)
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{body}</annotation>")
    for part, names in lists.items():
        path = root / "ImageSets" / "Main" / f"{part}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(names) + "\n")


@pytest.fixture
def voc(tmp_path):
    photos = {
        "a": [("dog", 0, corners(1, 1, 40, 20)), ("cat", 1, corners(11, 3, 20, 10))],
        "b": [("cat", 0, corners(5, 5, 5, 9)), ("cat", 0, corners(30, 15, 99, 99)), ("cat", 0, corners(50, 1, 60, 9))],
        "c": [("dog", 0, corners(3, 3, 8, 8))],
        "d": [],
    }
    write_voc(tmp_path / "VOC", photos, {"train": ["a", "b"], "trainval": ["a", "b", "c"], "val": ["c"], "test": ["d"]})
    return tmp_path


def test_voc_boxes_count_pixels_from_one_and_go_with_the_photo(voc):
    train, validation, test = load_detection(voc, (20, 20))  # scaled by one half
    assert train.class_names == ("cat", "dog")
    assert [len(part) for part in (train, validation, test)] == [2, 1, 1]
    np.testing.assert_array_equal(train.scales, [0.5, 0.5])
    np.testing.assert_array_equal(train.boxes[0, :2], [[0, 0, 20, 10], [5, 1, 10, 5]])
    np.testing.assert_array_equal(train.labels[0], [1, 0, -1])
    np.testing.assert_array_equal(train.ignored[0], [False, True, False])
    # of b, one box has no width, one lies beyond the photo, and one is cut at its border
    assert train.dropped == 2
    np.testing.assert_array_equal(train.boxes[1], [[14.5, 7, 20, 10], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(train.labels[1], [0, -1, -1])
    assert (test.labels == -1).all()
    image = train.images[0].reshape(20, 20, 3)
    assert (image[:10] == 100).all()
    assert (image[10:] == 0).all()  # below the photo
    both = joined(train, validation)
    assert (len(both), both.dropped, both.files[2][-5:]) == (3, 2, "c.png")
    assert both.part(np.array([2])).boxes.tolist() == validation.boxes.tolist()


def test_a_photo_of_two_parts_is_refused(tmp_path):
    """Without a test list the validation photos are the test photos."""
    photos = {name: [("dog", 0, corners(1, 1, 9, 9))] for name in "abc"}
    write_voc(tmp_path / "VOC", photos, {"train": ["a", "b"], "val": ["b", "c"]})
    with pytest.raises(UserError, match=r"b.png is both a train and a test photo: take it out of one list"):
        load_detection(tmp_path / "VOC", (20, 20))


def test_without_lists_every_fifth_photo_is_a_test_photo(tmp_path):
    box = [("cell", 0, corners(2, 2, 9, 9))]
    write_voc(tmp_path, {f"{i}": box for i in range(7)}, {})
    train, validation, test = load_detection(tmp_path, (20, 40))
    assert validation is None
    assert [name[-5] for name in test.files] == ["0", "5"]
    assert len(train) == 5


def test_names_may_have_blanks_and_lists_a_mark_and_a_byte_order_mark(tmp_path):
    write_voc(tmp_path, {name: [("dog", 0, corners(1, 1, 9, 9))] for name in ("p 0", "p 1", "q", "r")}, {})
    for lines in (("p 0", "p 1", "p 0"), ("p 0  1", "p 1 -1"), ("\ufeffp 0", "p 1")):
        where = tmp_path / "ImageSets" / "Main"
        where.mkdir(parents=True, exist_ok=True)
        (where / "train.txt").write_text("\n".join(lines), encoding="utf-8")
        (where / "test.txt").write_text("q 0\nr\n", encoding="utf-8")
        train, _, test = load_detection(tmp_path, (20, 40))
        assert [name[-7:] for name in train.files] == ["p 0.png", "p 1.png"]
        assert [name[-5:] for name in test.files] == ["q.png", "r.png"]


def test_boxes_outside_or_inside_out_are_counted(tmp_path):
    boxes = [("dog", 0, corners(*box)) for box in ((1, 1, 9, 9), (9, 9, 1, 1), (100, 1, 120, 9), (-50, -50, -20, -20))]
    write_voc(tmp_path, dict.fromkeys("abcde", boxes), {})
    train, _, test = load_detection(tmp_path, (20, 40))
    assert (train.dropped, test.dropped) == (12, 3)
    assert int((train.labels >= 0).sum()) == 4


def break_encoding(root):
    (root / "VOC" / "Annotations" / "a.xml").write_text(
        '<?xml version="1.0" encoding="klingon"?><a/>', encoding="utf-8"
    )


def lengthen_class(root):
    (root / "VOC" / "Annotations" / "a.xml").write_text(
        f"<annotation>{OBJECT.format('d' * 5000, 0, corners(1, 1, 2, 4))}</annotation>", encoding="utf-8"
    )


def lengthen_name(root):
    (root / "VOC" / "ImageSets" / "Main" / "train.txt").write_text("x" * 5000, encoding="utf-8")


def pipe_annotation(root):
    (root / "VOC" / "Annotations" / "a.xml").unlink()
    os.mkfifo(root / "VOC" / "Annotations" / "a.xml")


def break_xml(root):
    (root / "VOC" / "Annotations" / "a.xml").write_text("<annotation>\n<object>")


def drop_photo(root):
    (root / "VOC" / "JPEGImages" / "b.png").unlink()


def drop_annotation(root):
    (root / "VOC" / "Annotations" / "b.xml").unlink()


def drop_number(root):
    (root / "VOC" / "Annotations" / "a.xml").write_text(
        f"<annotation>{OBJECT.format('dog', 0, corners(1, 1, 'x', 4))}</annotation>"
    )


def break_photo(root):
    path = root / "VOC" / "JPEGImages" / "a.png"
    path.write_bytes(path.read_bytes()[:60])


def share_photo(root):
    (root / "VOC" / "ImageSets" / "Main" / "test.txt").write_text("d\na\n")


def forget_tests(root):
    for part in ("test", "val"):
        (root / "VOC" / "ImageSets" / "Main" / f"{part}.txt").unlink()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (break_xml, "a.xml is not XML at line 2"),
        (break_encoding, "a.xml is not XML"),
        (lengthen_class, "ddd... (5,000 characters)': give 200 characters at most"),
        (lengthen_name, "is listed and not there"),
        (pipe_annotation, "a.xml is not there"),
        (drop_photo, "b.jpg is listed and not there"),
        (drop_annotation, "b.xml is not there"),
        (drop_number, "a.xml has an object without a name or without four numbers"),
        (break_photo, "a.png cannot be read"),
        (share_photo, "a and 0 others stand in the test list"),
        (forget_tests, "lists no test photos"),
    ],
)
def test_a_broken_voc_folder_is_one_sentence(voc, damage, sentence):
    damage(voc)
    with pytest.raises(UserError, match=r"^[^\n]+$") as caught:
        load_detection(voc, (20, 20))
    assert sentence in str(caught.value)


def coco(boxes, names=("cat", "dog"), images=("x.png", "y.png")):
    return {
        "images": [{"id": 7 + i, "file_name": name, "width": 1, "height": 1} for i, name in enumerate(images)],
        "categories": [{"id": 3, "name": names[0]}, {"id": 1, "name": names[1]}, {"id": 0, "name": "nothing"}],
        "annotations": [
            {"image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}
            for image, category, box, crowd in boxes
        ],
    }


TRAIN = coco([(7, 3, [4, 2, 10, 6], 0), (8, 1, [0, 0, 40, 20], 1), (8, 1, [3, 3, 0, 4], 0)])
TEST = coco([(7, 1, [30, 10, 20, 20], 0)], images=("z.png",))


def write_coco(root, layout, train=TRAIN, test=TEST):
    for part, content in (("train", train), ("test", test)):
        place = root / (f"{part}2017" if layout == "coco" else part)
        for image in content["images"]:
            photo(place / image["file_name"], 20, 40)
        file = (
            root / "annotations" / f"instances_{part}2017.json"
            if layout == "coco"
            else place / "_annotations.coco.json"
        )
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))


@pytest.mark.parametrize("layout", ["coco", "flat"])
def test_coco_boxes_have_a_corner_and_sides(tmp_path, layout):
    write_coco(tmp_path, layout)
    train, validation, test = load_detection(tmp_path, (40, 80))
    assert train.class_names == ("dog", "cat")  # by their numbers; one that no box has is no class
    assert validation is None
    np.testing.assert_array_equal(train.boxes[:, 0], [[8, 4, 28, 16], [0, 0, 80, 40]])
    np.testing.assert_array_equal(train.labels[:, 0], [1, 0])
    np.testing.assert_array_equal(train.ignored[:, 0], [False, True])
    assert train.dropped == 1
    np.testing.assert_array_equal(test.boxes[0, 0], [60, 20, 80, 40])


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        ("{", "are not JSON at line 1"),
        ({"images": []}, "lack what COCO's have"),
        (coco([(7, 3, [1, 2, 3], 0)]), "bbox of 4 numbers"),
        (coco([(7, 3, [1, 2, 3, 4], "0")]), "lack what COCO's have"),
        (coco([(9, 3, [1, 2, 3, 4], 0)]), "a box of image 9"),
        (coco([(7, 5, [1, 2, 3, 4], 0)]), "category 5"),
        (coco([(7, 1, [1, 2, 3, 4], 0)], names=("cat", "wolf")), "category 1 'dog' and another part 'wolf'"),
    ],
)
def test_broken_coco_annotations_are_one_sentence(tmp_path, train, sentence):
    write_coco(tmp_path, "coco")
    file = tmp_path / "annotations" / "instances_train2017.json"
    file.write_text(train if isinstance(train, str) else json.dumps(train))
    with pytest.raises(UserError, match=r"^[^\n]+$") as caught:
        load_detection(tmp_path, (20, 40))
    assert sentence in str(caught.value)


def test_a_pipe_of_annotations_is_not_waited_for(tmp_path):
    write_coco(tmp_path, "coco")
    file = tmp_path / "annotations" / "instances_train2017.json"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match="are not JSON"):
        load_detection(tmp_path, (20, 40))


def test_a_missing_photo_and_a_folder_of_no_layout(tmp_path):
    write_coco(tmp_path / "a", "coco")
    (tmp_path / "a" / "train2017" / "y.png").unlink()
    with pytest.raises(UserError, match=r"photo y.png of .* is not there"):
        load_detection(tmp_path / "a", (20, 40))
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="holds neither"):
        load_detection(tmp_path / "b", (20, 40))
    with pytest.raises(UserError, match="is not a folder"):
        load_detection(tmp_path / "c", (20, 40))
    with pytest.raises(UserError, match=r"size \(0, 40\)"):
        load_detection(tmp_path / "b", (0, 40))


def test_photos_are_fitted_and_images_stretched(tmp_path):
    pixels = np.zeros((4, 2, 3), np.uint8)
    pixels[:, 1] = 200
    Image.fromarray(pixels).save(tmp_path / "p.png")
    frame, scale = fit_photo(tmp_path / "p.png", (4, 6))
    assert scale == 1
    np.testing.assert_array_equal(frame[:, :2], pixels)
    assert not frame[:, 2:].any()
    assert fit_photo(tmp_path / "p.png", (2, 6))[1] == 0.5
    np.testing.assert_array_equal(read_image(tmp_path / "p.png", (8, 2, 1))[..., 0], [[0, 200]] * 8)


def test_boxes_are_difficult_by_a_one_or_by_the_word(tmp_path):
    said = ("1", "true", "True", "0", "false", "", "Unspecified")
    photos = {name: [("dog", word, corners(3, 3, 8, 8))] for name, word in zip("abcdefg", said, strict=True)}
    write_voc(tmp_path, photos, {"train": list("abcdefg"), "test": ["h"]})
    photo(tmp_path / "JPEGImages" / "h.png", 20, 40)
    (tmp_path / "Annotations" / "h.xml").write_text("<annotation/>")
    found = load_detection(tmp_path, (20, 40)).train.ignored[:, 0]
    assert found.tolist() == [True, True, True, False, False, False, False]
