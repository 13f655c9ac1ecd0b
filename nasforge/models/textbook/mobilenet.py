"""MobileNet v1 and v2."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from nasforge.models.blocks.conv import ConvNorm
from nasforge.models.blocks.inverted import InvertedBlock
from nasforge.models.blocks.separable import SeparableBlock
from nasforge.models.staged import scaled
from nasforge.models.textbook import Textbook, stem_stride
from nasforge.models.textbook.layers import pooled_head

V1_STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
"""Channels, blocks, stride of the first block."""
V2_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks, stride of the first block: table 2 of the paper."""


def mobilenet_v1(width: float = 1.0, *, in_channels: int = 3, classes: int = 1000, pixels: int = 224) -> nn.Sequential:
    """Build MobileNet: Howard et al. 2017, https://arxiv.org/abs/1704.04861, table 1.

    A 3x3 convolution of stride 2 and thirteen depthwise-separable blocks. Up to 80 pixels the first block of 128
    channels has stride 1, up to 40 the convolution too.

    Args:
        width: factor of all numbers of channels, the paper's alpha.
        in_channels: C of the images.
        classes: number of logits.
        pixels: shorter side of the images.
    """
    first, second = _strides(pixels)
    channels = scaled(32, width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = ConvNorm(in_channels, channels, 3, first, activation=nn.ReLU)
    for i, (whole, count, paper) in enumerate(V1_STAGES):
        out, stride = scaled(whole, width), second if i == 1 else paper
        blocks = []
        for j in range(count):
            blocks.append(SeparableBlock(channels, out, 1 if j else stride))
            channels = out
        layers[f"stage{i}"] = nn.Sequential(*blocks)
    return nn.Sequential(layers | pooled_head(channels, classes))


def mobilenet_v2(width: float = 1.0, *, in_channels: int = 3, classes: int = 1000, pixels: int = 224) -> nn.Sequential:
    """Build MobileNetV2: Sandler et al. 2018, https://arxiv.org/abs/1801.04381, table 2.

    A 3x3 convolution of stride 2, seventeen inverted residuals, a 1x1 convolution. Up to 80 pixels the first block of
    24 channels has stride 1, up to 40 the convolution too. All channels are scaled; the paper keeps the 1,280 of the
    last convolution in networks narrower than its own.

    Args:
        width: factor of all numbers of channels.
        in_channels: C of the images.
        classes: number of logits.
        pixels: shorter side of the images.
    """
    first, second = _strides(pixels)
    channels, last = scaled(32, width), scaled(1280, width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = ConvNorm(in_channels, channels, 3, first, activation=nn.ReLU6)
    for i, (expansion, whole, count, paper) in enumerate(V2_STAGES):
        out, stride = scaled(whole, width), second if i == 1 else paper
        blocks = []
        for j in range(count):
            blocks.append(InvertedBlock(channels, out, 1 if j else stride, expansion=expansion))
            channels = out
        layers[f"stage{i}"] = nn.Sequential(*blocks)
    layers["last"] = ConvNorm(channels, last, activation=nn.ReLU6)
    return nn.Sequential(layers | pooled_head(last, classes))


def _strides(pixels: int) -> tuple[int, int]:
    """Return the strides of the first convolution and of the first block that reduces the resolution."""
    return {1: (1, 1), 2: (2, 1), 4: (2, 2)}[stem_stride(pixels)]


V1 = Textbook("mobilenet_v1", "MobileNet-v1", mobilenet_v1)
V2 = Textbook("mobilenet_v2", "MobileNet-v2", mobilenet_v2)
