"""The supernets of DARTS and NAS-Bench-201 in PyTorch, plain modules as the public codes write them.

They compute what `jnas.nets.network_for(space, channels=..., depth=..., num_classes=10)` does in training mode. Every
choice left is the peer's fastest: batch norms keep no running statistics, `none` is left out of the sums it adds zeros
to, and pools are the library's own. Modules bear the names of jnas' parameter tree, so that weights carry over.
"""

import torch
from cases import Case
from torch import Tensor, nn
from torch.nn import functional

# The candidates in the order of alpha's columns, without `none`, which is column 0 of both spaces.
DARTS_OPS = (
    "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
)  # fmt: skip
NASBENCH201_OPS = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


def norm(channels: int, affine: bool) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=affine, track_running_stats=False)


class ConvNorm(nn.Module):
    """ReLU (unless it is a stem), convolution, batch norm."""

    def __init__(self, inputs, outputs, size=1, stride=1, *, affine, activate=True):
        super().__init__()
        self.activate = activate
        self.conv_0 = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        self.norm = norm(outputs, affine)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv_0(functional.relu(x) if self.activate else x))


class SeparableConv(nn.Sequential):
    """(ReLU, depthwise, 1x1, batch norm), twice for `sep_conv`, once and dilated for `dil_conv`."""

    def __init__(self, channels, size, stride, *, dilation, repeats):
        super().__init__()
        for repeat in range(repeats):
            padding = dilation * (size // 2)
            step = stride if repeat == 0 else 1
            depthwise = nn.Conv2d(channels, channels, size, step, padding, dilation, groups=channels, bias=False)
            self.add_module(f"relu_{repeat}", nn.ReLU())
            self.add_module(f"depthwise_{repeat}", depthwise)
            self.add_module(f"conv_{repeat}", nn.Conv2d(channels, channels, 1, bias=False))
            self.add_module(f"norm_{repeat}", norm(channels, affine=False))


class FactorizedReduce(nn.Module):
    """Halves the resolution with two 1x1 convolutions of stride 2, the second shifted by a pixel."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv_0 = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.conv_1 = nn.Conv2d(inputs, outputs - outputs // 2, 1, 2, bias=False)
        self.norm = norm(outputs, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(x)
        return self.norm(torch.cat([self.conv_0(x), self.conv_1(x[:, :, 1:, 1:])], dim=1))


def operator(op: str, channels: int, stride: int, normalise_pools: bool) -> nn.Module:
    match op:
        case "max_pool_3x3":
            pool = nn.MaxPool2d(3, stride, 1)
            return nn.Sequential(pool, norm(channels, affine=False)) if normalise_pools else pool
        case "avg_pool_3x3":
            pool = nn.AvgPool2d(3, stride, 1, count_include_pad=False)
            return nn.Sequential(pool, norm(channels, affine=False)) if normalise_pools else pool
        case "skip_connect":
            return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)
    kind, size = op[:3], int(op[-1])
    if kind == "nor":
        return ConvNorm(channels, channels, size, stride, affine=False)
    return SeparableConv(channels, size, stride, dilation=2 if kind == "dil" else 1, repeats=1 if kind == "dil" else 2)


class MixedOp(nn.ModuleDict):
    """The weighted sum of all candidates on one edge."""

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum(weight * op(x) for weight, op in zip(weights[1:], self.values(), strict=True))


class MixedCell(nn.Module):
    """Nodes that add up the mixed edges from all earlier ones."""

    def __init__(self, ops, num_inputs, num_nodes, channels, *, reduction=False, normalise_pools=False):
        super().__init__()
        self.num_inputs, self.num_nodes = num_inputs, num_nodes
        self.edges = nn.ModuleDict()
        for target in range(num_inputs, num_inputs + num_nodes):
            for source in range(target):
                stride = 2 if reduction and source < num_inputs else 1
                mixed = MixedOp({op: operator(op, channels, stride, normalise_pools) for op in ops})
                self.edges[f"{source}_{target}"] = mixed

    def nodes(self, states: list[Tensor], mix: Tensor) -> list[Tensor]:
        edges = iter(zip(self.edges.values(), mix, strict=True))
        for _ in range(self.num_nodes):
            terms = [edge(state, weights) for state, (edge, weights) in zip(states, edges, strict=False)]
            states = [*states, sum(terms)]
        return states[self.num_inputs :]


class DartsCell(MixedCell):
    """A cell of two inputs, each projected to its channels; its four nodes are joined."""

    def __init__(self, older, newer, channels, *, reduction, after_reduction):
        super().__init__(DARTS_OPS, 2, 4, channels, reduction=reduction, normalise_pools=True)
        project = FactorizedReduce(older, channels) if after_reduction else ConvNorm(older, channels, affine=False)
        self.input_0 = project
        self.input_1 = ConvNorm(newer, channels, affine=False)
        self.kind = "reduce" if reduction else "normal"

    def forward(self, older: Tensor, newer: Tensor, mix: dict[str, Tensor]) -> Tensor:
        return torch.cat(self.nodes([self.input_0(older), self.input_1(newer)], mix[self.kind]), dim=1)


class Darts(nn.Module):
    """The supernet of DARTS."""

    def __init__(self, channels: int, depth: int, num_classes: int):
        super().__init__()
        self.stem = ConvNorm(3, 3 * channels, 3, affine=True, activate=False)
        older = newer = 3 * channels
        self.blocks, after_reduction = nn.ModuleList(), False
        for index in range(depth):
            reduction = index in (depth // 3, 2 * depth // 3)
            channels = 2 * channels if reduction else channels
            cell = DartsCell(older, newer, channels, reduction=reduction, after_reduction=after_reduction)
            self.blocks.append(cell)
            older, newer, after_reduction = newer, 4 * channels, reduction
        self.linear = nn.Linear(newer, num_classes)

    def forward(self, image: Tensor, alpha: dict[str, Tensor]) -> Tensor:
        mix = {kind: functional.softmax(logits, dim=-1) for kind, logits in alpha.items()}
        older = newer = self.stem(image)
        for cell in self.blocks:
            older, newer = newer, cell(older, newer, mix)
        return self.linear(newer.mean((2, 3)))


class NasBench201Cell(MixedCell):
    """A cell of one input; its last node is its output."""

    def __init__(self, channels):
        super().__init__(NASBENCH201_OPS, 1, 3, channels)

    def forward(self, x: Tensor, mix: Tensor) -> Tensor:
        return self.nodes([x], mix)[-1]


class Residual(nn.Module):
    """The residual block of stride 2 between two stages."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv_norm_0 = ConvNorm(inputs, outputs, 3, 2, affine=True)
        self.conv_norm_1 = ConvNorm(outputs, outputs, 3, affine=True)
        self.conv_0 = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_norm_1(self.conv_norm_0(x)) + self.conv_0(functional.avg_pool2d(x, 2))


class NasBench201(nn.Module):
    """The supernet of NAS-Bench-201."""

    def __init__(self, channels: int, depth: int, num_classes: int):
        super().__init__()
        self.stem = ConvNorm(3, channels, 3, affine=True, activate=False)
        self.blocks = nn.ModuleList()
        for stage in range(3):
            if stage:
                self.blocks.append(Residual(channels, 2 * channels))
                channels = 2 * channels
            self.blocks.extend(NasBench201Cell(channels) for _ in range(depth))
        self.norm = norm(channels, affine=True)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, image: Tensor, alpha: dict[str, Tensor]) -> Tensor:
        mix = functional.softmax(alpha["cell"], dim=-1)
        x = self.stem(image)
        for block in self.blocks:
            x = block(x, mix) if isinstance(block, NasBench201Cell) else block(x)
        return self.linear(functional.relu(self.norm(x)).mean((2, 3)))


def supernet(case: Case, num_classes: int) -> nn.Module:
    make = Darts if case.space == "darts" else NasBench201
    return make(case.channels, case.depth, num_classes)
