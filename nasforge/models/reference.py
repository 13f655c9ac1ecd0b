"""Hand-designed networks to compare a search with: ResNets scaled to a budget of multiply-adds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from nasforge.blocks.conv import ConvNorm
from nasforge.blocks.residual import ResidualBlock
from nasforge.core.errors import BuildError
from nasforge.costs import count_flops

DEPTHS = (1, 2, 3, 5, 7, 9)
"""Blocks per stage: ResNet-8, 14, 20, 32, 44, 56."""
CLOSE = 0.03


def resnet(depth: int, width: int, *, in_channels: int, classes: int) -> nn.Sequential:
    """The CIFAR form of "Deep Residual Learning", He et al. 2015, https://arxiv.org/abs/1512.03385, section 4.2.

    A 3x3 stem, three stages of `depth` basic blocks with `width`, 2 `width` and 4 `width` channels, global average
    pooling, a classifier: 6 `depth` + 2 layers. Where shapes change the shortcut is a 1x1 projection (option B).

    Args:
        depth: blocks per stage; 3 for ResNet-20.
        width: channels of the first stage; 16 in the paper.
        in_channels: C of the images N x C x H x W.
        classes: number of logits.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=ConvNorm(in_channels, width, 3, activation=nn.ReLU))
    channels = width
    for i in range(3):
        out = width * 2**i
        blocks = []
        for j in range(depth):
            blocks.append(ResidualBlock(channels, out, 2 if i and not j else 1))
            channels = out
        layers[f"stage{i}"] = nn.Sequential(*blocks)
    layers.update(
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        dropout=nn.Dropout(0.0),  # so that a recipe with dropout means the same here as for a found network
        classifier=nn.Linear(channels, classes),
    )
    return nn.Sequential(layers)


def resnet_of_flops(flops: float, *, shape: tuple[int, int, int], classes: int) -> tuple[str, nn.Module]:
    """The ResNet whose multiply-adds come nearest to `flops`, depth and width scaled.

    Of those within 3 % of it, the one whose width is nearest to the paper's 16; else the nearest of all.

    Args:
        flops: multiply-adds for one image.
        shape: channels, height, width.
        classes: number of logits.

    Returns:
        A name such as `ResNet-8 x0.75` (width relative to the paper's), and the network, freshly initialised.

    Raises:
        BuildError: `flops` is not above zero.
    """
    if not flops > 0:
        raise BuildError(f"a ResNet needs a budget of multiply-adds above 0, got {flops!r}")
    found = []
    for depth in DEPTHS:
        a, b = _polynomial(partial(resnet, depth, in_channels=shape[0], classes=classes), shape)
        below = max(1, int((-b + (b * b + 4 * a * flops) ** 0.5) / (2 * a)))
        for width in (below, below + 1):
            off = abs((a * width**2 + b * width) / flops - 1)
            found.append((off > CLOSE, abs(width / 16 - 1) if off <= CLOSE else off, depth, width))
    _, _, depth, width = min(found)
    return f"ResNet-{6 * depth + 2} x{width / 16:g}", resnet(depth, width, in_channels=shape[0], classes=classes)


def _polynomial(make: Callable[[int], nn.Module], shape: tuple[int, int, int]) -> tuple[float, float]:
    """a, b of multiply-adds = a width^2 + b width: exact, as every layer has width x width or width x constant."""
    with torch.device("meta"):
        eight, sixteen = count_flops(make(8), shape), count_flops(make(16), shape)
    a = (sixteen - 2 * eight) / 128
    return a, eight / 8 - 8 * a
