"""Layers that several networks of the textbooks share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from nasforge.models.blocks.conv import ConvNorm


def unit(in_channels: int, channels: int, kernel: int, stride: int = 1, *, plain: bool = False) -> nn.Sequential:
    """Make a convolution and ReLU, with batch normalisation between them; `plain`: with a bias instead."""
    if not plain:
        return ConvNorm(in_channels, channels, kernel, stride, activation=nn.ReLU)
    return nn.Sequential(biased(in_channels, channels, kernel, stride), nn.ReLU())


def stem(
    in_channels: int,
    channels: int,
    kernel: int,
    stride: int,
    *,
    first: Callable[[int, int, int, int], nn.Module] = unit,
) -> OrderedDict[str, nn.Module]:
    """Make a convolution of stride 2 and 3x3 max pooling where `stride` is 4; else a 3x3 convolution of that stride.

    Args:
        in_channels: C of the images.
        channels: that come out.
        kernel: of the convolution before a pooling.
        stride: of the whole stem.
        first: makes the convolution, from in_channels, channels, kernel and stride.
    """
    paper = stride == 4
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = first(in_channels, channels, kernel if paper else 3, 2 if paper else stride)
    if paper:
        layers["stem_pool"] = nn.MaxPool2d(3, 2, 1)
    return layers


def biased(in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Make a convolution with a bias, which begins at 0; it keeps the size at stride 1."""
    layer = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups)
    if not layer.weight.is_meta:
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        assert layer.bias is not None  # noqa: S101  (made just now, for the type checker)
        nn.init.zeros_(layer.bias)
    return layer


def linear(in_features: int, out_features: int) -> nn.Linear:
    """Make a linear layer in front of a ReLU, with He's initialisation."""
    layer = nn.Linear(in_features, out_features)
    if not layer.weight.is_meta:
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return layer


def pooled_head(channels: int, classes: int, dropout: float = 0.0) -> OrderedDict[str, nn.Module]:
    """Make global average pooling, dropout and the classifier.

    A dropout of 0 is there so that a recipe with dropout means the same here as for networks of a search.
    """
    return OrderedDict(
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        dropout=nn.Dropout(dropout),
        classifier=nn.Linear(channels, classes),
    )


def three_layers(channels: int, side: int, hidden: int, classes: int) -> OrderedDict[str, nn.Module]:
    """Make the three linear layers, with dropout of 1/2, that end AlexNet and VGG.

    Args:
        channels: of the maps in front of them.
        side: height and width of those maps, for square images; maps of others are pooled to it.
        hidden: width of the first two.
        classes: number of logits.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(pool=nn.AdaptiveAvgPool2d(side), flatten=nn.Flatten())
    for number, features in enumerate((channels * side**2, hidden)):
        layers[f"linear{number}"] = nn.Sequential(linear(features, hidden), nn.ReLU(), nn.Dropout(0.5))
    layers["classifier"] = nn.Linear(hidden, classes)
    return layers
