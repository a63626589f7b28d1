"""The Neumann hypergradient with TorchOpt, by its `custom_root` and its Neumann solver.

Ren et al., "TorchOpt: an efficient library for differentiable optimization", JMLR 24, 2023.
"""

import warnings

import torch
from torch.nn import functional
from torchopt.diff.implicit import custom_root
from torchopt.linear_solve import solve_inv


def neumann(net, alpha, inner, outer, *, num_terms, step_size):
    """A function of nothing that computes the hypergradient once."""
    warnings.filterwarnings("ignore", "We've integrated functorch", FutureWarning)
    names, weights = zip(*net.named_parameters(), strict=True)
    cells, architecture = list(alpha), tuple(alpha.values())

    def loss(weights, architecture, batch):
        arguments = (batch.image, dict(zip(cells, architecture, strict=True)))
        logits = torch.func.functional_call(net, dict(zip(names, weights, strict=True)), arguments)
        return functional.cross_entropy(logits, batch.label)

    def optimality(weights, architecture):
        return torch.func.grad(loss)(weights, architecture, inner)

    solver = solve_inv(ns=True, maxiter=num_terms, alpha=step_size)

    @custom_root(optimality, argnums=1, solve=solver)
    def solution(weights, architecture):
        return weights

    def once():
        best = solution(tuple(w.detach() for w in weights), architecture)
        return torch.autograd.grad(loss(best, architecture, outer), architecture)

    return once
