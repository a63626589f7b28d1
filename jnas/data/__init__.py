"""Data sets as uint8 arrays, and batches as pure functions of the step."""

from jnas.data.arrays import Dataset, Splits, normalisation, split
from jnas.data.augment import Augment, augment
from jnas.data.load import load
from jnas.data.sources import Padded, bilevel_source, padded, supervised_source
from jnas.data.stream import bilevel_stream_source, stream_source

__all__ = [
    "Augment",
    "Dataset",
    "Padded",
    "Splits",
    "augment",
    "bilevel_source",
    "bilevel_stream_source",
    "load",
    "normalisation",
    "padded",
    "split",
    "stream_source",
    "supervised_source",
]
