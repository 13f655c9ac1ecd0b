"""ResNets of ImageNet's four stages: v1, and v2 with pre-activation; basic blocks and bottlenecks."""

from __future__ import annotations

from functools import partial

from torch import nn

from nasforge.models.blocks.conv import ConvNorm, conv
from nasforge.models.blocks.residual import BottleneckBlock, PreActivation, PreActivationBlock, ResidualBlock
from nasforge.models.staged import scaled
from nasforge.models.textbook import Textbook, stem_stride
from nasforge.models.textbook.layers import pooled_head, stem

DEPTHS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
"""Layers in all -> blocks per stage; with 50 layers blocks are bottlenecks."""


def resnet_v1(
    width: float = 1.0, *, in_channels: int = 3, classes: int = 1000, pixels: int = 224, depth: int = 18
) -> nn.Sequential:
    """Build a ResNet: He et al. 2015, https://arxiv.org/abs/1512.03385, table 1.

    Where shapes change the shortcut is a 1x1 projection (option B). The 3x3 of a bottleneck takes the stride, as in
    today's libraries; in the paper its first 1x1 does, with the same number of parameters and fewer multiply-adds.

    Args:
        width: factor of all numbers of channels.
        in_channels: C of the images.
        classes: number of logits.
        pixels: shorter side of the images.
        depth: layers, one of `DEPTHS`.
    """
    deep = depth == 50
    channels = scaled(64, width)
    layers = stem(in_channels, channels, 7, stem_stride(pixels))
    block = BottleneckBlock if deep else ResidualBlock
    for i, count in enumerate(DEPTHS[depth]):
        out = scaled(64 * 2**i, width) * (4 if deep else 1)
        stage = []
        for j in range(count):
            stage.append(block(channels, out, 2 if i and not j else 1))
            channels = out
        layers[f"stage{i}"] = nn.Sequential(*stage)
    return nn.Sequential(layers | pooled_head(channels, classes))


def resnet_v2(
    width: float = 1.0, *, in_channels: int = 3, classes: int = 1000, pixels: int = 224, depth: int = 18
) -> nn.Sequential:
    """Build a ResNet with pre-activation: He et al. 2016, https://arxiv.org/abs/1603.05027.

    The stages are those of `resnet_v1`. The stem is a convolution alone, since the first block normalises; the last
    block is followed by a normalisation and ReLU.

    Args:
        width: factor of all numbers of channels.
        in_channels: C of the images.
        classes: number of logits.
        pixels: shorter side of the images.
        depth: layers, one of `DEPTHS`.
    """
    deep, stride = depth == 50, stem_stride(pixels)
    channels = scaled(64, width)
    layers = stem(in_channels, channels, 7, stride, first=conv)
    block = PreActivationBottleneck if deep else PreActivationBlock
    for i, count in enumerate(DEPTHS[depth]):
        out = scaled(64 * 2**i, width) * (4 if deep else 1)
        stage = []
        for j in range(count):
            stage.append(block(channels, out, 2 if i and not j else 1))
            channels = out
        layers[f"stage{i}"] = nn.Sequential(*stage)
    layers["norm"] = nn.BatchNorm2d(channels)
    layers["activation"] = nn.ReLU()
    return nn.Sequential(layers | pooled_head(channels, classes))


class PreActivationBottleneck(PreActivation):
    """Bottleneck of `resnet_v2`: normalisation and ReLU before each of 1x1, 3x3 (with the stride) and 1x1."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        hidden = max(1, out_channels // 4)
        branch = nn.Sequential(
            ConvNorm(in_channels, hidden, activation=nn.ReLU),
            ConvNorm(hidden, hidden, 3, stride, activation=nn.ReLU),
            conv(hidden, out_channels),
        )
        super().__init__(branch, in_channels, out_channels, stride, nn.ReLU)


V1 = Textbook("resnet_v1", "ResNet-18", resnet_v1)
V1_50 = Textbook("resnet_v1_50", "ResNet-50", partial(resnet_v1, depth=50))
V2 = Textbook("resnet_v2", "ResNet-v2-18", resnet_v2)
V2_50 = Textbook("resnet_v2_50", "ResNet-v2-50", partial(resnet_v2, depth=50))
