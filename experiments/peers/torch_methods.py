"""Gradients, products with the Hessian, hypergradients and search steps in PyTorch, for any module and any alpha.

A problem is `net(image, alpha) -> logits`, a module of weights and a dict of architecture parameters, under the
cross-entropy of a batch `(image, label)`.
"""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from cases import (
    ALPHA_BETAS,
    ALPHA_DECAY,
    ALPHA_RATE,
    CLIP,
    HEAVY_BALL,
    RADIUS,
    RECURSION,
    WEIGHT_DECAY,
    WEIGHT_RATE,
)
from torch import Tensor, nn
from torch.nn import functional

Alpha = dict[str, Tensor]
Vector = Sequence[Tensor]


class Batch(NamedTuple):
    image: Tensor  # [batch, 3, height, width]
    label: Tensor  # [batch] int64


def cross_entropy(net: nn.Module, alpha: Alpha, batch: Batch) -> Tensor:
    return functional.cross_entropy(net(batch.image, alpha), batch.label)


def fixed(alpha: Alpha) -> Alpha:
    """Alpha as constants: PyTorch then keeps and computes nothing for its gradient."""
    return {cell: value.detach() for cell, value in alpha.items()}


def gradient(net: nn.Module, alpha: Alpha, batch: Batch) -> tuple[Tensor, Vector]:
    """The loss and its gradient in the weights."""
    loss = cross_entropy(net, fixed(alpha), batch)
    return loss, torch.autograd.grad(loss, list(net.parameters()))


def alpha_gradient(net: nn.Module, alpha: Alpha, batch: Batch) -> Vector:
    """The gradient in alpha alone: for its duration the weights are constants."""
    net.requires_grad_(False)
    try:
        return torch.autograd.grad(cross_entropy(net, alpha, batch), list(alpha.values()))
    finally:
        net.requires_grad_(True)


def hvp_double_backward(net: nn.Module, alpha: Alpha, batch: Batch, vector: Vector) -> Vector:
    weights = list(net.parameters())
    slope = torch.autograd.grad(cross_entropy(net, fixed(alpha), batch), weights, create_graph=True)
    return torch.autograd.grad(slope, weights, vector)


def hvp_forward_over_reverse(net: nn.Module, alpha: Alpha, batch: Batch, vector: Vector) -> Vector:
    """The jvp of a gradient, with `torch.func`."""
    names, weights = zip(*net.named_parameters(), strict=True)
    constants = fixed(alpha)

    def loss(values: tuple[Tensor, ...]) -> Tensor:
        logits = torch.func.functional_call(net, dict(zip(names, values, strict=True)), (batch.image, constants))
        return functional.cross_entropy(logits, batch.label)

    primal = tuple(weight.detach() for weight in weights)
    return torch.func.jvp(torch.func.grad(loss), (primal,), (tuple(vector),))[1]


def neumann(
    net: nn.Module, alpha: Alpha, inner: Batch, outer: Batch, *, num_terms: int, step_size: float
) -> tuple[Vector, Vector]:
    """The gradient of the inner loss in the weights, and the hypergradient by the Neumann series.

    One differentiable gradient of the inner loss, `num_terms` products of its graph with a vector, the mixed product.
    """
    weights, architecture = list(net.parameters()), list(alpha.values())
    slopes = torch.autograd.grad(cross_entropy(net, alpha, outer), [*weights, *architecture])
    vector, direct = slopes[: len(weights)], slopes[len(weights) :]
    slope = torch.autograd.grad(cross_entropy(net, alpha, inner), weights, create_graph=True)
    total = list(vector)
    for _ in range(num_terms):
        image = torch.autograd.grad(slope, weights, vector, retain_graph=True)
        vector = [v - step_size * h for v, h in zip(vector, image, strict=True)]
        total = [t + v for t, v in zip(total, vector, strict=True)]
    mixed = torch.autograd.grad(slope, architecture, [step_size * t for t in total])
    hypergradient = [d - m for d, m in zip(direct, mixed, strict=True)]
    return [g.detach() for g in slope], hypergradient


def alpha_optimiser(alpha: Alpha) -> torch.optim.Optimizer:
    return torch.optim.Adam(list(alpha.values()), ALPHA_RATE, betas=ALPHA_BETAS, weight_decay=ALPHA_DECAY, fused=True)


