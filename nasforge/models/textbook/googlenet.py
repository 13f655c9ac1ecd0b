"""GoogLeNet."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from torch import nn

from nasforge.models.blocks.inception import Branches
from nasforge.models.staged import scaled
from nasforge.models.textbook import Textbook, stem_stride
from nasforge.models.textbook.layers import pooled_head, stem, unit

MODULES = {
    "3": ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    "4": (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    "5": ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
}
"""Channels of the modules, table 1 of the paper: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pooling's 1x1."""


def googlenet(
    width: float = 1.0, *, in_channels: int = 3, classes: int = 1000, pixels: int = 224, plain: bool = False
) -> nn.Sequential:
    """Build GoogLeNet: Szegedy et al. 2014, https://arxiv.org/abs/1409.4842, without its auxiliary classifiers.

    Args:
        width: factor of all numbers of channels.
        in_channels: C of the images.
        classes: number of logits.
        pixels: shorter side of the images.
        plain: with biases and local response normalisation, as in the paper; else every convolution is followed by
            batch normalisation, which the learning rates of a search are made for.
    """
    narrow, channels = scaled(64, width), scaled(192, width)

    def respond() -> list[nn.Module]:
        return [nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)] if plain else []

    layers = stem(in_channels, narrow, 7, stem_stride(pixels), first=partial(unit, plain=plain))
    layers["stage2"] = nn.Sequential(
        *respond(), unit(narrow, narrow, 1, plain=plain), unit(narrow, channels, 3, plain=plain), *respond()
    )
    for number, modules in MODULES.items():
        stage: OrderedDict[str, nn.Module] = OrderedDict(pool=nn.MaxPool2d(3, 2, 1))
        for letter, widths in zip("abcde", modules, strict=False):
            stage[letter] = inception(channels, [scaled(n, width) for n in widths], plain=plain)
            channels = sum(scaled(widths[i], width) for i in (0, 2, 4, 5))
        layers[f"stage{number}"] = nn.Sequential(stage)
    return nn.Sequential(layers | pooled_head(channels, classes, dropout=0.4))


def inception(in_channels: int, widths: list[int], *, plain: bool) -> Branches:
    """Make a module from its six numbers of channels, in the order of `MODULES`."""
    one, narrow3, three, narrow5, five, pool = widths
    return Branches(
        {
            "one": unit(in_channels, one, 1, plain=plain),
            "three": nn.Sequential(unit(in_channels, narrow3, 1, plain=plain), unit(narrow3, three, 3, plain=plain)),
            "five": nn.Sequential(unit(in_channels, narrow5, 1, plain=plain), unit(narrow5, five, 5, plain=plain)),
            "pool": nn.Sequential(nn.MaxPool2d(3, 1, 1), unit(in_channels, pool, 1, plain=plain)),
        }
    )


GOOGLENET = Textbook("googlenet", "GoogLeNet-BN", googlenet)
PLAIN = Textbook("googlenet_plain", "GoogLeNet", partial(googlenet, plain=True))
