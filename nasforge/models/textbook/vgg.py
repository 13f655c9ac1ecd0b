"""VGG-16."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from torch import nn

from nasforge.models.staged import scaled
from nasforge.models.textbook import Textbook, stem_stride
from nasforge.models.textbook.layers import three_layers, unit

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and number of 3x3 convolutions of each stage, configuration D of the paper."""


def vgg(
    width: float = 1.0, *, in_channels: int = 3, classes: int = 1000, pixels: int = 224, plain: bool = False
) -> nn.Sequential:
    """Build VGG-16: Simonyan & Zisserman 2014, https://arxiv.org/abs/1409.1556.

    Thirteen 3x3 convolutions in five stages, max pooling after each, three linear layers. Up to 80 pixels the second
    stage has no pooling, up to 40 the first two have none.

    Args:
        width: factor of all numbers of channels.
        in_channels: C of the images.
        classes: number of logits.
        pixels: shorter side of the images.
        plain: with biases and no normalisation, as in the paper; else every convolution is followed by batch
            normalisation, which the learning rates of a search are made for.
    """
    stride = stem_stride(pixels)
    kept = (stride > 1, stride > 2, True, True, True)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, side = in_channels, pixels
    for number, ((whole, depth), pooled) in enumerate(zip(STAGES, kept, strict=True)):
        out = scaled(whole, width)
        stage: list[nn.Module] = [unit(out if j else channels, out, 3, plain=plain) for j in range(depth)]
        if pooled:
            stage.append(nn.MaxPool2d(2, ceil_mode=True))
            side = -(-side // 2)
        layers[f"stage{number}"] = nn.Sequential(*stage)
        channels = out
    return nn.Sequential(layers | three_layers(channels, side, scaled(4096, width), classes))


VGG = Textbook("vgg", "VGG-16-BN", vgg)
PLAIN = Textbook("vgg_plain", "VGG-16", partial(vgg, plain=True))