def weight_optimiser(net: nn.Module, momentum: float = HEAVY_BALL, decay: float = WEIGHT_DECAY):
    return torch.optim.SGD(net.parameters(), WEIGHT_RATE, momentum=momentum, weight_decay=decay, fused=True)


def apply(optimiser: torch.optim.Optimizer, parameters: Vector, direction: Vector, clip: float | None = None) -> None:
    for parameter, value in zip(parameters, direction, strict=True):
        parameter.grad = value
    if clip is not None:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def alternating(net: nn.Module, alpha: Alpha, hypergradient: Callable[[Batch, Batch], Vector]):
    """A search step: alpha along the hypergradient, then the weights at the new alpha."""
    of_alpha, of_weights = alpha_optimiser(alpha), weight_optimiser(net)

    def step(inner: Batch, outer: Batch) -> None:
        apply(of_alpha, list(alpha.values()), hypergradient(inner, outer))
        apply(of_weights, list(net.parameters()), gradient(net, alpha, inner)[1], CLIP)

    return step


def first_order_step(net: nn.Module, alpha: Alpha):
    return alternating(net, alpha, lambda inner, outer: alpha_gradient(net, alpha, outer))


def finite_difference_step(net: nn.Module, alpha: Alpha):
    """DARTS' second order, with a correct central difference."""
    weights, architecture = list(net.parameters()), list(alpha.values())

    @torch.no_grad()
    def displace(origin: Vector, scale: Tensor | float, direction: Vector) -> None:
        for weight, start, shift in zip(weights, origin, direction, strict=True):
            weight.copy_(start).add_(shift * scale)

    def hypergradient(inner: Batch, outer: Batch) -> Vector:
        origin = [weight.detach().clone() for weight in weights]
        displace(origin, -WEIGHT_RATE, gradient(net, alpha, inner)[1])
        slopes = torch.autograd.grad(cross_entropy(net, alpha, outer), [*weights, *architecture])
        vector, direct = slopes[: len(weights)], slopes[len(weights) :]
        eps = RADIUS / torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(v) for v in vector]))
        displace(origin, eps, vector)
        above = alpha_gradient(net, alpha, inner)
        displace(origin, -eps, vector)
        below = alpha_gradient(net, alpha, inner)
        displace(origin, 0.0, vector)
        factor = WEIGHT_RATE / (2 * eps)
        return [d - factor * (a - b) for d, a, b in zip(direct, above, below, strict=True)]

    return alternating(net, alpha, hypergradient)


def double_recursion_step(net: nn.Module, alpha: Alpha, *, num_terms: int, step_size: float):
    """STORM on both levels: the joint direction at this point and, on the same batches, at the one before."""
    weights, architecture = list(net.parameters()), list(alpha.values())
    old_net, old_alpha = copy.deepcopy(net), {cell: value.clone().detach() for cell, value in alpha.items()}
    for value in old_alpha.values():
        value.requires_grad_()
    old = [*old_net.parameters(), *old_alpha.values()]
    of_alpha, of_weights = alpha_optimiser(alpha), weight_optimiser(net, momentum=0.0, decay=0.0)
    direction: list[Tensor] = []

    def joint(at: nn.Module, arch: Alpha, inner: Batch, outer: Batch) -> list[Tensor]:
        slope, hypergradient = neumann(at, arch, inner, outer, num_terms=num_terms, step_size=step_size)
        return [*slope, *hypergradient]

    def step(inner: Batch, outer: Batch) -> None:
        nonlocal direction
        now, before = joint(net, alpha, inner, outer), joint(old_net, old_alpha, inner, outer)
        if direction:
            direction = [g + (1 - RECURSION) * (d - b) for g, d, b in zip(now, direction, before, strict=True)]
        else:
            direction = now
        with torch.no_grad():
            for value, current in zip(old, [*weights, *architecture], strict=True):
                value.copy_(current)
        # The optimisers clip in place, and the recursion needs the direction as it is.
        apply(of_weights, weights, [d.clone() for d in direction[: len(weights)]], CLIP)
        apply(of_alpha, architecture, direction[len(weights) :])

    return step
