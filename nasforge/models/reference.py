"""Hand-designed networks to compare a search with: ResNets scaled to a budget of multiply-adds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import nn

from nasforge.core.errors import BuildError
from nasforge.core.protocols import Pick
from nasforge.core.space import SearchSpace
from nasforge.models.blocks.conv import ConvNorm
from nasforge.models.blocks.residual import ResidualBlock
from nasforge.models.costs import count_flops
from nasforge.models.resolution import SMALL, reference_layout

DEPTHS = (1, 2, 3, 5, 7, 9)
"""Blocks per stage: ResNet-8, 14, 20, 32, 44, 56."""
CLOSE, FAR = 0.03, 0.25
"""Shares by which a reference's multiply-adds differ from its network's: sought for `resnet`, and worth a remark."""
BUILDER = f"{__name__}:build"
"""Name of the builder in network folders."""


def resnet(
    depth: int,
    width: int,
    *,
    in_channels: int,
    classes: int,
    stem_stride: int = 1,
    strides: Sequence[int] = (1, 2, 2),
) -> nn.Sequential:
    """Build a ResNet for CIFAR: He et al. 2015, https://arxiv.org/abs/1512.03385, section 4.2.

    A 3x3 stem, three stages of `depth` basic blocks with `width`, 2 `width` and 4 `width` channels, global average
    pooling, a classifier: 6 `depth` + 2 layers. Where shapes change the shortcut is a 1x1 projection (option B). Other
    strides give the same network for larger images.

    Args:
        depth: blocks per stage; 3 for ResNet-20.
        width: channels of the first stage; 16 in the paper.
        in_channels: C of the images N x C x H x W.
        classes: number of logits.
        stem_stride: stride of the stem.
        strides: one per stage; each stage has twice the channels of the one before it.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = ConvNorm(in_channels, width, 3, stem_stride, activation=nn.ReLU)
    channels = width
    for i, stride in enumerate(strides):
        out = width * 2**i
        blocks = []
        for j in range(depth):
            blocks.append(ResidualBlock(channels, out, 1 if j else stride))
            channels = out
        layers[f"stage{i}"] = nn.Sequential(*blocks)
    layers.update(
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        dropout=nn.Dropout(0.0),  # so that a recipe with dropout means the same here as for a found network
        classifier=nn.Linear(channels, classes),
    )
    return nn.Sequential(layers)


def build(
    pick: Pick,
    *,
    in_channels: int,
    classes: int,
    depth: int,
    width: int,
    stem_stride: int = 1,
    strides: Sequence[int] = (1, 2, 2),
) -> nn.Module:
    """Build a ResNet, see `resnet`, so that references are network folders too."""
    return resnet(depth, width, in_channels=in_channels, classes=classes, stem_stride=stem_stride, strides=strides)


def resnet_of_flops(flops: float, *, shape: tuple[int, int, int], classes: int) -> tuple[str, nn.Module]:
    """Build the ResNet whose multiply-adds are nearest to `flops`, depth and width scaled.

    Of those within 3 % of it, the one whose width is nearest to the paper's 16; else the nearest of all. Its strides
    follow the resolution (`nasforge.models.resolution.reference_layout`).

    Args:
        flops: multiply-adds for one image.
        shape: channels, height, width.
        classes: number of logits.

    Returns:
        A name such as `ResNet-8 x0.75` (width relative to the paper's; `ResNet-8 x0.75 stem2` where the stem has
        stride 2), and the network, freshly initialised.

    Raises:
        BuildError: `flops` is not above zero.
    """
    if not flops > 0:
        raise BuildError(f"a ResNet needs a budget of multiply-adds above 0, got {flops!r}", kind="range")
    layout = reference_layout(min(shape[1:]))

    def make(depth: int, width: int) -> nn.Sequential:
        return resnet(depth, width, in_channels=shape[0], classes=classes, **asdict(layout))

    layouts = []
    for depth in DEPTHS:
        a, b = _polynomial(partial(make, depth), shape)
        below = max(1, int((-b + (b * b + 4 * a * flops) ** 0.5) / (2 * a)))
        for width in (below, below + 1):
            off = abs((a * width**2 + b * width) / flops - 1)
            layouts.append((off > CLOSE, abs(width / 16 - 1) if off <= CLOSE else off, depth, width))
    _, _, depth, width = min(layouts)
    stem = f" stem{layout.stem_stride}" if layout.stem_stride > 1 else ""
    return f"ResNet-{2 * len(layout.strides) * depth + 2} x{width / 16:g}{stem}", make(depth, width)


def resnet_space(flops: float, *, shape: tuple[int, int, int], classes: int) -> tuple[str, SearchSpace]:
    """Return the ResNet nearest to `flops` as `retrain` takes references: its name, and a space that holds it alone.

    Args:
        flops: multiply-adds for one image.
        shape: channels, height, width.
        classes: number of logits.
    """
    name, network = resnet_of_flops(flops, shape=shape, classes=classes)
    stage, classifier = network.get_submodule("stage0"), network.get_submodule("classifier")
    assert isinstance(stage, nn.Sequential) and isinstance(classifier, nn.Linear)  # noqa: S101  (built just now)
    layout = reference_layout(min(shape[1:]))
    arguments: dict[str, Any] = {"depth": len(stage), "width": classifier.in_features // 2 ** (len(layout.strides) - 1)}
    if min(shape[1:]) > SMALL:
        arguments |= {"stem_stride": layout.stem_stride, "strides": list(layout.strides)}
    return name, SearchSpace(name, (), builder=BUILDER, arguments=arguments)


def _polynomial(make: Callable[[int], nn.Module], shape: tuple[int, int, int]) -> tuple[float, float]:
    """Return a, b of multiply-adds = a width^2 + b width; exact, since layers have width^2 or width * constant."""
    with torch.device("meta"):
        eight, sixteen = count_flops(make(8), shape), count_flops(make(16), shape)
    a = (sixteen - 2 * eight) / 128
    return a, eight / 8 - 8 * a
