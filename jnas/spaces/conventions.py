"""Cells as other codes print them: forks of DARTS, AutoDL-Projects, NAS-Bench-201, NASLib, naszilla."""

import ast
import re
from typing import Any

import numpy as np

from jnas.errors import UserError
from jnas.spaces.base import quoted
from jnas.spaces.cell import CellSpace, place
from jnas.spaces.families.darts import PRIMITIVES, Genotype, has_genotype
from jnas.spaces.families.nasbench201 import OPS

LONGEST = 3_000  # characters worth looking at
# Operators by their numbers, and whether edges stand by source before target, for one cell of 6 edges.
_BENCH = {
    "naslib": (("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3"), True),  # automl/NASLib
    "naszilla": (("avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3", "none", "skip_connect"), False),  # also archai
    "nasbench201": (OPS, False),  # as D-X-Y/NAS-Bench-201 lists its operators
}
_SAME = (  # what is printed, and how `spaces.from_string` reads it
    (r"^\s*_?Structure\(\d+ nodes with (.*)\)\s*$", r"\1"),  # NAS-Bench-201
    (r"^\s*((?:\w+\s*=\s*)?)(?:\w+\.)+(?=Genotype\s*\()", r"\1"),  # genotypes.Genotype(...)
    (r"\b(?:np\.|numpy\.)?(?:u?int|float)\d+\(([\d.e-]+)\)", r"\1"),  # np.int64(0), of NumPy 2
    (r"(?s)^\s*(?:autodl:)?\s*\{(\s*'normal'.*)\}\s*$", r"Genotype(\1)"),  # of AutoDL-Projects, a dict
    (r"([(,]\s*)'(\w+)'\s*:", r"\1\2="),  # its keys
    (r"'(?:dua_(sep)|(dil)_sep)c_(?=\dx\d'\s*,\s*\d+\s*,\s*\d[.e])", r"'\1\2_conv_"),  # its names of operators
    (r"('\s*,\s*\d+)\s*,\s*\d[.e][\d.e-]*(?=\s*\))", r"\1"),  # the weight behind operator and source
    (r"([\[(])\s*[\[(]\s*(?=[\[(]\s*['\"])", r"\1"),  # of DARTS' forks, pairs in a list a node: its first
    (r"([\])])\s*[\])]\s*,\s*[\[(]\s*(?=[\[(]\s*['\"])", r"\1, "),  # between two nodes
    (r"(\d\s*[\])])\s*[\])]\s*([\])])(?=\s*,)", r"\1\2"),  # after its last
)


def plain(text: str) -> str:
    """Writes a cell that another code printed in the form of this one; any other text stays as it is.

    >>> plain("Structure(4 nodes with |none~0|)")
    '|none~0|'
    """
    for printed, read in _SAME if len(text) <= LONGEST else ():
        text = re.sub(printed, read, text)
    return text


def is_numbers(text: str) -> bool:
    """Whether a text is a cell in numbers, with the name of a convention or without."""
    return len(text) <= LONGEST and re.fullmatch(r"\s*(\w+:)?[\s(\[]*\d[\d\s,()\[\]]*", plain(text)) is not None


def from_numbers(space: CellSpace, text: str) -> CellSpace | Genotype:
    """Reads a cell that is written in numbers.

    Args:
      space: the space to read in: of one cell of 6 edges, or of DARTS' cells.
      text: the name of a convention, a colon and the numbers as Python prints them: the operator of each edge, or for
        DARTS' cells eight pairs (source, operator) of each.

    Returns:
      What `encode` takes.

    Raises:
      UserError: if no convention is named, or the numbers are of another form.

    >>> from jnas import spaces
    >>> spaces.encode(spaces.nasbench201(), from_numbers(spaces.nasbench201(), "naslib:(2, 1, 1, 0, 1, 3)")).tolist()
    [3, 0, 1, 0, 0, 2]

    References:
      github.com/automl/NASLib, naslib/search_spaces/nasbench201 and nasbench301, `conversions.py`;
      github.com/naszilla/naszilla, naszilla/nas_bench_201/cell_201.py.
    """
    name, _, body = plain(text).strip().rpartition(":")
    try:
        numbers = np.asarray(ast.literal_eval(body.strip()))
    except (ValueError, SyntaxError, RecursionError, MemoryError, OverflowError):
        numbers = np.empty(0)
    whole = numbers.size and np.issubdtype(numbers.dtype, np.integer)
    values: Any = numbers.tolist()
    if whole and has_genotype(space) and name == "naslib" and numbers.shape == (2, 8, 2) and numbers[..., 1].max() < 7:
        normal, reduce = ([(PRIMITIVES[op + 1], source) for source, op in cell] for cell in values)
        return Genotype(normal, range(2, 6), reduce, range(2, 6))
    if whole and len(space.cells) == 1 and len(space.endpoints) == 6 and name in _BENCH and numbers.shape == (6,):
        ops, by_source = _BENCH[name]
        edges = sorted(space.endpoints, key=lambda edge: edge if by_source else edge[::-1])
        if numbers.max() < len(ops):
            placed = {space.endpoints.index(edge): ops[n] for edge, n in zip(edges, values, strict=True)}
            return place(space, {space.cells[0]: placed})
    raise UserError(
        f"{quoted(text)} are no numbers of a convention for space {space.name!r}: write naslib:(4, 0, 3, 1, 4, 3), "
        "naszilla:(...) or nasbench201:(...) for six edges, naslib:(((0, 3), ...), (...)) for DARTS' cells."
    )
