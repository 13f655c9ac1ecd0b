"""AlexNet."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from torch import nn

from nasforge.models.blocks.conv import ConvNorm
from nasforge.models.staged import scaled
from nasforge.models.textbook import Textbook, stem_stride
from nasforge.models.textbook.layers import biased, three_layers


def alexnet(
    width: float = 1.0,
    *,
    in_channels: int = 3,
    classes: int = 1000,
    pixels: int = 224,
    plain: bool = False,
    groups: int = 1,
) -> nn.Sequential:
    """Build AlexNet: Krizhevsky et al. 2012, https://papers.nips.cc/paper/4824.

    Five convolutions of 96, 256, 384, 384 and 256 channels, overlapping max pooling after the first, the second and the
    last, three linear layers. Above 80 pixels the first convolution is 11x11 of stride 4, padded by 2; up to 80 it is
    3x3 of the stem's stride, and pooling is padded so that it halves.

    Args:
        width: factor of all numbers of channels.
        in_channels: C of the images.
        classes: number of logits.
        pixels: shorter side of the images.
        plain: with biases and local response normalisation, as in the paper; else every convolution is followed by
            batch normalisation, which the learning rates of a search are made for.
        groups: 2 for the second, fourth and fifth convolution of the paper, divided over two GPUs.
    """
    paper = (stride := stem_stride(pixels)) == 4
    one, two, three, four, five = (groups * scaled(n // groups, width) for n in (96, 256, 384, 384, 256))
    pool = partial(nn.MaxPool2d, 3, 2, 0 if paper else 1)

    def layer(before: int, after: int, kernel: int, stride: int = 1, parts: int = 1) -> nn.Sequential:
        if not plain:
            return ConvNorm(before, after, kernel, stride, parts, nn.ReLU)
        return nn.Sequential(biased(before, after, kernel, stride, parts), nn.ReLU())

    def respond() -> list[nn.Module]:
        # torch divides alpha by the size: this is k = 2, n = 5, alpha = 1e-4, beta = 0.75
        return [nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)] if plain else []

    first = layer(in_channels, one, 11, 4) if paper else layer(in_channels, one, 3, stride)
    convolution = first[0]
    if paper and isinstance(convolution, nn.Conv2d):
        convolution.padding = (2, 2)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = nn.Sequential(first, *respond(), pool())
    layers["stage0"] = nn.Sequential(layer(one, two, 5, parts=groups), *respond(), pool())
    layers["stage1"] = nn.Sequential(
        layer(two, three, 3), layer(three, four, 3, parts=groups), layer(four, five, 3, parts=groups), pool()
    )
    side = (pixels + 4 - 11) // 4 + 1 if paper else -(-pixels // stride)
    for _ in range(3):
        side = (side - 3) // 2 + 1 if paper else -(-side // 2)
    return nn.Sequential(layers | three_layers(five, side, scaled(4096, width), classes))


ALEXNET = Textbook("alexnet", "AlexNet-BN", alexnet)
PLAIN = Textbook("alexnet_plain", "AlexNet", partial(alexnet, plain=True, groups=2))
