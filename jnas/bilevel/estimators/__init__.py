"""Estimators of the hypergradient, one algorithm a file.

Every second derivative is the jvp of a gradient, never the gradient of a gradient: on accelerators the latter takes
several times the time and memory and gathers whole batches of activations.
"""

from jnas.bilevel.estimators.finite_difference import finite_difference
from jnas.bilevel.estimators.first_order import first_order
from jnas.bilevel.estimators.implicit import implicit
from jnas.bilevel.estimators.unrolled import unrolled

__all__ = ["finite_difference", "first_order", "implicit", "unrolled"]
