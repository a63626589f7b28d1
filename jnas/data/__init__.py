"""Data sets as uint8 arrays, and batches as pure functions of the step. Larger ones are read by `jnas.data.stream`."""

from jnas.data.arrays import Dataset, Splits, normalisation, split, split_index
from jnas.data.augment import Augment, augment
from jnas.data.sources import Padded, bilevel_runs_source, bilevel_source, padded, supervised_source

__all__ = [
    "Augment", "Dataset", "Padded", "Splits", "augment", "bilevel_runs_source", "bilevel_source", "normalisation",
    "padded", "split", "split_index", "supervised_source",
]  # fmt: skip
