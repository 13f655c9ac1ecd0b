"""Blocks without a shortcut: VGG's pair of 3x3 convolutions and network-in-network's 1x1 ones."""

from __future__ import annotations

from torch import nn

from nasforge.models.blocks.conv import Activation, ConvNorm
from nasforge.models.blocks.squeeze_excite import squeeze_excite_or_not


class PairBlock(nn.Sequential):
    """Two 3x3 convolutions of "Very Deep Convolutional Networks", Simonyan & Zisserman 2014.

    https://arxiv.org/abs/1409.1556. Here with batch normalisation; the first takes the stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        activation: Activation = nn.ReLU,
        squeeze_excite: bool = False,
    ) -> None:
        super().__init__(
            ConvNorm(in_channels, out_channels, 3, stride, activation=activation),
            ConvNorm(out_channels, out_channels, 3, activation=activation),
            *squeeze_excite_or_not(out_channels, squeeze_excite),
        )


class NetworkInNetworkBlock(nn.Sequential):
    """The two 1x1 convolutions of "Network In Network", Lin et al. 2013, https://arxiv.org/abs/1312.4400.

    A small perceptron at every pixel. A stride is taken by 3x3 max pooling in front, as between the paper's layers.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, *, activation: Activation = nn.ReLU
    ) -> None:
        super().__init__(
            *([nn.MaxPool2d(3, stride, 1)] if stride > 1 else []),
            ConvNorm(in_channels, out_channels, activation=activation),
            ConvNorm(out_channels, out_channels, activation=activation),
        )
