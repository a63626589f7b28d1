"""Approximate `H^-1 v` from products with H alone."""

from jnas.bilevel.solvers.base import Product, Solution, Solver
from jnas.bilevel.solvers.conjugate_gradient import conjugate_gradient
from jnas.bilevel.solvers.neumann import neumann

__all__ = ["Product", "Solution", "Solver", "conjugate_gradient", "neumann"]
