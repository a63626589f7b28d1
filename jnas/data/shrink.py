"""Smaller images of the same examples, for a search that is cheap because of them."""

import dataclasses

import numpy as np

from jnas.data.arrays import Dataset


def shrunk(dataset: Dataset, factor: int) -> Dataset:
    """The same examples, their images of `factor` times less height and width: the rounded means of square blocks.

    When to use it: for a supernet. A step of it then takes about `1 / factor^2` of the time, and a search has that many
    more steps. What is found is trained on the images as they are.

    Args:
        dataset: the images.
        factor: of the sides, at least 1; rows and columns that fill no block are left out.

    Returns:
        A data set of images of shape `(height // factor, width // factor, channels)`.

    Raises:
        ValueError: The factor is below 1, or larger than a side.

    >>> data = Dataset(np.array([[0, 2, 9, 4, 6, 9]], np.uint8), np.zeros(1, np.int32), (2, 3, 1), 1)
    >>> shrunk(data, 2).images.tolist(), shrunk(data, 2).shape
    ([[3]], (1, 1, 1))

    Reference:
        Chrabaszcz, Loshchilov, Hutter, "A downsampled variant of ImageNet as an alternative to the CIFAR datasets",
        arXiv 1707.08819.
    """
    height, width, channels = dataset.shape
    if not 1 <= factor <= min(height, width):
        raise ValueError(
            f"shrink is {factor} and images are {height} x {width}: give a factor from 1 to {min(height, width)}"
        )
    if factor == 1:
        return dataset
    shape = (height // factor, width // factor, channels)
    whole = dataset.images.reshape(-1, height, width, channels)[:, : shape[0] * factor, : shape[1] * factor]
    means = whole.reshape(-1, shape[0], factor, shape[1], factor, channels).mean((2, 4), dtype=np.float32)
    images = np.round(means).astype(np.uint8).reshape(len(dataset), -1)
    return dataclasses.replace(dataset, images=images, shape=shape)
