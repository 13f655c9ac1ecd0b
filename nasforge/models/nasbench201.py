"""The networks of NAS-Bench-201: one cell, repeated between two reductions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from nasforge.core.architecture import Value
from nasforge.core.errors import BuildError
from nasforge.core.protocols import Pick
from nasforge.core.ranges import check_whole
from nasforge.models.blocks.conv import Residual, conv
from nasforge.models.nasbench201_cells import EDGES, NODES, edge_key


class Zero(nn.Module):
    """Nothing, of the input's shape: the operation `none`.

    A product with zero, so that weights which lead nowhere have a gradient (of zero) like all others.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map N x C x H x W -> zeros of the same shape."""
        return x * 0.0


class ReluConvNorm(nn.Sequential):
    """ReLU, convolution, batch normalisation, in this order."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            OrderedDict(
                relu=nn.ReLU(),
                conv=conv(in_channels, out_channels, kernel, stride),
                norm=nn.BatchNorm2d(out_channels),
            )
        )


class Cell(nn.Module):
    """Four nodes; each is the sum of what its edges make of all nodes before it, the last is the output."""

    def __init__(self, pick: Pick, channels: int) -> None:
        super().__init__()
        for edge in EDGES:
            options: dict[Value, Callable[[], nn.Module]] = {
                "none": Zero,
                "skip_connect": nn.Identity,
                "nor_conv_1x1": partial(ReluConvNorm, channels, channels, 1),
                "nor_conv_3x3": partial(ReluConvNorm, channels, channels, 3),
                "avg_pool_3x3": partial(nn.AvgPool2d, 3, stride=1, padding=1, count_include_pad=False),
            }
            self.add_module(edge_key(*edge), pick(edge_key(*edge), options))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map N x C x H x W -> the same shape."""
        nodes = [x]
        for node in range(1, NODES):
            total = self.get_submodule(edge_key(0, node))(x)
            for source in range(1, node):
                total = total + self.get_submodule(edge_key(source, node))(nodes[source])
            nodes.append(total)
        return nodes[-1]


def reduction(in_channels: int, out_channels: int) -> Residual:
    """Make the residual block between stages: half the height and width, no activation after the sum."""
    last = ReluConvNorm(out_channels, out_channels, 3)
    branch = nn.Sequential(ReluConvNorm(in_channels, out_channels, 3, stride=2), last)
    bypass = nn.Sequential(nn.AvgPool2d(2, 2, ceil_mode=True), conv(in_channels, out_channels))
    norm = last.get_submodule("norm")
    return Residual(branch, bypass, norm if isinstance(norm, nn.BatchNorm2d) else None)


def build(pick: Pick, *, in_channels: int, classes: int, channels: int = 16, cells_per_stage: int = 5) -> nn.Sequential:
    """Build a network for images N x C x H x W -> logits N x classes.

    "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", Dong and Yang 2020,
    https://arxiv.org/abs/2001.00326, section 2.1.

    Reads the decisions `edge0_1`, `edge0_2`, `edge1_2`, `edge0_3`, `edge1_3`, `edge2_3` in every cell: all are alike.

    Args:
        pick: answers the decisions.
        in_channels: C of the images.
        classes: number of logits.
        channels: of the first stage; the second has twice, the third four times as many.
        cells_per_stage: N of the paper, 5 in its tables.

    Raises:
        BuildError: an argument out of range, or an option that is no operation of the paper.
    """
    for name, number in (("channels", channels), ("cells_per_stage", cells_per_stage)):
        check_whole(number, f"builder 'nasbench201': {name}", 1, error=BuildError)
    stem = OrderedDict(conv=conv(in_channels, channels, 3), norm=nn.BatchNorm2d(channels))
    network: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Sequential(stem))
    for stage in range(3):
        width = channels * 2**stage
        if stage:
            network[f"reduction{stage}"] = reduction(width // 2, width)
        network[f"stage{stage}"] = nn.Sequential(*(Cell(pick, width) for _ in range(cells_per_stage)))
    network.update(
        norm=nn.BatchNorm2d(width),
        activation=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(width, classes),
    )
    return nn.Sequential(network)
