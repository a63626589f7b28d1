"""Reading what TensorFlow Datasets prepared, on a CIFAR-10 of random pixels that is written without TensorFlow."""

import json
import shutil
import socket
import sys

import jax
import numpy as np
import pytest

from jnas.data import Augment
from jnas.data.load import load
from jnas.data.stream import open_tfds, stream_source
from jnas.errors import UserError

KEY = jax.random.key(0)
COUNTS = {"train": 12, "test": 5}
PIXELS = {
    part: np.random.default_rng(i).integers(0, 256, (n, 32, 32, 3), np.uint8)
    for i, (part, n) in enumerate(COUNTS.items())
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data folder with the data set "cifar10" as array_record."""
    import tensorflow_datasets as tfds
    from PIL import Image

    # Outside the context: looking a builder up imports the module that registers it.
    real = tfds.builder_cls("cifar10")
    with tfds.core.registered.skip_registration():

        class Cifar10(real):  # its real name, version and features; examples of our own
            # Of a class in a module, the path is looked up by a package that is not among the requirements.
            __module__ = "__main__"

            def _split_generators(self, dl_manager):
                return {part: self._generate_examples(part) for part in COUNTS}

            def _generate_examples(self, part):
                for i, pixels in enumerate(PIXELS[part]):
                    name = f"{part}_{i:05d}"
                    yield name, {"id": name, "image": Image.fromarray(pixels), "label": i % 10}

    folder = tmp_path_factory.mktemp("tfds")
    Cifar10(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture
def copied(prepared, tmp_path):
    """A copy that a test may damage: `(data folder, folder of the files)`."""
    shutil.copytree(prepared, tmp_path / "copy")
    (files,) = (tmp_path / "copy" / "cifar10").iterdir()
    return tmp_path / "copy", files


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_):
        pytest.fail("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_reads_the_pixels_and_labels_that_were_written(prepared):
    for part, data in load(f"tfds:cifar10:{prepared}")._asdict().items():
        assert (data.shape, data.num_classes, data.name) == ((32, 32, 3), 10, "cifar10")
        # The order on disk is that of a hash, so the examples are compared as a set.
        expected = {pixels.tobytes(): i % 10 for i, pixels in enumerate(PIXELS[part])}
        found = {pixels.tobytes(): int(label) for pixels, label in zip(data.images, data.labels, strict=True)}
        assert found == expected
        assert len(data) == COUNTS[part]
    assert "tensorflow" not in sys.modules


def test_a_data_source_can_be_streamed(prepared):
    import tensorflow_datasets as tfds

    data = tfds.data_source("cifar10", data_dir=prepared, split="train", download=False)
    source = stream_source(data, batch_size=COUNTS["train"], augment=Augment(mean=(0.0,) * 3, std=(1.0,) * 3), key=KEY)
    rows = source.fetch(0)
    expected = {pixels.tobytes(): i % 10 for i, pixels in enumerate(PIXELS["train"])}
    assert {image.tobytes(): int(label) for image, label in zip(rows.images, rows.labels, strict=True)} == expected


@pytest.mark.parametrize("name", ["tfds:no_such_data", "tfds:", "tfds:two words", "tfds:huggingface:mnist"])
def test_refuses_an_unknown_name(name):
    with pytest.raises(UserError, match=r"TensorFlow Datasets knows no data set '.*': write tfds:NAME or"):
        load(name)


def test_refuses_data_that_are_not_prepared_and_says_how(tmp_path):
    with pytest.raises(UserError, match=r"'cifar10' in .* is not prepared: prepare it once .*download_and_prepare"):
        load(f"tfds:cifar10:{tmp_path}")
    assert not any(tmp_path.iterdir())


@pytest.fixture
def tfrecord(copied):
    """The copy in the format that TensorFlow Datasets writes by default."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    folder, files = copied
    for path in files.glob("*.array_record-*"):
        with ArrayRecordDataSource(str(path)) as source:
            records = [source[i] for i in range(len(source))]
        framed = b"".join(len(record).to_bytes(8, "little") + bytes(4) + record + bytes(4) for record in records)
        path.with_name(path.name.replace("array_record", "tfrecord")).write_bytes(framed)
        path.unlink()
    edit(files / "dataset_info.json", lambda info: info.update(fileFormat="tfrecord"))
    return folder, files


def test_the_default_format_is_read_alike(prepared, tfrecord):
    one, other = (load(f"tfds:cifar10:{folder}") for folder in (prepared, tfrecord[0]))
    for part, same in zip(one, other, strict=True):
        np.testing.assert_array_equal(part.images, same.images)
        np.testing.assert_array_equal(part.labels, same.labels)
    source, classes = open_tfds(f"tfds:cifar10:{tfrecord[0]}", "train[25%:75%]")
    assert (len(source), classes) == (6, 10)
    np.testing.assert_array_equal(source[0]["image"].reshape(-1), one.train.images[3])
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    "damage",
    [lambda held: held[:-1], lambda held: held[:5], lambda held: held + bytes(20),
     lambda held: held[:12] + bytes(200) + held[212:], lambda held: held[:300] + b"\xff" * 200 + held[500:]],
)  # fmt: skip
def test_refuses_damaged_files_of_the_default_format(tfrecord, damage):
    folder, files = tfrecord
    (record,) = files.glob("*train*")
    record.write_bytes(damage(record.read_bytes()))
    with pytest.raises(UserError, match=r"is damaged \(.*\): delete the folder and prepare it"):
        load(f"tfds:cifar10:{folder}")


