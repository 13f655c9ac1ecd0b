"""The networks of DARTS: normal cells, with reduction cells at a third and two thirds of the depth."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn.functional import pad

from nasforge.core.architecture import Value
from nasforge.core.errors import BuildError
from nasforge.core.protocols import Pick
from nasforge.core.ranges import check_whole
from nasforge.models.blocks.conv import conv
from nasforge.models.darts_genotype import INPUTS, NODES, OPERATIONS, edge_key, inputs_key, pairs


def depthwise(channels: int, kernel: int, stride: int, dilation: int = 1) -> nn.Conv2d:
    """Make a convolution of one filter per channel, without a bias; keeps the size at stride 1."""
    padding = dilation * (kernel // 2)
    layer = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)
    if not layer.weight.is_meta:
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
    return layer


def relu_conv_norm(in_channels: int, out_channels: int) -> nn.Sequential:
    """Make ReLU, 1x1 convolution, batch normalisation."""
    return nn.Sequential(nn.ReLU(), conv(in_channels, out_channels), nn.BatchNorm2d(out_channels))


def separable(channels: int, kernel: int, stride: int) -> nn.Sequential:
    """Make ReLU, depthwise and 1x1 convolution, batch normalisation; twice, the stride in the first."""
    layers: list[nn.Module] = []
    for step in (stride, 1):
        layers += [nn.ReLU(), depthwise(channels, kernel, step), conv(channels, channels), nn.BatchNorm2d(channels)]
    return nn.Sequential(*layers)


def dilated(channels: int, kernel: int, stride: int) -> nn.Sequential:
    """Make ReLU, depthwise convolution of every second pixel, 1x1 convolution, batch normalisation."""
    layers = (nn.ReLU(), depthwise(channels, kernel, stride, 2), conv(channels, channels), nn.BatchNorm2d(channels))
    return nn.Sequential(*layers)


class FactorizedReduction(nn.Module):
    """Half the height and width: two strided 1x1 convolutions, the second shifted by one pixel each way."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.even = conv(in_channels, out_channels - half, 1, 2)
        self.odd = conv(in_channels, half, 1, 2)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map N x Cin x H x W -> N x Cout x ceil(H / 2) x ceil(W / 2)."""
        x = torch.relu(x)
        shifted = pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        out: torch.Tensor = self.norm(torch.cat([self.even(x), self.odd(shifted)], 1))
        return out


def operations(channels: int, stride: int) -> dict[Value, Callable[[], nn.Module]]:
    """Return the operations that an edge may compute, in the order of `OPERATIONS`."""
    skip = nn.Identity if stride == 1 else partial(FactorizedReduction, channels, channels)
    made: tuple[Callable[[], nn.Module], ...] = (
        partial(separable, channels, 3, stride),
        partial(separable, channels, 5, stride),
        partial(dilated, channels, 3, stride),
        partial(dilated, channels, 5, stride),
        partial(nn.MaxPool2d, 3, stride, 1),
        partial(nn.AvgPool2d, 3, stride, 1, count_include_pad=False),
        skip,
    )
    return dict(zip(OPERATIONS, made, strict=True))


class Kept(nn.Module):
    """Choice of the edges that a node keeps: 1 for those, 0 for others. A mixture of several gives their weights."""

    def __init__(self, sources: tuple[int, int], node: int) -> None:
        super().__init__()
        self.sources = sources
        self.node = node

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return one number per predecessor on the CPU, so that those of weight zero need not be computed."""
        return torch.tensor([float(source in self.sources) for source in range(self.node)], device="cpu")


