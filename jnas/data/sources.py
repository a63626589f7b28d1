"""Batches of a data set that lies on the device, as pure functions of the step: the iterator is an integer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnas.data.arrays import Dataset
from jnas.data.augment import Augment
from jnas.data.augment import augment as apply_augment
from jnas.types import Array, Batches, Examples, Key, Source


class Rows(NamedTuple):
    """Images as stored, and their labels: a whole data set on the device, or one batch before augmentation."""

    images: Any  # array of the device or of NumPy: [num_examples, height * width * channels] uint8
    labels: Any  # [num_examples] int32
    index: Any = None  # [num_chosen] int32: the examples that count, in place of all


class Padded(NamedTuple):
    """A data set cut into equal batches, for evaluation."""

    images: np.ndarray  # [num_batches, batch, height * width * channels] uint8
    labels: np.ndarray  # [num_batches, batch] int32
    mask: np.ndarray  # [num_batches, batch] bool: False where a row only fills up the last batch


def supervised_source(dataset: Dataset, *, batch_size: int, augment: Augment) -> Source:
    r"""Batches of one data set, for training with one loss.

    When to use it: the images fit on the device; otherwise `stream_source`.

    Order: epoch e visits the examples in the order \pi_e, a random permutation drawn from (key, e); an epoch has
    `len(dataset) // batch_size` batches, so that no example comes twice in it and the last partial batch is left out.
    Everything is a function of (key, step): the key is the SAME at every step, and a run resumes exactly from its step
    alone.

    Args:
        dataset: the training images.
        batch_size: examples a batch.
        augment: what happens to each image.

    Returns:
        A source of `Examples` with `image [batch_size, height, width, channels]` and `label [batch_size]`.

    Raises:
        ValueError: The batch is empty or larger than the data set.

    >>> data = Dataset(np.zeros((6, 4), np.uint8), np.arange(6, dtype=np.int32), (2, 2, 1), 6)
    >>> source = supervised_source(data, batch_size=2, augment=Augment())
    >>> labels = [source.batch(source.arrays, jnp.int32(step), jax.random.key(0)).label for step in range(3)]
    >>> sorted(jnp.concatenate(labels).tolist())
    [0, 1, 2, 3, 4, 5]
    """
    check_batch_size(batch_size, dataset)

    def batch(arrays, step, key):
        return _draw(arrays, step, key, batch_size, augment, dataset.shape)

    return Source(batch=batch, arrays=_on_device(dataset))


def bilevel_source(
    inner: Dataset, outer: Dataset, *, batch_size: int, augment: Augment, num_further: int = 0
) -> Source:
    """Batches of two data sets, for a problem of two levels.

    When to use it: search. Make `inner` and `outer` disjoint by `split`; each is visited in its own order, as by
    `supervised_source`, and both are augmented alike.

    Args:
        inner: the images of the training loss.
        outer: the images of the validation loss.
        batch_size: examples a batch, the same on both levels.
        augment: what happens to each image.
        num_further: number of further batches of `inner`, in an order of their own and augmented afresh, for the terms
            of a Neumann series or for more weight steps; 0: none.

    Returns:
        A source of `Batches` of `Examples`; `further` has a leading axis `[num_further]`, or is None.

    Raises:
        ValueError: The batch is empty or larger than one of the sets, the sets differ in shape or classes, or
            `num_further < 0`.
    """
    check_batch_size(batch_size, inner, outer)
    check_levels(inner.shape, outer.shape, num_further)
    if inner.num_classes != outer.num_classes:
        raise ValueError(
            f"inner has {inner.num_classes} classes and outer {outer.num_classes}: split one data set for both"
        )

    def batch(arrays, step, key):
        inner_rows, outer_rows = arrays
        return _draw_levels(inner_rows, outer_rows, step, key, batch_size, augment, inner.shape, num_further)

    return Source(batch=batch, arrays=(_on_device(inner), _on_device(outer)))


def bilevel_runs_source(
    dataset: Dataset,
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    batch_size: int,
    augment: Augment,
    num_further: int = 0,
) -> Source:
    """Batches of several runs, each with an inner and an outer half of its own, over one copy of the images.

    When to use it: `fit(runs=...)`. Run r sees what `bilevel_source` on its two halves would give it.

    Args:
        dataset: the images that the runs share.
        parts: from `split_index`, one pair a run, all of the same sizes.
        batch_size: examples a batch, the same on both levels.
        augment: what happens to each image.
        num_further: as for `bilevel_source`.

    Returns:
        A source with `per_run`, the numbers of the examples: `[num_runs, num_inner]` and `[num_runs, num_outer]` int32.

    Raises:
        ValueError: The batch is empty or larger than a half, or `num_further < 0`.
    """
    inner, outer = (np.stack([part[level] for part in parts]) for level in range(2))
    check_batch_size(batch_size, inner[0], outer[0])
    check_levels(dataset.shape, dataset.shape, num_further)

    def batch(arrays, step, key):
        rows, (inner_index, outer_index) = arrays
        left, right = (rows._replace(index=index) for index in (inner_index, outer_index))
        return _draw_levels(left, right, step, key, batch_size, augment, dataset.shape, num_further)

    return Source(batch=batch, arrays=_on_device(dataset), per_run=(inner, outer))


def padded(dataset: Dataset, batch_size: int) -> Padded:
    """Cuts a data set into batches of one size, in the order of the file; the last one is filled up with black images.

    When to use it: evaluation. One shape means one compilation; sum over `mask`, so that every example counts once.

    Args:
        dataset: at least one example.
        batch_size: examples a batch; may exceed the data set.

    Returns:
        Images, labels and mask with the leading axes `[num_batches, batch_size]`.

    Raises:
        ValueError: The data set is empty or `batch_size < 1`.

    >>> padded(Dataset(np.zeros((3, 4), np.uint8), np.zeros(3, np.int32), (2, 2, 1), 1), 2).mask.tolist()
    [[True, True], [True, False]]
    """
    if batch_size < 1 or not len(dataset):
        raise ValueError(
            f"batch size {batch_size} and {len(dataset)} examples: both must be at least 1 to be evaluated"
        )
    num_batches = -(-len(dataset) // batch_size)
    missing = num_batches * batch_size - len(dataset)
    return Padded(
        images=np.pad(dataset.images, ((0, missing), (0, 0))).reshape(num_batches, batch_size, -1),
        labels=np.pad(dataset.labels, (0, missing)).reshape(num_batches, batch_size),
        mask=(np.arange(num_batches * batch_size) < len(dataset)).reshape(num_batches, batch_size),
    )


def check_batch_size(batch_size: int, *datasets) -> None:
    """Raises a ValueError unless each of `datasets` (anything with a length) has a whole batch."""
    smallest = min(len(dataset) for dataset in datasets)
    if not 1 <= batch_size <= smallest:
        raise ValueError(
            f"batch size {batch_size} with {smallest} examples: choose a size from 1 to {smallest} (batch_size of the "
            "search, train.batch_size of what is trained after it)"
        )


def check_levels(inner: tuple[int, ...], outer: tuple[int, ...], num_further: int) -> None:
    """Raises a ValueError unless both levels have images of one shape and the number of further batches is possible."""
    if inner != outer:
        raise ValueError(f"inner images are {inner} and outer images {outer}: give both levels the same shape")
    if num_further < 0:
        raise ValueError(f"num_further {num_further} is a number of batches: give 0 or more")


def level_keys(key: Key) -> tuple[Key, Key, Key]:
    """The keys of the inner batch, the outer batch and the further inner batches."""
    inner_key, outer_key, further_key = jax.random.split(key, 3)
    return inner_key, outer_key, further_key


def epoch_order(key: Key, epoch: Array | int, size: int) -> Array:
    """The order of one epoch: a permutation `[size]` int32 that depends on (key, epoch) alone."""
    order_key, _ = jax.random.split(key)
    return jax.random.permutation(jax.random.fold_in(order_key, epoch), size)


def finish(rows: Rows, step: Array, key: Key, augment: Augment, shape: tuple[int, int, int]) -> Examples:
    """Augments the rows of step `step`, with a key that no order uses."""
    _, augment_key = jax.random.split(key)
    return Examples(
        image=apply_augment(augment, jax.random.fold_in(augment_key, step), rows.images, shape), label=rows.labels
    )


def _draw_levels(inner, outer, step, key, batch_size, augment, shape, num_further):
    inner_key, outer_key, further_key = level_keys(key)

    def one_more(number):
        return _draw(inner, step * num_further + number, further_key, batch_size, augment, shape)

    return Batches(
        inner=_draw(inner, step, inner_key, batch_size, augment, shape),
        outer=_draw(outer, step, outer_key, batch_size, augment, shape),
        further=jax.vmap(one_more)(jnp.arange(num_further)) if num_further else None,
    )


def _draw(rows, step, key, batch_size, augment, shape):
    size = len(rows.labels if rows.index is None else rows.index)
    epoch, position = jnp.divmod(step, size // batch_size)
    index = jax.lax.dynamic_slice(epoch_order(key, epoch, size), (position * batch_size,), (batch_size,))
    index = index if rows.index is None else rows.index[index]
    return finish(Rows(rows.images[index], rows.labels[index]), step, key, augment, shape)


def _on_device(dataset):
    return Rows(jnp.asarray(dataset.images), jnp.asarray(dataset.labels))
