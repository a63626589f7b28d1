import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnas.data import (
    Augment,
    Dataset,
    bilevel_source,
    split,
    supervised_source,
)
from jnas.data.stream import bilevel_stream_source, split_stream, stream_source

KEY = jax.random.key(4)
AUGMENT = Augment(flip=True)  # the cheapest to compile; 14 images show a wrong key


def dataset(size, seed):
    rng = np.random.default_rng(seed)
    return Dataset(rng.integers(0, 256, (size, 4), np.uint8), np.arange(size, dtype=np.int32), (2, 2, 1), size)


class Disk:
    """Examples as `tfds.data_source` yields them; counts what is read."""

    def __init__(self, data):
        self.data, self.reads, self.threads = data, [], set()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        self.reads.append(index)
        self.threads.add(threading.get_ident())
        return {"image": self.data.images[index].reshape(self.data.shape), "label": np.int64(self.data.labels[index])}


class BatchedDisk(Disk):
    def __getitems__(self, indices):
        return [Disk.__getitem__(self, index) for index in indices]

    def __getitem__(self, index):
        assert index == 0, "only the first example may be read on its own"
        return Disk.__getitem__(self, index)


def steps(source, numbers):
    batch = jax.jit(source.batch)
    return [
        batch(source.arrays if source.fetch is None else source.fetch(step), jnp.int32(step), KEY) for step in numbers
    ]


def assert_same_bits(ones, others):
    jax.tree.map(np.testing.assert_array_equal, ones, others)


@pytest.fixture(scope="module")
def on_device():
    return steps(supervised_source(dataset(7, 0), batch_size=2, augment=AUGMENT), range(7))


@pytest.mark.parametrize("kind", [Disk, BatchedDisk])
@pytest.mark.parametrize("read_ahead", [0, 3])
def test_stream_gives_the_batches_of_the_device_bit_for_bit(on_device, kind, read_ahead):
    source = stream_source(kind(dataset(7, 0)), batch_size=2, augment=AUGMENT, key=KEY, read_ahead=read_ahead)
    assert_same_bits(steps(source, range(7)), on_device)


def test_stream_resumes_at_any_step_while_reading_ahead(on_device):
    source = stream_source(Disk(dataset(7, 0)), batch_size=2, augment=AUGMENT, key=KEY, read_ahead=2)
    order = [0, 1, 5, 6, 2, 3, 3]
    assert_same_bits(steps(source, order), [on_device[step] for step in order])


def test_bilevel_stream_gives_the_batches_of_the_device_bit_for_bit():
    inner, outer = dataset(7, 0), Dataset(dataset(5, 1).images, np.arange(5, dtype=np.int32), (2, 2, 1), 7)
    options = {"batch_size": 2, "augment": AUGMENT, "num_further": 2}
    expected = steps(bilevel_source(inner, outer, **options), range(3))
    assert_same_bits(steps(bilevel_stream_source(Disk(inner), Disk(outer), key=KEY, **options), range(3)), expected)


def test_bilevel_stream_without_further_batches_reads_none():
    disks = Disk(dataset(7, 0)), Disk(dataset(5, 1))
    source = bilevel_stream_source(*disks, batch_size=2, augment=AUGMENT, key=KEY)
    assert source.fetch(0).further is None
    assert [len(disk.reads) for disk in disks] == [3, 3]  # the first example for its shape, and one batch


def test_reads_only_the_batch_and_in_threads_only_when_told():
    disk = Disk(dataset(7, 0))
    source = stream_source(disk, batch_size=2, augment=AUGMENT, key=KEY)
    disk.reads.clear()
    source.fetch(0)
    assert len(disk.reads) == 2
    assert disk.threads == {threading.get_ident()}
    ahead = Disk(dataset(7, 0))
    source = stream_source(ahead, batch_size=2, augment=AUGMENT, key=KEY, read_ahead=1)
    ahead.threads.clear()
    source.fetch(0)
    assert ahead.threads
    assert threading.get_ident() not in ahead.threads


