"""Depthwise-separable convolution: space and channels one after the other."""

from __future__ import annotations

from torch import nn

from nasforge.models.blocks.conv import Activation, ConvNorm
from nasforge.models.blocks.squeeze_excite import squeeze_excite_or_not


class SeparableBlock(nn.Sequential):
    """Block of "MobileNets", Howard et al. 2017, https://arxiv.org/abs/1704.04861.

    A depthwise convolution (one filter per channel), then a 1x1; both normalised and activated.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        kernel: int = 3,
        activation: Activation = nn.ReLU,
        squeeze_excite: bool = False,
    ) -> None:
        super().__init__(
            ConvNorm(in_channels, in_channels, kernel, stride, in_channels, activation),
            ConvNorm(in_channels, out_channels, activation=activation),
            *squeeze_excite_or_not(out_channels, squeeze_excite),
        )
