"""Supernets and found networks as pure Flax modules."""

from jnas.nets.build import count_parameters, initialise, network_for, shapes
from jnas.nets.cell import Cell
from jnas.nets.network import Logits, Network
from jnas.nets.ops import OPERATORS, operator, operator_of

__all__ = [
    "OPERATORS",
    "Cell",
    "Logits",
    "Network",
    "count_parameters",
    "initialise",
    "network_for",
    "operator",
    "operator_of",
    "shapes",
]
