"""The Neumann hypergradient with Betty (`betty-ml`), by its own `Problem.backward`.

Choe et al., "Betty: an automatic differentiation library for multilevel optimization", ICLR 2023.
"""

import logging

import torch
from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.problems import ImplicitProblem
from torch_methods import alpha_optimiser, cross_entropy, weight_optimiser


class Architecture(torch.nn.Module):
    """Alpha as a module, as Betty wants it."""

    def __init__(self, alpha):
        super().__init__()
        self.values = torch.nn.ParameterDict(alpha)

    def forward(self):
        return dict(self.values)


class Lower(ImplicitProblem):
    def training_step(self, batch):
        return cross_entropy(self.module, self.upper(), batch)


class Upper(ImplicitProblem):
    def training_step(self, batch):
        return cross_entropy(self.lower.module, self(), batch)


def neumann(net, alpha, inner, outer, *, num_terms, step_size):
    """A function of nothing that computes the hypergradient once."""
    logging.disable(logging.INFO)
    series = {"type": "neumann", "neumann_iterations": num_terms, "neumann_alpha": step_size}
    architecture = Architecture({cell: torch.nn.Parameter(value.detach()) for cell, value in alpha.items()})
    upper = Upper(
        name="upper",
        config=Config(retain_graph=True),  # the outer loss is differentiated in alpha, and then in the weights
        module=architecture,
        optimizer=alpha_optimiser(architecture()),
        train_data_loader=[outer],
    )
    lower = Lower(
        name="lower",
        config=Config(**series),
        module=net,
        optimizer=weight_optimiser(net),
        train_data_loader=[inner],
    )
    dependencies = {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}}
    Engine(problems=[upper, lower], config=EngineConfig(), dependencies=dependencies)
    lower.cur_batch = inner

    def once():
        loss, _ = upper.get_loss(outer)
        parameters = upper.trainable_parameters()
        upper.backward(loss, parameters, upper.paths, retain_graph=True)
        hypergradient = [parameter.grad for parameter in parameters]
        upper.zero_grad()
        return hypergradient

    return once
