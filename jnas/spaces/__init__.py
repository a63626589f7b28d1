"""Search spaces: frozen data, architectures as int32 vectors, and the functions between them."""

from jnas.spaces import genotypes
from jnas.spaces.alpha import derive, discretise, init_alpha, mixture, one_hot_alpha
from jnas.spaces.base import Choice, ProductSpace, Space, mutate, neighbours, num_options, product, sample, size
from jnas.spaces.cell import CellSpace, Edge, fix, is_connected, narrow, op_mask
from jnas.spaces.darts import Genotype, cells_of_darts, darts, to_genotype
from jnas.spaces.grouped import Groups, groups_of, representatives, stacnas_groups, stage_two, winners
from jnas.spaces.isomorphism import canonical, isomorphic
from jnas.spaces.nasbench201 import nasbench201
from jnas.spaces.reduced import s1, s2, s3, s4
from jnas.spaces.text import by_name, encode, from_string, to_string

__all__ = [
    "CellSpace",
    "Choice",
    "Edge",
    "Genotype",
    "Groups",
    "ProductSpace",
    "Space",
    "by_name",
    "canonical",
    "cells_of_darts",
    "darts",
    "derive",
    "discretise",
    "encode",
    "fix",
    "from_string",
    "genotypes",
    "groups_of",
    "init_alpha",
    "is_connected",
    "isomorphic",
    "mixture",
    "mutate",
    "narrow",
    "nasbench201",
    "neighbours",
    "num_options",
    "one_hot_alpha",
    "op_mask",
    "product",
    "representatives",
    "s1",
    "s2",
    "s3",
    "s4",
    "sample",
    "size",
    "stacnas_groups",
    "stage_two",
    "to_genotype",
    "to_string",
    "winners",
]
