import hashlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jnas.data.load import load
from jnas.errors import UserError

CHECKSUMS = {  # of third_party/fashion-mnist/README.md
    "x_train": "17b33226eaa3f01ceeed260eeb1e2e490a42284de6b77d01321a70f8d8fd2794",
    "y_train": "97bf76e5bf0ceace352bf511992784a0b48cc9c9a5f6c5b757cedd4476d6b9f3",
    "x_test": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    "y_test": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}
OF_THE_SLICE = {  # its 1,000 test images, as versions before 0.7.0 embedded them
    "x_test": "ab98a958c3b432bf140f29ae0a6fa0868bd8540a142c4c7e1b7363212346dc54",
    "y_test": "ccdc30a6780514feeaf7468167d4ae6f668adc8400560362b7a2aa4bdfa7c6db",
}


def digest(array, dtype=np.uint8):
    return hashlib.sha256(array.astype(dtype).tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "expected", "per_class"),
    [("fashion-mnist-5k", CHECKSUMS, 1000), ("fashion-mnist-slice", CHECKSUMS | OF_THE_SLICE, 100)],
)
def test_the_embedded_images_are_those_of_the_readme(name, expected, per_class):
    splits = load(name)
    found = {
        "x_train": digest(splits.train.images),
        "y_train": digest(splits.train.labels),
        "x_test": digest(splits.test.images),
        "y_test": digest(splits.test.labels),
    }
    assert found == expected
    readme = pathlib.Path(__file__).parents[2] / "third_party" / "fashion-mnist" / "README.md"
    assert all(value in readme.read_text() for value in expected.values())
    for part, count in zip(splits, (500, per_class), strict=True):
        assert np.bincount(part.labels).tolist() == [count] * 10
        assert (part.shape, part.num_classes, part.name) == ((28, 28, 1), 10, name)


@pytest.mark.parametrize("name", ["cifar-10", "", "no/such/folder", "data.npy"])
def test_an_unknown_name_is_answered_with_the_known_ones(name):
    with pytest.raises(UserError, match=r"give fashion-mnist-5k, FILE.npz, an existing folder") as caught:
        load(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["x" * 5000, "a/" * 3000 + "x.npz", "~nobody-of-this-name/x", "a\0b", "http://[x", "\udce9"]
)
def test_no_name_is_too_odd_for_a_sentence(name):
    with pytest.raises(UserError, match=r"^[^\n]+$") as caught:
        load(name)
    assert len(str(caught.value)) < 300


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(UserError, match="there is no file"):
        load(str(tmp_path / "pipe.npz"))


@pytest.mark.parametrize("name", ["fashion-mnist-slice", "some.npz", "tfds:mnist"])
def test_size_is_for_folders(name):
    with pytest.raises(UserError, match=r"size \(8, 8\) resizes the images of a folder"):
        load(name, size=(8, 8))


def test_importing_the_room_leaves_the_heavy_libraries_alone():
    heavy = "PIL tensorflow_datasets tensorflow array_record grain"
    code = f"import sys, jnas.data; print([name for name in {heavy.split()} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert out.stdout.strip() == "[]"
