"""Image files of the user: turned as they are meant, of eight bits, of a few formats, or a sentence."""

import os

import numpy as np
import pytest
from PIL import Image

from jnas.data.detection.datasets import load_detection
from jnas.data.detection.photos import fit_photo, photo_size, read_image
from jnas.data.folder import read_folder
from jnas.errors import UserError
from jnas.files.images import opened


@pytest.fixture
def sideways(tmp_path):
    """A JPEG of 60 x 40 pixels, its left third white, stored as a camera does that was held on its side."""
    shown = np.zeros((60, 40, 3), np.uint8)
    shown[:20] = 255  # the upper third of what is seen
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    path = tmp_path / "sideways.jpg"
    Image.fromarray(np.rot90(shown)).save(path, exif=exif, quality=95)
    return path


def test_a_photo_is_read_as_it_is_seen(sideways):
    with Image.open(sideways) as stored:
        assert stored.size == (60, 40)
    assert photo_size(sideways) == (60, 40)
    image = read_image(sideways, (60, 40, 1))[..., 0]
    assert image[:18].min() > 240
    assert image[22:].max() < 15
    frame, scale = fit_photo(sideways, (30, 40))
    assert scale == 0.5
    assert frame[:9, :20].min() > 230
    assert frame[12:, :20].max() < 25
    assert not frame[:, 21:].any()


def test_a_note_behind_the_pixels_turns_a_photo_and_a_damaged_one_does_not(sideways, tmp_path, recwarn):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(sideways) as stored:
        stored.save(tmp_path / "a.png", exif=exif)
    content = (tmp_path / "a.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    note, rest = content[start:end], content[:start] + content[end:]
    (tmp_path / "late.png").write_bytes(rest[:-12] + note + rest[-12:])  # before the mark of the end
    assert photo_size(tmp_path / "late.png") == (60, 40)
    np.testing.assert_array_equal(*(read_image(tmp_path / name, (60, 40, 3)) for name in ("a.png", "late.png")))
    torn = sideways.read_bytes().replace(b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01", b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x09")
    (tmp_path / "torn.jpg").write_bytes(torn)
    assert torn != sideways.read_bytes()
    assert photo_size(tmp_path / "torn.jpg") in {(60, 40), (40, 60)}
    assert not recwarn.list


def test_files_have_one_or_three_channels(sideways):
    with pytest.raises(UserError, match=r"an image file has 1 or 3 channels and 4 are asked for"):
        read_image(sideways, (60, 40, 4))


def test_boxes_are_those_of_the_photo_as_it_is_seen(sideways, tmp_path):
    root = tmp_path / "voc"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name in ("a", "b"):
        (root / "JPEGImages" / f"{name}.jpg").write_bytes(sideways.read_bytes())
        (root / "Annotations" / f"{name}.xml").write_text(
            "<annotation><object><name>cell</name><bndbox><xmin>21</xmin><ymin>41</ymin><xmax>40</xmax>"
            "<ymax>60</ymax></bndbox></object></annotation>"
        )
    (root / "ImageSets/Main/trainval.txt").write_text("a\n")
    (root / "ImageSets/Main/test.txt").write_text("b\n")
    splits = load_detection(str(root), (60, 40))
    np.testing.assert_array_equal(splits.train.boxes[0, 0], [20, 40, 40, 60])
    assert splits.train.dropped == 0


def test_grey_of_sixteen_bits_keeps_its_range(tmp_path):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "deep.png")
    expected = np.round(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png", (8, 8, 1))[..., 0], expected)
    frame, _ = fit_photo(tmp_path / "deep.png", (8, 8), 3)
    np.testing.assert_array_equal(frame, expected[..., None].repeat(3, -1))
    for name in ("a", "b"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(values).save(tmp_path / "classes" / name / f"{number}.png")
    splits = read_folder(tmp_path / "classes", None)
    assert splits.train.shape == (8, 8, 1)
    np.testing.assert_array_equal(splits.train.images[0], expected.ravel())


def test_webp_bmp_and_gif_are_images_too(tmp_path):
    for name, ending in (("a", "webp"), ("b", "bmp"), ("c", "gif")):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("RGB", (4, 4), (250, 0, 0)).save(tmp_path / name / f"{number}.{ending}")
    splits = read_folder(tmp_path, None)
    assert (len(splits.train), len(splits.test), splits.train.num_classes) == (3, 3, 3)


def postscript(path):
    Image.new("RGB", (8, 8)).save(path.with_suffix(".eps"))
    path.write_bytes(path.with_suffix(".eps").read_bytes())


def bomb(path):
    Image.new("1", (20_000, 10_000)).save(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (postscript, r"x\.png cannot be read \(it is damaged or no PNG, [^)]*\): replace it or remove it"),
        (lambda path: os.mkfifo(path), r"x\.png cannot be read \(it is no file\)"),
        (bomb, r"x\.png cannot be read \(it is too large\)"),
        (lambda path: path.write_bytes(b"no image"), r"x\.png cannot be read \(it is damaged or no PNG"),
    ],
)
def test_what_is_no_image_of_a_user_is_answered_at_once(make, said, tmp_path):
    path = tmp_path / "x.png"
    make(path)
    with pytest.raises(UserError, match=said), opened(path):
        pass
