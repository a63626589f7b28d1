"""Supernets and found networks as pure Flax modules."""

from jnas.nets.build import count_parameters, initialise, network_for
from jnas.nets.cell import Cell
from jnas.nets.chain import ChainNetwork, FoundNetwork, chain_network
from jnas.nets.network import Logits, Network
from jnas.nets.ops import OPERATORS, operator, operator_of
from jnas.nets.stacking import per_edge, stacked

__all__ = [
    "OPERATORS",
    "Cell",
    "ChainNetwork",
    "FoundNetwork",
    "Logits",
    "Network",
    "chain_network",
    "count_parameters",
    "initialise",
    "network_for",
    "operator",
    "operator_of",
    "per_edge",
    "stacked",
]
