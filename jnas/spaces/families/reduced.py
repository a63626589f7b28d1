"""The reduced spaces S1 to S4, on which plain DARTS collapses: the cheapest honest test of a gradient.

The operators are those of github.com/automl/RobustDARTS, src/spaces.py.

References:
  Zela et al., "Understanding and Robustifying Differentiable Architecture Search", ICLR 2020.
"""

import functools

from jnas.spaces.cell import CellSpace
from jnas.spaces.families.darts import PRIMITIVES, cells_of_darts

_MAX, _AVG, _SKIP, _SEP3, _DIL3, _DIL5 = (PRIMITIVES[index] for index in (1, 2, 3, 4, 6, 7))

# By target, then by source: the rows of a node start a line.
_S1_NORMAL = (
    (_SKIP, _DIL3), (_SKIP, _DIL5),
    (_SKIP, _DIL5), (_SKIP, _SEP3), (_SKIP, _DIL3),
    (_MAX, _SKIP), (_SKIP, _SEP3), (_SKIP, _SEP3), (_SKIP, _DIL3),
    (_SKIP, _SEP3), (_MAX, _SKIP), (_SKIP, _DIL3), (_DIL3, _DIL5), (_DIL3, _DIL5),
)  # fmt: skip
_S1_REDUCE = (
    (_MAX, _AVG), (_MAX, _DIL3),
    (_MAX, _AVG), (_MAX, _AVG), (_SKIP, _DIL5),
    (_MAX, _AVG), (_MAX, _SEP3), (_SKIP, _DIL3), (_SKIP, _DIL5),
    (_MAX, _AVG), (_MAX, _AVG), (_SKIP, _DIL5), (_SKIP, _DIL5), (_SKIP, _DIL5),
)  # fmt: skip


@functools.cache
def s1() -> CellSpace:
    """S1: two operators an edge, other ones on other edges: those left after the least important of DARTS were dropped.

    Returns:
      The space "s1", whose columns of alpha are the six operators that occur.
    """
    return cells_of_darts("s1", (_MAX, _AVG, _SKIP, _SEP3, _DIL3, _DIL5), (_S1_NORMAL, _S1_REDUCE))


@functools.cache
def s2() -> CellSpace:
    """S2: a skip connection or a 3x3 separable convolution; plain DARTS takes the skips.

    Returns:
      The space "s2".
    """
    return _uniform("s2", (_SKIP, _SEP3))


@functools.cache
def s3() -> CellSpace:
    """S3: S2 with `none` in the mixture.

    Returns:
      The space "s3".
    """
    return _uniform("s3", ("none", _SKIP, _SEP3))


@functools.cache
def s4() -> CellSpace:
    """S4: noise of variance one, whatever the input, or a 3x3 separable convolution; a good search avoids the noise.

    Returns:
      The space "s4".
    """
    return _uniform("s4", ("noise", _SEP3))


def _uniform(name: str, ops: tuple[str, ...]) -> CellSpace:
    return cells_of_darts(name, ops, ((ops,) * 14,) * 2)
