"""How well neighbours in an embedding are of one class: recall at 1 and mean average precision at R."""

from typing import NamedTuple

import numpy as np


class Neighbours(NamedTuple):
    """The images of a gallery that are closest to each query."""

    index: np.ndarray  # [num_queries, number] int: into the gallery, the closest first
    similarity: np.ndarray  # [num_queries, number] float: cosine of the angle


def nearest(queries: np.ndarray, gallery: np.ndarray, number: int) -> Neighbours:
    """Looks up the closest gallery images; of equally close ones the earlier comes first.

    Args:
      queries: `[num_queries, dimension]` of length 1.
      gallery: `[num_gallery, dimension]` of length 1.
      number: of neighbours, at most `num_gallery`.

    Returns:
      The neighbours.

    >>> nearest(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [0.8, 0.6]]), 1).index
    array([[1]])
    """
    similarity = queries @ gallery.T
    index = np.argsort(-similarity, axis=1, kind="stable")[:, :number]
    return Neighbours(index, np.take_along_axis(similarity, index, 1))


def retrieval(
    queries: np.ndarray, labels: np.ndarray, gallery: np.ndarray, gallery_labels: np.ndarray, *, block: int = 256
) -> dict[str, float]:
    r"""Measures neighbours in a gallery that holds no query.

    ```
    recall at 1:  share of queries whose nearest neighbour is of their class
    MAP at R:     mean over queries of  1/R sum_{i=1..R} precision(i) [neighbour i is of the class],  R = images of the
                  class in the gallery
    ```

    Args:
      queries: `[num_queries, dimension]` of length 1.
      labels: `[num_queries]`.
      gallery: `[num_gallery, dimension]` of length 1.
      gallery_labels: `[num_gallery]`.
      block: queries at a time.

    Returns:
      `recall_at_1` and `map_at_r` in [0, 1], over the queries whose class the gallery has; `queries`, how many these
      are.

    Raises:
      ValueError: if the gallery has no image of any query's class.

    Reference: Musgrave, Belongie, Lim, "A metric learning reality check", ECCV 2020.
    """
    sizes = np.array([(gallery_labels == label).sum() for label in labels])
    known = np.flatnonzero(sizes)
    if not len(known):
        raise ValueError(f"none of {len(labels)} queries has a class of the gallery: give a gallery with their classes")
    first, averages = [], []
    for start in range(0, len(known), block):
        rows = known[start : start + block]
        index = nearest(queries[rows], gallery, int(sizes[rows].max())).index
        hits = gallery_labels[index] == labels[rows][:, None]
        counted = np.arange(hits.shape[1])[None] < sizes[rows][:, None]
        precision = np.cumsum(hits, 1) / np.arange(1, hits.shape[1] + 1)
        averages.append((precision * hits * counted).sum(1) / sizes[rows])
        first.append(hits[:, 0])
    return {
        "recall_at_1": float(np.concatenate(first).mean()),
        "map_at_r": float(np.concatenate(averages).mean()),
        "queries": len(known),
    }