@pytest.mark.parametrize("read_ahead", [0, 2])
def test_stream_names_an_image_of_another_shape(read_ahead):
    items = [{"image": np.zeros((2, 2, 1), np.uint8), "label": 0} for _ in range(3)]
    items.append({"image": np.zeros((3, 2, 1), np.uint8), "label": 0})
    source = stream_source(items, batch_size=4, augment=AUGMENT, key=KEY, read_ahead=read_ahead)
    with pytest.raises(ValueError, match=r"image 3 is uint8 \(3, 2, 1\) and the first is uint8 \(2, 2, 1\)"):
        source.fetch(0)


@pytest.mark.parametrize("image", [np.zeros((2, 2, 1), np.float32), np.zeros((2, 2), np.uint8)])
def test_stream_refuses_other_images(image):
    with pytest.raises(ValueError, match="give uint8 images of shape"):
        stream_source([{"image": image, "label": 0}], batch_size=1, augment=AUGMENT, key=KEY)


def test_stream_refuses_impossible_settings():
    disk = Disk(dataset(4, 0))
    with pytest.raises(ValueError, match="batch size 5 with 4 examples"):
        stream_source(disk, batch_size=5, augment=AUGMENT, key=KEY)
    with pytest.raises(ValueError, match="batch size 5 with 4 examples"):
        bilevel_stream_source(Disk(dataset(9, 0)), disk, batch_size=5, augment=AUGMENT, key=KEY)
    with pytest.raises(ValueError, match="num_further -1"):
        bilevel_stream_source(disk, disk, batch_size=2, augment=AUGMENT, key=KEY, num_further=-1)
    with pytest.raises(ValueError, match="read_ahead -1"):
        stream_source(disk, batch_size=2, augment=AUGMENT, key=KEY, read_ahead=-1)


@pytest.mark.parametrize("read_ahead", [0, 2])
def test_the_rows_of_two_processes_are_the_batch_of_one(read_ahead):
    """Whatever rows a process is asked for, also in turns with the whole batch."""
    disks = Disk(dataset(9, 0)), Disk(dataset(8, 1))
    source = bilevel_stream_source(*disks, batch_size=4, augment=AUGMENT, key=KEY, num_further=2, read_ahead=read_ahead)
    assert source.batch_size == 4
    parts = np.array([0, 2]), np.array([1, 3])
    for step in range(3):
        whole, *pieces = source.fetch(step), *(source.fetch(step, rows) for rows in parts)
        for rows, piece in zip(parts, pieces, strict=True):
            assert_same_bits(jax.tree.map(lambda leaf, rows=rows: leaf[rows], (whole.inner, whole.outer)), piece[:2])
            assert_same_bits(jax.tree.map(lambda leaf, rows=rows: leaf[:, rows], whole.further), piece.further)


def test_a_process_reads_its_rows_only():
    disk = Disk(dataset(8, 0))
    source = stream_source(disk, batch_size=4, augment=AUGMENT, key=KEY)
    disk.reads.clear()
    whole = source.fetch(1).labels[[1, 2]].tolist()
    disk.reads.clear()
    assert source.fetch(1, np.array([1, 2])).labels.tolist() == whole
    assert disk.reads == whole  # the label of an example here is its number


def test_split_stream_divides_as_split_does_and_reads_nothing():
    data = dataset(7, 0)
    for kind in (Disk, BatchedDisk):
        disk = kind(data)
        halves = split_stream(disk, KEY, 0.6)
        assert disk.reads == []
        for half, expected in zip(halves, split(data, KEY, 0.6), strict=True):
            read = half.__getitems__ if kind is BatchedDisk else lambda index, half=half: [half[i] for i in index]
            assert [int(item["label"]) for item in read(list(range(len(half))))] == expected.labels.tolist()
    with pytest.raises(ValueError, match="leaves one part empty"):
        split_stream(Disk(data), KEY, 0.01)
