"""Batches of data that do not fit on the device: the host reads what each step needs, in the same order."""

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from jnas.data.arrays import split_index
from jnas.data.augment import Augment
from jnas.data.sources import Rows, check_batch_size, check_levels, epoch_order, finish, level_keys
from jnas.data.tfds import check_parts, explained, opened, prepared
from jnas.types import Batches, Key, Source


class Indexable(Protocol):
    """A data set on disk, such as a `tfds.data_source` or a grain source.

    Item i is a mapping with "image" `[height, width, channels]` uint8 and "label", an integer. Where the object has a
    method `__getitems__(indices)`, a batch is read by one call of it.
    """

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """Example number `index`."""


def stream_source(data: Indexable, *, batch_size: int, augment: Augment, key: Key, read_ahead: int = 0) -> Source:
    """Batches of one data set that is read from the host as training goes on.

    When to use it: the images do not fit on the device; otherwise `supervised_source` is faster. With the same key in
    `key` and in `batch`, both give the same batches bit for bit. In a run of several processes each reads the examples
    that its own devices work on, and the batches stay the same.

    Args:
        data: the examples; all images have the shape of the first.
        batch_size: examples a batch.
        augment: what happens to each image, on the device.
        key: PRNG key of the order, which the host needs before the step runs.
        read_ahead: number of steps that threads read in advance; 0: read when asked.

    Returns:
        A source of `Examples`, with `fetch`.

    Raises:
        ValueError: The batch is empty or larger than the data, `read_ahead < 0`, or an image is not uint8 `[height,
            width, channels]`.

    >>> data = [{"image": np.zeros((2, 2, 1), np.uint8), "label": i} for i in range(4)]
    >>> source = stream_source(data, batch_size=4, augment=Augment(), key=jax.random.key(0))
    >>> sorted(source.fetch(0).labels.tolist())
    [0, 1, 2, 3]
    """
    check_batch_size(batch_size, data)
    shape = _shape(data)
    read = _reader(data, key, batch_size, shape)

    def batch(rows, step, key):
        return finish(rows, step, key, augment, shape)

    return Source(batch=batch, fetch=_ahead(read, read_ahead), batch_size=batch_size)


def bilevel_stream_source(
    inner: Indexable,
    outer: Indexable,
    *,
    batch_size: int,
    augment: Augment,
    key: Key,
    num_further: int = 0,
    read_ahead: int = 0,
) -> Source:
    """Batches of two data sets that are read from the host: `bilevel_source` for data that do not fit on the device.

    Args:
        inner: the examples of the training loss.
        outer: the examples of the validation loss, none of them in `inner`.
        batch_size: examples a batch, the same on both levels.
        augment: what happens to each image, on the device.
        key: PRNG key of the orders, which the host needs before the step runs.
        num_further: number of further inner batches; 0: none.
        read_ahead: number of steps that threads read in advance; 0: read when asked.

    Returns:
        A source of `Batches` of `Examples`, with `fetch`.

    Raises:
        ValueError: As `stream_source`; or the levels differ in shape, or `num_further < 0`.
    """
    check_batch_size(batch_size, inner, outer)
    shape = _shape(inner)
    check_levels(shape, _shape(outer), num_further)
    keys = level_keys(key)
    read_inner, read_outer, read_further = (
        _reader(data, level_key, batch_size, shape) for data, level_key in zip((inner, outer, inner), keys, strict=True)
    )

    def read(step, rows):
        more = [read_further(step * num_further + number, rows) for number in range(num_further)]
        return Batches(
            inner=read_inner(step, rows),
            outer=read_outer(step, rows),
            further=jax.tree.map(lambda *each: np.stack(each), *more) if more else None,
        )

    def batch(rows, step, key):
        inner_key, outer_key, further_key = level_keys(key)

        def one_more(number, row):
            return finish(row, step * num_further + number, further_key, augment, shape)

        return Batches(
            inner=finish(rows.inner, step, inner_key, augment, shape),
            outer=finish(rows.outer, step, outer_key, augment, shape),
            further=jax.vmap(one_more)(jax.numpy.arange(num_further), rows.further) if num_further else None,
        )

    return Source(batch=batch, fetch=_ahead(read, read_ahead), batch_size=batch_size)


