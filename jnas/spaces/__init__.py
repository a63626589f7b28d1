"""Search spaces of cells: frozen data, architectures as int32 vectors, and the functions between them.

Chains stand in `jnas.spaces.chain`, and `jnas.spaces.networks` takes either; generated spaces in `families.generated`
and `descriptors`, groups of operators in `grouped`, quantisation policies in `policy`, features by paths in `paths`,
products in `products`, published cells in `genotypes`.
"""

from jnas.spaces.alpha import derive, discretise, init_alpha, mixture, one_hot_alpha
from jnas.spaces.base import Choice, Space, mutate, neighbours, num_options, sample, size
from jnas.spaces.cell import CellSpace, Edge, extend, fix, is_connected, narrow, op_mask
from jnas.spaces.families.darts import Genotype, cells_of_darts, darts, s1, s2, s3, s4, to_genotype
from jnas.spaces.families.nasbench201 import branched, nasbench201
from jnas.spaces.operators import Operator
from jnas.spaces.text import by_name, encode, from_string, to_string

__all__ = [
    "CellSpace",
    "Choice",
    "Edge",
    "Genotype",
    "Operator",
    "Space",
    "branched",
    "by_name",
    "cells_of_darts",
    "darts",
    "derive",
    "discretise",
    "encode",
    "extend",
    "fix",
    "from_string",
    "init_alpha",
    "is_connected",
    "mixture",
    "mutate",
    "narrow",
    "nasbench201",
    "neighbours",
    "num_options",
    "one_hot_alpha",
    "op_mask",
    "s1",
    "s2",
    "s3",
    "s4",
    "sample",
    "size",
    "to_genotype",
    "to_string",
]