class Node(nn.Module):
    """The weighted sum of its edges; a network that is no supernet has the two that it keeps only."""

    def __init__(self, pick: Pick, cell: str, node: int, channels: int, stride: int) -> None:
        super().__init__()
        edges = {}
        for source in range(node):
            options = operations(channels, stride if source < INPUTS else 1)
            edges[source] = pick(edge_key(cell, source, node), options)
        if node == INPUTS:
            inputs: nn.Module = Kept((0, 1), node)
        else:
            inputs = pick(
                inputs_key(cell, node), {text: partial(Kept, pair, node) for text, pair in pairs(node).items()}
            )
        self.sources = inputs.sources if isinstance(inputs, Kept) else tuple(range(node))
        for source in self.sources:
            self.add_module(f"edge{source}", edges[source])
        self.inputs = None if isinstance(inputs, Kept) else inputs

    def forward(self, states: list[torch.Tensor]) -> torch.Tensor:
        """Map the predecessors' outputs -> N x C x H x W."""
        weights = None if self.inputs is None else self.inputs(states[0])
        total: torch.Tensor | None = None
        for source in self.sources:
            if weights is not None and not states[0].is_meta and not weights[source]:
                continue
            out = self.get_submodule(f"edge{source}")(states[source])
            if weights is not None:
                out = weights[source].to(out.device, out.dtype) * out
            total = out if total is None else total + out
        assert total is not None  # noqa: S101 - a node keeps two edges, for the type checker
        return total


class Cell(nn.Module):
    """Two inputs, four nodes; the output is all nodes side by side."""

    def __init__(
        self, pick: Pick, cell: str, before: tuple[int, int], channels: int, *, reduces: bool, reduced_before: bool
    ) -> None:
        super().__init__()
        last_but_one, last = before
        self.input0 = (FactorizedReduction if reduced_before else relu_conv_norm)(last_but_one, channels)
        self.input1 = relu_conv_norm(last, channels)
        self.nodes = nn.ModuleList(Node(pick, cell, node, channels, 2 if reduces else 1) for node in NODES)

    def forward(self, last_but_one: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Map the outputs of the two cells before -> N x 4C x H x W (or half of it)."""
        states = [self.input0(last_but_one), self.input1(last)]
        for node in self.nodes:
            states.append(node(states))
        return torch.cat(states[INPUTS:], 1)


class DartsNetwork(nn.Module):
    """Stem, cells of which each sees the two before it, global average pooling, classifier."""

    def __init__(self, pick: Pick, in_channels: int, classes: int, channels: int, layers: int) -> None:
        super().__init__()
        width = 3 * channels
        self.stem = nn.Sequential(conv(in_channels, width, 3), nn.BatchNorm2d(width))
        before = (width, width)
        reductions = {layers // 3, 2 * layers // 3}
        cells = []
        for layer in range(layers):
            reduces = layer in reductions
            channels = 2 * channels if reduces else channels
            kind = "reduction" if reduces else "normal"
            cells.append(Cell(pick, kind, before, channels, reduces=reduces, reduced_before=layer - 1 in reductions))
            before = (before[1], len(NODES) * channels)
        self.cells = nn.ModuleList(cells)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(before[1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map N x C x H x W -> N x classes."""
        last_but_one = last = self.stem(x)
        for cell in self.cells:
            last_but_one, last = last, cell(last_but_one, last)
        out: torch.Tensor = self.classifier(self.pool(last).flatten(1))
        return out


def build(pick: Pick, *, in_channels: int, classes: int, channels: int = 16, layers: int = 8) -> nn.Module:
    """Build a network for images N x C x H x W -> logits N x classes.

    "DARTS: Differentiable Architecture Search", Liu et al. 2019, https://arxiv.org/abs/1806.09055, section 3.1. Reads
    `normal.edge{i}_{j}`, `reduction.edge{i}_{j}` and, for nodes j from 3, `normal.node{j}.inputs` and
    `reduction.node{j}.inputs`, see `nasforge.models.darts_genotype`. Batch normalisations have scale and shift in the
    supernet too, and pooling has none, as in the networks that the authors train in the end; without drop path and
    without the auxiliary head.

    Args:
        pick: answers the decisions.
        in_channels: C of the images.
        classes: number of logits.
        channels: of a node in the first cells; each reduction doubles them. The paper searches with 16, ends with 36.
        layers: cells, at least 3. The paper searches with 8, ends with 20.

    Raises:
        BuildError: an argument out of range, or an option that is no operation of the paper.
    """
    for name, number, least in (("channels", channels, 1), ("layers", layers, 3)):
        check_whole(number, f"builder 'darts_cell': {name}", least, error=BuildError)
    return DartsNetwork(pick, in_channels, classes, channels, layers)
