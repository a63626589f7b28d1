"""Data sets as uint8 arrays, and batches as pure functions of the step."""

from jnas.data.arrays import Dataset, Splits, normalisation, split, split_index
from jnas.data.augment import Augment, augment
from jnas.data.load import load
from jnas.data.sources import Padded, bilevel_runs_source, bilevel_source, padded, supervised_source
from jnas.data.stream import bilevel_stream_source, split_stream, stream_source
from jnas.data.tfds import open_tfds

__all__ = [
    "Augment",
    "Dataset",
    "Padded",
    "Splits",
    "augment",
    "bilevel_runs_source",
    "bilevel_source",
    "bilevel_stream_source",
    "load",
    "normalisation",
    "open_tfds",
    "padded",
    "split",
    "split_index",
    "split_stream",
    "stream_source",
    "supervised_source",
]