def split_stream(data: Indexable, key: Key, fraction: float) -> tuple[Indexable, Indexable]:
    """Divides a data set on disk at random into two, as `split` does with one in memory; nothing is read.

    Args:
        data: what to divide.
        key: PRNG key; the same key gives the same halves.
        fraction: the part that goes to the first, between 0 and 1 exclusive; the number of examples is rounded.

    Returns:
        The two parts.

    Raises:
        ValueError: One of the parts would be empty.

    >>> first, second = split_stream("abcde", jax.random.key(0), 0.6)
    >>> sorted([*first, *second])
    ['a', 'b', 'c', 'd', 'e']
    """
    first, second = split_index(len(data), key, fraction)
    return _Part(data, first), _Part(data, second)


def open_tfds(name: str, part: str = "train") -> tuple[Indexable, int]:
    """Opens one split of a data set that TensorFlow Datasets has prepared, and reads no example of it yet.

    When to use it: for `stream_source`, if the images do not fit into memory.

    Args:
        name: `tfds:NAME` or `tfds:NAME:DATA_DIR`.
        part: of its splits, also in the notation of TensorFlow Datasets, such as "train[:10%]".

    Returns:
        The examples, mappings with "image" and "label", and the number of classes.

    Raises:
        UserError: The name is unknown, the data are not prepared, or they have no such split, image or label.
    """
    builder, words = prepared(name)
    check_parts(builder.info, words.name, (part.partition("[")[0],))
    with explained(words):
        return opened(builder, part), builder.info.features["label"].num_classes


class _Part:
    """Some examples of a data set on disk."""

    def __init__(self, data: Indexable, index: np.ndarray):
        self._data, self._index = data, index
        batched = getattr(data, "__getitems__", None)
        if batched is not None:
            self.__getitems__ = lambda indices: batched(index[indices].tolist())

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Any:
        return self._data[int(self._index[index])]


def _shape(data) -> tuple[int, int, int]:
    image = np.asarray(data[0]["image"])
    if image.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(
            f"image 0 is {image.dtype} {image.shape}: give uint8 images of shape (height, width, channels)"
        )
    height, width, channels = image.shape
    return height, width, channels


def _reader(data, key, batch_size, shape) -> Callable[[int, np.ndarray | None], Rows]:
    """A function of the step that reads its batch from `data`, or the given rows of it."""
    steps_per_epoch = len(data) // batch_size

    @functools.lru_cache(maxsize=2)  # two: reading ahead crosses the border of an epoch
    def order(epoch):
        return np.asarray(epoch_order(key, epoch, len(data)))

    def read(step, rows):
        epoch, position = divmod(step, steps_per_epoch)
        batch = order(epoch)[position * batch_size : (position + 1) * batch_size]
        index = (batch if rows is None else batch[rows]).tolist()
        items = data.__getitems__(index) if hasattr(data, "__getitems__") else [data[i] for i in index]
        images = [np.asarray(item["image"]) for item in items]
        for i, image in zip(index, images, strict=True):
            if image.dtype != np.uint8 or image.shape != shape:
                raise ValueError(
                    f"image {i} is {image.dtype} {image.shape} and the first is uint8 {shape}: "
                    "bring all images to one shape"
                )
        labels = np.array([int(item["label"]) for item in items], np.int32)
        return Rows(np.stack(images).reshape(len(index), -1), labels)

    return read


def _ahead(read, depth):
    """Reads the next `depth` steps in threads while the device works on this one."""
    if depth < 0:
        raise ValueError(f"read_ahead {depth} is a number of steps: give 0 or more")
    if not depth:
        return lambda step, rows=None: read(step, rows)
    pool = concurrent.futures.ThreadPoolExecutor(depth)
    pending: dict[tuple[int, Any], concurrent.futures.Future] = {}

    def fetch(step, rows=None):
        part = None if rows is None else tuple(rows)
        wanted = [(ahead, part) for ahead in range(step, step + depth + 1)]
        for skipped in [other for other in pending if other not in wanted]:  # the run was resumed at another step
            pending.pop(skipped).cancel()
        for ahead in wanted:
            if ahead not in pending:
                pending[ahead] = pool.submit(read, ahead[0], rows)
        return pending.pop(wanted[0]).result()

    return fetch
