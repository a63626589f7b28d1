"""What is raced: the networks, the work, and the settings that both sides must share. Standard library only."""

from typing import NamedTuple


class Case(NamedTuple):
    """A supernet and a batch of 32x32 colour images."""

    space: str  # "darts" or "nasbench201"
    channels: int
    depth: int  # cells; for NAS-Bench-201 cells a stage
    batch: int


CASES = {
    "darts-c4-l3-b4": Case("darts", 4, 3, 4),  # these two only check that both sides compute the same
    "nb201-c4-n1-b8": Case("nasbench201", 4, 1, 8),
    "darts-c8-l5-b32": Case("darts", 8, 5, 32),
    "darts-c16-l8-b16": Case("darts", 16, 8, 16),
    "darts-c16-l8-b64": Case("darts", 16, 8, 64),
    "nb201-c16-n1-b64": Case("nasbench201", 16, 1, 64),
    "nb201-c16-n5-b64": Case("nasbench201", 16, 5, 64),
}
NUM_CLASSES = 10
SIDE = 32  # of an image, in pixels

WHAT = {
    "gradient": "gradient in the weights",
    "step": "first-order search step",
    "step_fd": "finite-difference search step",
    "hvp": "Hessian-vector product",
    "neumann1": "Neumann hypergradient, 1 product",
    "neumann3": "Neumann hypergradient, 3 products",
    "neumann5": "Neumann hypergradient, 5 products",
    "double_recursion": "double recursion, Neumann 2",
}

# The optimisers of DARTS (Liu, Simonyan and Yang 2019), without the schedules of their learning rates.
WEIGHT_RATE, HEAVY_BALL, WEIGHT_DECAY, CLIP = 0.025, 0.9, 3e-4, 5.0
ALPHA_RATE, ALPHA_BETAS, ALPHA_DECAY = 3e-4, (0.5, 0.999), 1e-3
RADIUS = 0.01  # of the finite difference
RECURSION = 0.5  # coefficient of STORM on both levels
RECURSION_TERMS = 2  # products with the Hessian in the double recursion
# Default step size of the Neumann series. The largest eigenvalues of these Hessians, by power iteration at the start,
# are 3 to 10 in size, of both signs: at 0.05 a product lengthens its vector by half at most, and rounding cannot grow.
ETA = 0.05

# Largest relative difference |jnas - peer| / |peer| of a group of results, as float32 vectors. Usual ones are 1e-6 to
# 1e-4. But a unit on the kink of its ReLU or a tie in a pool may fall on either side after rounding, which moves a
# gradient by some 1e-3 (in float64 the DARTS gradients of both sides agree to 5e-15). Adam's first steps are the signs
# of the gradient, whatever its size, so that alpha after a step differs by more: a wrong method differs by 1.
# Steps are compared after two of them. The hypergradient's difference is relative to its second-order part alone.
TOLERANCE = {
    "gradient": 2e-2,
    "step": 0.2,
    "step_fd": 0.2,
    "hvp": 2e-2,
    "neumann": 0.1,
    "double_recursion": 0.2,
}


def terms(what: str) -> int:
    """How many products with the Hessian a "neumannQ" takes."""
    return int(what.removeprefix("neumann"))


def tolerance(what: str) -> float:
    """The largest relative difference at which two results count as the same."""
    return TOLERANCE["neumann" if what.startswith("neumann") else what]
