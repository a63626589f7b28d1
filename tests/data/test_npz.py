import pathlib
import zipfile

import numpy as np
import pytest

from jnas.data.load import load
from jnas.errors import UserError

RNG = np.random.default_rng(0)
GOOD = {
    "x_train": RNG.integers(0, 256, (6, 4, 5, 3), np.uint8),
    "y_train": np.array([0, 1, 2, 0, 1, 2]),
    "x_test": RNG.integers(0, 256, (3, 4, 5, 3), np.uint8),
    "y_test": np.array([2, 0, 2]),
}


def saved(tmp_path, **changes):
    path = tmp_path / "shapes.npz"
    np.savez(path, **{name: array for name, array in (GOOD | changes).items() if array is not None})
    return str(path)


def test_reads_pixels_labels_and_shape(tmp_path):
    train, test = load(saved(tmp_path))
    assert (train.shape, train.num_classes, train.name) == ((4, 5, 3), 3, "shapes")
    assert (test.shape, test.num_classes) == ((4, 5, 3), 3)
    np.testing.assert_array_equal(train.images.reshape(6, 4, 5, 3), GOOD["x_train"])
    np.testing.assert_array_equal(train.labels, GOOD["y_train"])
    np.testing.assert_array_equal(test.images.reshape(3, 4, 5, 3), GOOD["x_test"])
    np.testing.assert_array_equal(test.labels, GOOD["y_test"])