def test_refuses_damaged_files(copied):
    folder, files = copied
    (record,) = files.glob("*train*")
    record.write_bytes(record.read_bytes()[:100])
    with pytest.raises(UserError, match=r"is damaged .*: delete the folder and prepare it"):
        load(f"tfds:cifar10:{folder}")
    (files / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot open 'tfds:cifar10:.*delete the folder"):
        load(f"tfds:cifar10:{folder}")


def test_refuses_data_without_a_test_split(copied):
    folder, files = copied
    edit(files / "dataset_info.json", lambda info: info["splits"].pop())
    with pytest.raises(UserError, match="'cifar10' has no split test: choose one with the splits train and test"):
        load(f"tfds:cifar10:{folder}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda features: features.pop("label"), "has no feature label"),
        (lambda features: features.pop("image"), "has no feature image"),
        (lambda features: features.update(label=features["id"]), "has no single class as its label"),
    ],
)
def test_refuses_other_features(copied, change, words):
    """Under a name of its own, for which there is no code, the description on disk is what counts."""
    folder, files = copied
    shutil.copytree(files, folder / "of_ours" / files.name)
    ours = folder / "of_ours" / files.name
    for record in ours.glob("cifar10-*"):
        record.rename(record.with_name(record.name.replace("cifar10", "of_ours")))
    edit(ours / "dataset_info.json", lambda info: info.update(name="of_ours"))
    assert len(load(f"tfds:of_ours:{folder}").train) == COUNTS["train"]
    edit(ours / "features.json", lambda content: change(content["featuresDict"]["features"]))
    with pytest.raises(UserError, match=words):
        load(f"tfds:of_ours:{folder}")


def prepare(folder, train, test, labels):
    """Writes a data set "odd" of the given images; each split has the given labels."""
    import tensorflow_datasets as tfds

    shape = (None, None, 3)
    with tfds.core.registered.skip_registration():

        class Odd(tfds.core.GeneratorBasedBuilder):
            __module__ = "__main__"
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                image = tfds.features.Tensor(shape=shape, dtype=train[0].dtype, encoding="zlib")
                features = tfds.features.FeaturesDict(
                    {"image": image, "label": tfds.features.ClassLabel(num_classes=2)}
                )
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(train), "test": self._generate_examples(test)}

            def _generate_examples(self, images):
                for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                    yield i, {"image": image, "label": label}

    Odd(data_dir=folder, file_format="array_record").download_and_prepare()


SMALL, LARGE = np.zeros((2, 2, 3), np.uint8), np.zeros((3, 2, 3), np.uint8)


@pytest.mark.parametrize(
    ("train", "test", "labels", "words"),
    [
        ([SMALL, LARGE], [SMALL, SMALL], [0, 1], r"'odd' differ in shape .* write them at one size into a folder"),
        ([SMALL, SMALL], [LARGE, LARGE], [0, 1], r"'odd' differ in shape \(\(3, 2, 3\) and \(2, 2, 3\)\)"),
        ([SMALL, SMALL], [SMALL, SMALL], [0, -1], r"'odd' hides labels of its test images \(as -1\)"),
        ([SMALL + 0.5] * 2, [SMALL + 0.5] * 2, [0, 1], r"images of data set 'odd' are float64: choose one with uint8"),
    ],
)
def test_refuses_unfit_images(tmp_path, train, test, labels, words):
    prepare(tmp_path, train, test, labels)
    with pytest.raises(UserError, match=words):
        load(f"tfds:odd:{tmp_path}")
