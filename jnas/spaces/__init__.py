"""Search spaces: frozen data, architectures as int32 vectors, and the functions between them."""

from jnas.spaces import genotypes
from jnas.spaces.alpha import derive, discretise, init_alpha, mixture, one_hot_alpha
from jnas.spaces.base import Choice, ProductSpace, Space, mutate, neighbours, num_options, product, sample, size
from jnas.spaces.cell import CellSpace, Edge, extend, narrow, op_mask
from jnas.spaces.chain import ChainSpace, Layer, chain, layer_of, word_of
from jnas.spaces.descriptors import Descriptor, Facts, describe, facts
from jnas.spaces.families.branched import branched
from jnas.spaces.families.darts import Genotype, cells_of_darts, darts, to_genotype
from jnas.spaces.families.generated import (
    Family,
    Member,
    convolutions,
    layer_types,
    layer_types_and_depth,
    topologies,
    union,
)
from jnas.spaces.families.nasbench201 import nasbench201
from jnas.spaces.families.reduced import s1, s2, s3, s4
from jnas.spaces.grouped import Groups, groups_of, representatives, stacnas_groups, stage_two, winners
from jnas.spaces.isomorphism import canonical, isomorphic
from jnas.spaces.networks import NetworkSpace, fix, from_string, is_connected, network_space, to_string
from jnas.spaces.operators import Operator
from jnas.spaces.paths import count_paths, path_words
from jnas.spaces.policy import Method, PolicySpace, method_of, policies
from jnas.spaces.text import by_name, encode

__all__ = [
    "CellSpace",
    "ChainSpace",
    "Choice",
    "Descriptor",
    "Edge",
    "Facts",
    "Family",
    "Genotype",
    "Groups",
    "Layer",
    "Member",
    "Method",
    "NetworkSpace",
    "Operator",
    "PolicySpace",
    "ProductSpace",
    "Space",
    "branched",
    "by_name",
    "canonical",
    "cells_of_darts",
    "chain",
    "convolutions",
    "count_paths",
    "darts",
    "derive",
    "describe",
    "discretise",
    "encode",
    "extend",
    "facts",
    "fix",
    "from_string",
    "genotypes",
    "groups_of",
    "init_alpha",
    "is_connected",
    "isomorphic",
    "layer_of",
    "layer_types",
    "layer_types_and_depth",
    "method_of",
    "mixture",
    "mutate",
    "narrow",
    "nasbench201",
    "neighbours",
    "network_space",
    "num_options",
    "one_hot_alpha",
    "op_mask",
    "path_words",
    "policies",
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
    "topologies",
    "union",
    "winners",
    "word_of",
]
