import hashlib
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
    "x_test": "ab98a958c3b432bf140f29ae0a6fa0868bd8540a142c4c7e1b7363212346dc54",
    "y_test": "ccdc30a6780514feeaf7468167d4ae6f668adc8400560362b7a2aa4bdfa7c6db",
}


def digest(array, dtype=np.uint8):
    return hashlib.sha256(array.astype(dtype).tobytes()).hexdigest()


def test_the_slice_is_the_one_of_the_readme():
    splits = load("fashion-mnist-slice")
    found = {
        "x_train": digest(splits.train.images),
        "y_train": digest(splits.train.labels),
        "x_test": digest(splits.test.images),
        "y_test": digest(splits.test.labels),
    }
    assert found == CHECKSUMS
    readme = pathlib.Path(__file__).parents[2] / "third_party" / "fashion-mnist" / "README.md"
    assert all(value in readme.read_text() for value in CHECKSUMS.values())


def test_the_slice_is_balanced():
    splits = load("fashion-mnist-slice")
    assert np.bincount(splits.train.labels).tolist() == [500] * 10
    assert np.bincount(splits.test.labels).tolist() == [100] * 10
    for part in splits:
        assert (part.shape, part.num_classes, part.name) == ((28, 28, 1), 10, "fashion-mnist-slice")


@pytest.mark.parametrize("name", ["cifar-10", "", "no/such/folder", "data.npy"])
def test_an_unknown_name_is_answered_with_the_known_ones(name):
    with pytest.raises(UserError, match=r"give fashion-mnist-slice, FILE.npz, an existing folder") as caught:
        load(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["fashion-mnist-slice", "some.npz", "tfds:mnist"])
def test_size_is_for_folders(name):
    with pytest.raises(UserError, match=r"size \(8, 8\) resizes the images of a folder"):
        load(name, size=(8, 8))


def test_importing_the_room_leaves_the_heavy_libraries_alone():
    heavy = "PIL tensorflow_datasets tensorflow array_record grain"
    code = f"import sys, jnas.data; print([name for name in {heavy.split()} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert out.stdout.strip() == "[]"
