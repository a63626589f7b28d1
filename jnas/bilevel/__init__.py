"""Bilevel optimisation by hypergradients: jax and optax only, of any pytrees. Architectures are one use of it."""

from jnas.bilevel.conjugate_gradient import conjugate_gradient
from jnas.bilevel.curvature import Curvature, gauss_newton, hessian, identity
from jnas.bilevel.eigenvalues import Eigenvalues, Stop, alpha_eigenvalues, early_stop
from jnas.bilevel.finite_difference import finite_difference
from jnas.bilevel.first_order import first_order
from jnas.bilevel.implicit import implicit
from jnas.bilevel.learners import SearchState, alternating, simultaneous, supervised
from jnas.bilevel.momentum import StormState, decaying, moving_average, storm
from jnas.bilevel.neumann import neumann
from jnas.bilevel.penalties import add_penalty, beta_decay
from jnas.bilevel.problem import Bilevel, Estimator, Point, Solution, Solver
from jnas.bilevel.single_loop import single_loop, with_adjoint
from jnas.bilevel.unrolled import unrolled
from jnas.types import Aux, Batches, Context, Learner, Loss

__all__ = [
    "Aux",
    "Batches",
    "Bilevel",
    "Context",
    "Curvature",
    "Eigenvalues",
    "Estimator",
    "Learner",
    "Loss",
    "Point",
    "SearchState",
    "Solution",
    "Solver",
    "Stop",
    "StormState",
    "add_penalty",
    "alpha_eigenvalues",
    "alternating",
    "beta_decay",
    "conjugate_gradient",
    "decaying",
    "early_stop",
    "finite_difference",
    "first_order",
    "gauss_newton",
    "hessian",
    "identity",
    "implicit",
    "moving_average",
    "neumann",
    "simultaneous",
    "single_loop",
    "storm",
    "supervised",
    "unrolled",
    "with_adjoint",
]
