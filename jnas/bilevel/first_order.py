"""First order."""

from jnas.bilevel.problem import Estimator, Point, estimated, inner_gradient, outer_gradient
from jnas.types import Aux, State


def first_order() -> Estimator:
    """`grad_a L_val(w, a)`: as if the weights did not depend on alpha. The cheapest, and the baseline to beat.

    Returns:
      An estimator.

    References:
      Liu, Simonyan, Yang, "DARTS: differentiable architecture search", ICLR 2019 (xi = 0).
    """

    def estimate(problem, point, batches, context, state, **extra) -> tuple[Point, State, Aux]:
        del extra
        gradient, aux = inner_gradient(problem, point, batches.inner, context)
        outer, metrics = outer_gradient(problem, point, batches, context)
        return estimated(Point(gradient, outer.alpha), state, aux, metrics)

    return Estimator(lambda point: (), estimate)
