import os

import numpy as np
import pytest
from PIL import Image

from jnas.data.load import load
from jnas.errors import UserError

RNG = np.random.default_rng(0)


def picture(height=4, width=6, channels=3):
    pixels = RNG.integers(0, 256, (height, width, channels), np.uint8)
    return pixels if channels > 1 else pixels[..., 0]


def write(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def two_parts(tmp_path):
    """Classes "bird" and "cat"; returns the folder and the pixels of each file."""
    pixels = {}
    for name in ("train/bird/a.png", "train/bird/b.PNG", "train/cat/a.png", "test/bird/a.png", "test/cat/z.png"):
        pixels[name] = picture()
        write(tmp_path / name, pixels[name])
    return tmp_path, pixels


def test_reads_train_and_test_in_the_order_of_names(two_parts):
    folder, pixels = two_parts
    (folder / "train" / "cat" / "notes.txt").write_text("not an image")
    (folder / "train" / ".cache").mkdir()
    train, test = load(str(folder))
    assert (train.shape, train.num_classes, train.name) == ((4, 6, 3), 2, folder.name)
    expected = np.stack([pixels[name] for name in ("train/bird/a.png", "train/bird/b.PNG", "train/cat/a.png")])
    np.testing.assert_array_equal(train.images.reshape(3, 4, 6, 3), expected)
    assert train.labels.tolist() == [0, 0, 1]
    expected = np.stack([pixels[name] for name in ("test/bird/a.png", "test/cat/z.png")])
    np.testing.assert_array_equal(test.images.reshape(2, 4, 6, 3), expected)
    assert test.labels.tolist() == [0, 1]


def test_class_folders_alone_hold_out_every_fifth_image(tmp_path):
    pixels = {(name, i): picture(channels=1) for name, count in (("b", 7), ("a", 5)) for i in range(count)}
    for (name, i), image in pixels.items():
        write(tmp_path / name / f"{i:02}.png", image)
    train, test = load(str(tmp_path))
    assert train.shape == (4, 6, 1)
    expected = [("a", 0), ("b", 0), ("b", 5)]
    np.testing.assert_array_equal(test.images.reshape(-1, 4, 6), np.stack([pixels[which] for which in expected]))
    assert test.labels.tolist() == [0, 1, 1]
    expected = [("a", 1), ("a", 2), ("a", 3), ("a", 4), ("b", 1), ("b", 2), ("b", 3), ("b", 4), ("b", 6)]
    np.testing.assert_array_equal(train.images.reshape(-1, 4, 6), np.stack([pixels[which] for which in expected]))
    assert train.labels.tolist() == [0] * 4 + [1] * 5


def test_grey_images_beside_coloured_ones_get_three_channels(two_parts):
    folder, _ = two_parts
    grey = picture(channels=1)
    write(folder / "train" / "cat" / "a.png", grey)
    train, _ = load(str(folder))
    np.testing.assert_array_equal(train.images[2].reshape(4, 6, 3), np.repeat(grey[..., None], 3, axis=-1))


def test_reads_jpeg_and_resizes(tmp_path):
    """A left half black and a right half white stay so at any size; height comes first."""
    halves = np.zeros((16, 32), np.uint8)
    halves[:, 16:] = 255
    write(tmp_path / "a" / "0.jpg", halves, quality=95)
    write(tmp_path / "a" / "1.JPEG", halves[:8], quality=95)
    train, test = load(str(tmp_path), size=(4, 8))
    for part in (train, test):
        assert part.shape == (4, 8, 1)
        image = part.images.reshape(4, 8)
        assert image[:, :3].max() < 20
        assert image[:, 5:].min() > 235


def test_refuses_images_of_different_sizes_and_says_how_to_resize(two_parts):
    folder, _ = two_parts
    write(folder / "test" / "cat" / "z.png", picture(height=5))
    with pytest.raises(
        UserError, match=r"z.png is 5 x 6 pixels and .*a.png is 4 x 6: .* image_size=SIDE, such as image_size=32"
    ):
        load(str(folder))
    assert load(str(folder), size=(3, 3)).test.shape == (3, 3, 3)


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_validation_images_stand_in_for_test_images(two_parts, name, capsys):
    folder, pixels = two_parts
    (folder / "test").rename(folder / name)
    train, test = load(str(folder))
    expected = np.stack([pixels[file] for file in ("test/bird/a.png", "test/cat/z.png")])
    np.testing.assert_array_equal(test.images.reshape(2, 4, 6, 3), expected)
    assert len(train) == 3
    assert f"has no folder test: the images of {name} are the test images" in capsys.readouterr().err
    write(folder / "test" / "bird" / "b.png", picture())
    write(folder / "test" / "cat" / "b.png", picture())
    assert len(load(str(folder)).test) == 2
    assert f"the 2 images of {name} are left out" in capsys.readouterr().err


def test_a_class_may_be_called_valid(tmp_path):
    for i in range(3):
        write(tmp_path / "valid" / f"{i}.png", picture())
        write(tmp_path / "invalid" / f"{i}.png", picture())
    assert load(str(tmp_path)).train.class_names == ("invalid", "valid")


def test_files_that_are_no_images_are_counted(two_parts, capsys):
    folder, _ = two_parts
    for name in ("notes.txt", "scan.tiff", ".hidden"):
        (folder / "train" / "cat" / name).write_text("", encoding="utf-8")
    load(str(folder))
    assert "2 files of" in capsys.readouterr().err


def test_images_outside_of_class_folders_are_counted(two_parts, capsys):
    folder, _ = two_parts
    for name in ("extra/cat/a.png", "loose.png", "train/loose.png", "test/cat/more/b.png"):
        write(folder / name, picture())
    (folder / "README.md").write_text("", encoding="utf-8")
    assert [len(part) for part in load(str(folder))] == [3, 2]
    said = capsys.readouterr().err
    assert f"2 files and folders of {folder} are left out, such as 'extra'" in said
    assert "1 files of " in said
    assert f"1 files and folders of {folder / 'test'} are left out, such as 'more'" in said


def test_two_folders_of_one_part_are_refused(two_parts):
    folder, _ = two_parts
    write(folder / "Train" / "cat" / "a.png", picture())
    with pytest.raises(UserError, match="has a folder Train and train: keep one of them"):
        load(str(folder))


def test_names_that_are_no_utf8_are_refused_first(two_parts):
    folder, _ = two_parts
    (folder / "train" / os.fsdecode(b"cr\xeape")).mkdir()
    with pytest.raises(UserError, match="the name of a folder of images is no UTF-8 text"):
        load(str(folder))


def test_images_that_do_not_fit_into_memory_are_refused(two_parts):
    with pytest.raises(UserError, match=r"5 images of 200000 x 200000 pixels take .* GiB .* with a smaller image_size"):
        load(str(two_parts[0]), size=(200_000, 200_000))


@pytest.mark.parametrize("damage", ["text", "short", "empty"])
def test_refuses_an_unreadable_image_by_name(two_parts, damage):
    folder, _ = two_parts
    file = folder / "train" / "cat" / "a.png"
    content = {"text": b"not an image", "short": file.read_bytes()[:60], "empty": b""}[damage]
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png cannot be read .*: replace it or remove it") as caught:
        load(str(folder))
    assert str(file) in str(caught.value)


def test_refuses_an_empty_class_folder(two_parts):
    folder, _ = two_parts
    (folder / "test" / "dog").mkdir()
    with pytest.raises(UserError, match=r"class folder .*dog has no image: add .png, .*, .bmp, .gif files"):
        load(str(folder))


def test_refuses_classes_that_differ(two_parts):
    folder, _ = two_parts
    write(folder / "test" / "dog" / "a.png", picture())
    with pytest.raises(UserError, match="differ in dog: give both the same class folders"):
        load(str(folder))


def test_refuses_train_without_test(tmp_path):
    write(tmp_path / "train" / "a" / "0.png", picture())
    with pytest.raises(UserError, match="has a folder train alone: give it both train and test, or neither"):
        load(str(tmp_path))


def test_refuses_a_folder_without_classes(tmp_path):
    write(tmp_path / "0.png", picture())
    with pytest.raises(UserError, match="has no class folders: put the images in one folder a class"):
        load(str(tmp_path))


def test_refuses_a_class_too_small_to_divide(tmp_path):
    write(tmp_path / "a" / "0.png", picture())
    with pytest.raises(UserError, match="class a has 1 image, too few for training and test"):
        load(str(tmp_path))


@pytest.mark.parametrize("size", [(0, 4), (4,), (-1, 2)])
def test_refuses_an_impossible_size(two_parts, size):
    with pytest.raises(UserError, match=r"give \(height, width\) in pixels, each at least 1"):
        load(str(two_parts[0]), size=size)