def test_reads_grey_images_and_labels_in_a_column(tmp_path):
    grey = {name: GOOD[name][..., 0] for name in ("x_train", "x_test")}
    train, _ = load(saved(tmp_path, **grey, y_train=GOOD["y_train"][:, None].astype(np.uint8)))
    assert train.shape == (4, 5, 1)
    np.testing.assert_array_equal(train.images, grey["x_train"].reshape(6, 20))
    np.testing.assert_array_equal(train.labels, GOOD["y_train"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": None}, r"has no array y_test \(it has x_train, y_train, x_test\): save x_train, y_train"),
        ({"x_train": None, "y_train": None}, r"has no array x_train, y_train \(it has x_test, y_test\)"),
        ({"x_train": GOOD["x_train"] / np.float32(255)}, "x_train of .* is float32: give the pixels as uint8"),
        ({"x_test": GOOD["x_test"].astype(np.int64)}, "x_test of .* is int64"),
        ({"x_train": GOOD["x_train"].reshape(6, 60)}, r"has the shape \(6, 60\): give \[N, H, W, C\] or \[N, H, W\]"),
        ({"x_train": GOOD["x_train"][:0], "y_train": GOOD["y_train"][:0]}, r"has the shape \(0, 4, 5, 3\)"),
        ({"x_train": np.moveaxis(GOOD["x_train"], -1, 1)}, r"\(6, 3, 4, 5\), channels first: numpy.moveaxis"),
        ({"x_test": GOOD["x_test"][:, :3]}, r"shape \(4, 5, 3\) and x_test of \(3, 5, 3\): give both the same"),
        ({"y_train": GOOD["y_train"][:5]}, "y_train of .* has 5 labels for 6 images"),
        ({"y_train": GOOD["y_train"].astype(np.float32)}, "y_train of .* is float32 of shape .*: give whole numbers"),
        ({"y_train": np.eye(6, 3, dtype=np.int64)}, r"is int64 of shape \(6, 3\): give whole numbers of shape \[N\]"),
        ({"y_test": np.array([0, -1, 2])}, "y_test of .* has the label -1: number the classes from 0"),
        ({"y_train": GOOD["y_train"] + 1}, "y_train of .* goes up to 3 and no label is 0: number the classes from 0"),
        ({"y_train": np.array([0, 1, 3, 0, 1, 3])}, "goes up to 3 and no label is 2"),
        ({"y_train": np.array([0, 1, 2**40, 0, 1, 2])}, f"goes up to {2**40} and no label is 3"),
        ({"y_test": np.array([0, 1, 3])}, "y_test of .* has the label 3 and y_train goes up to 2"),
        (
            {"y_train": np.array([0, 1, 2, 0, 1, None])},
            "npz cannot be read: it is cut off or damaged, or holds objects; save",
        ),
    ],
)
def test_refuses_unfit_arrays(tmp_path, changes, words):
    path = saved(tmp_path, **changes)
    with pytest.raises(UserError, match=words) as caught:
        load(path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_than_four_channels_are_refused_unless_the_file_says_them(tmp_path):
    """[N, 4, 16, 16] is channels first more often than 4 x 16 pixels of 16 channels."""
    for shape, guess in (((4, 16, 16), "channels first"), ((2, 9, 9), "channels first"), ((16, 16, 13), "13 channels")):
        wide = {part: np.zeros((len(GOOD[part]), *shape), np.uint8) for part in ("x_train", "x_test")}
        with pytest.raises(UserError, match=rf"{guess}: numpy.moveaxis\(x, 1, -1\) puts them last"):
            load(saved(tmp_path, **wide))
        assert load(saved(tmp_path, **wide, channels=np.array(shape[-1]))).train.shape == shape
        with pytest.raises(UserError, match=guess):
            load(saved(tmp_path, **wide, channels=np.array(3)))


def member(header, tail=b""):
    return b"\x93NUMPY\x01\x00" + len(header + b"\n").to_bytes(2, "little") + header + b"\n" + tail


@pytest.mark.parametrize(
    "content",
    [
        member(b"{'descr': '|u1', 'fortran_order': False, 'shape': (64000000000, 1000)}"),
        member(b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,)}" % 2**70),
        member(b"{'descr': ',,,', 'fortran_order': False, 'shape': (1,)}"),
        member(b"(" * 3000),
        b"no array",
    ],
    ids=["58 TiB", "2^70", "dtype", "brackets", "text"],
)
def test_refuses_a_member_that_lies(tmp_path, content):
    with zipfile.ZipFile(saved(tmp_path)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(tmp_path / "lies.npz", "w") as file:
        for name, stored in (members | {"x_train.npy": content}).items():
            file.writestr(name, stored)
    with pytest.raises(UserError, match=r"lies.npz cannot be read|x_train of .*lies.npz is no array"):
        load(str(tmp_path / "lies.npz"))


@pytest.mark.parametrize(("offset", "value"), [(6, 1), (8, 77)], ids=["encrypted", "method"])
def test_refuses_a_member_that_no_one_can_unpack(tmp_path, offset, value):
    content = bytearray(pathlib.Path(saved(tmp_path)).read_bytes())
    for magic, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        at = -1
        while (at := content.find(magic, at + 1)) >= 0:
            content[at + offset + shift] = value
    (tmp_path / "odd.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"odd.npz cannot be read"):
        load(str(tmp_path / "odd.npz"))


def test_refuses_more_than_the_memory_holds(tmp_path, monkeypatch):
    path = saved(tmp_path)
    monkeypatch.setattr("jnas.files.reading.memory", lambda: 500)
    with pytest.raises(UserError, match=r"has arrays of [\d,]+ bytes and 500 can be read: leave some out"):
        load(path)


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*gone.npz: check the name"):
        load(str(tmp_path / "gone.npz"))


def test_refuses_a_damaged_file(tmp_path):
    whole = pathlib.Path(saved(tmp_path)).read_bytes()
    flipped = bytearray(whole)
    flipped[200] ^= 255  # a pixel: found by the checksum of the archive
    for damaged in (b"", b"not an archive", whole[: len(whole) // 2], bytes(flipped)):
        (tmp_path / "damaged.npz").write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged.npz cannot be read"):
            load(str(tmp_path / "damaged.npz"))


def test_refuses_a_single_array(tmp_path):
    with open(tmp_path / "single.npz", "wb") as file:
        np.save(file, GOOD["x_train"])
    with pytest.raises(UserError, match="holds a single array: save x_train, y_train, x_test and y_test"):
        load(str(tmp_path / "single.npz"))
