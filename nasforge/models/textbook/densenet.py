"""DenseNet-121."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from nasforge.models.blocks.conv import ConvNorm, conv
from nasforge.models.staged import scaled
from nasforge.models.textbook import Textbook, stem_stride
from nasforge.models.textbook.layers import pooled_head, stem

LAYERS = (6, 12, 24, 16)


class DenseLayer(nn.Module):
    """Normalisation, ReLU, 1x1 to four times the growth; the same and 3x3 to the growth; joined to the input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.pre = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU())
        self.branch = nn.Sequential(ConvNorm(in_channels, 4 * growth, activation=nn.ReLU), conv(4 * growth, growth, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map N x C x H x W -> N x (C + growth) x H x W."""
        return torch.cat([x, self.branch(self.pre(x))], 1)


def densenet(width: float = 1.0, *, in_channels: int = 3, classes: int = 1000, pixels: int = 224) -> nn.Sequential:
    """Build DenseNet-121: Huang et al. 2016, https://arxiv.org/abs/1608.06993, its form DenseNet-BC.

    Blocks of 6, 12, 24 and 16 layers, growth 32, transitions that halve channels and resolution. The growth is scaled,
    and the stem with it.

    Args:
        width: factor of the growth.
        in_channels: C of the images.
        classes: number of logits.
        pixels: shorter side of the images.
    """
    growth = scaled(32, width)
    channels = 2 * growth
    layers = stem(in_channels, channels, 7, stem_stride(pixels))
    for i, count in enumerate(LAYERS):
        stage: OrderedDict[str, nn.Module] = OrderedDict()
        if i:
            stage["norm"], stage["activation"] = nn.BatchNorm2d(channels), nn.ReLU()
            stage["transition"] = conv(channels, channels // 2)
            stage["pool"] = nn.AvgPool2d(2, ceil_mode=True)
            channels //= 2
        for j in range(count):
            stage[f"layer{j}"] = DenseLayer(channels, growth)
            channels += growth
        layers[f"stage{i}"] = nn.Sequential(stage)
    layers["norm"], layers["activation"] = nn.BatchNorm2d(channels), nn.ReLU()
    return nn.Sequential(layers | pooled_head(channels, classes))


DENSENET = Textbook("densenet", "DenseNet-121", densenet)
