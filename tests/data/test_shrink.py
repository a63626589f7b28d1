"""Smaller images: the rounded means of blocks, and nothing else of a data set changed."""

import numpy as np
import pytest

from jnas.data import Dataset
from jnas.data.shrink import shrunk


def dataset(height, width, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, height * width * channels), dtype=np.uint8)
    return Dataset(pixels, np.arange(5, dtype=np.int32), (height, width, channels), 5, "some", tuple("abcde"))


@pytest.mark.parametrize(("height", "width", "channels", "factor"), [(4, 6, 3, 2), (7, 5, 1, 2), (9, 9, 2, 3)])
def test_a_pixel_is_the_rounded_mean_of_its_block(height, width, channels, factor):
    whole = dataset(height, width, channels)
    small = shrunk(whole, factor)
    assert small.shape == (height // factor, width // factor, channels)
    before = whole.images.reshape(5, height, width, channels).astype(int)
    after = small.images.reshape(5, *small.shape)
    for n, y, x, c in np.ndindex(after.shape):
        block = before[n, y * factor : (y + 1) * factor, x * factor : (x + 1) * factor, c]
        assert abs(int(after[n, y, x, c]) - block.sum() / factor**2) <= 0.5
    assert (small.labels.tolist(), small.name, small.class_names) == ([0, 1, 2, 3, 4], "some", tuple("abcde"))


def test_a_factor_of_one_changes_nothing_and_one_beyond_the_side_is_refused():
    whole = dataset(4, 6, 1)
    assert shrunk(whole, 1) is whole
    with pytest.raises(ValueError, match="shrink is 5 and images are 4 x 6: give a factor from 1 to 4"):
        shrunk(whole, 5)
