"""The learners of `jnas.bilevel` as a solver of the public benchmark of bilevel optimisation.

Put this file into the folder `solvers` of a clone of github.com/benchopt/benchmark_bilevel, beside SOBA, MRBO and SABA;
commands, hardware and figures: README.md in this folder. Its problem is `min_x f(x, z(x))`, `z(x) = argmin_z g(x, z)`:
z are the weights, x is alpha, and a batch is the index of its first example.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from benchmark_utils.stochastic_jax_solver import StochasticJaxSolver

from jnas import bilevel
from jnas.types import Batches


class Solver(StochasticJaxSolver):
    """The single loop, two Neumann terms or first order, under an average, STORM's recursion or nothing.

    Step sizes fall as `step_size / (k + 1)^power`, alpha's by `outer_ratio` smaller; the coefficients of momentum as
    `coefficient / (k + 1)^power`, 1 in the first step. v takes the whole of the step that the single loop bounds.
    """

    name = "jnas"
    parameters: ClassVar = {
        "estimator": ["single_loop"],
        "momentum": ["none"],
        "step_size": [0.1],
        "outer_ratio": [1.0],
        "power": [0.5],
        "coefficient": [1.0],
        "batch_size": [64],
        **StochasticJaxSolver.parameters,
    }

    def get_step(self, inner_sampler, outer_sampler):
        """One iteration, for the loop of the benchmark."""

        def falling(first):
            return lambda step: first / (step + 1.0) ** self.power

        def loss_of(function):
            return lambda weights, alpha, batch, context: (function(weights, alpha, batch), bilevel.Aux())

        problem = bilevel.Bilevel(loss_of(self.f_inner), loss_of(self.f_outer))
        coefficient = lambda step: jnp.minimum(1.0, self.coefficient / (step + 1.0) ** self.power)
        first = {
            "none": optax.identity(),
            "average": bilevel.moving_average(coefficient),
            "storm": bilevel.storm(coefficient),
        }[self.momentum]
        estimator = {
            "single_loop": bilevel.single_loop(damping=0.0),
            "neumann": bilevel.implicit(bilevel.neumann(2)),
            "first_order": bilevel.first_order(),
        }[self.estimator]
        steps = {
            "weights": optax.sgd(falling(self.step_size)),
            "alpha": optax.sgd(falling(self.step_size / self.outer_ratio)),
            "v": optax.sgd(1.0),
        }
        labels, start = bilevel.Point("weights", "alpha"), lambda key: (bilevel.Point(*self.begin), ())
        if self.estimator == "single_loop":
            labels, start = labels._replace(adjoint="v"), bilevel.with_adjoint(start)
        tx = optax.chain(first, optax.partition({name: steps[name] for name in jax.tree.leaves(labels)}, labels))
        self.learner = bilevel.simultaneous(problem, estimator, start, tx)

        def step(carry, _):
            inner, *_, carry["state_inner_sampler"] = inner_sampler(carry["state_inner_sampler"])
            outer, *_, carry["state_outer_sampler"] = outer_sampler(carry["state_outer_sampler"])
            state, _ = self.learner.update(carry["state"], Batches(inner, outer), jax.random.key(0))
            point = state.point
            return carry | {"state": state, "inner_var": point.weights, "outer_var": point.alpha}, None

        return step

    def init(self):
        """The beginning of a run."""
        self.begin = self.inner_var, self.outer_var = self.inner_var0, self.outer_var0
        return {
            "state": self.learner.init(jax.random.key(self.random_state)),
            "inner_var": self.inner_var,
            "outer_var": self.outer_var,
            "state_inner_sampler": self.state_inner_sampler,
            "state_outer_sampler": self.state_outer_sampler,
        }
