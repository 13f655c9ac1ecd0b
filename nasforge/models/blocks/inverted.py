"""Inverted residual: wide inside, narrow between the blocks."""

from __future__ import annotations

from torch import nn

from nasforge.models.blocks.conv import Activation, ConvNorm, Residual
from nasforge.models.blocks.squeeze_excite import squeeze_excite_or_not


class InvertedBlock(Residual):
    """Block of "MobileNetV2: Inverted Residuals and Linear Bottlenecks", Sandler et al. 2018.

    https://arxiv.org/abs/1801.04381. 1x1 to `expansion` times the input channels (left out at 1), depthwise, 1x1
    without activation; added to the input where shapes agree. The paper's activation is ReLU6. Squeeze-and-excitation
    follows the depthwise convolution, as in MobileNetV3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        kernel: int = 3,
        expansion: int = 6,
        activation: Activation = nn.ReLU6,
        squeeze_excite: bool = False,
    ) -> None:
        hidden = in_channels * expansion
        last = ConvNorm(hidden, out_channels)
        branch = nn.Sequential(
            *([ConvNorm(in_channels, hidden, activation=activation)] if expansion > 1 else []),
            ConvNorm(hidden, hidden, kernel, stride, hidden, activation),
            *squeeze_excite_or_not(hidden, squeeze_excite),
            last,
        )
        same = in_channels == out_channels and stride == 1
        super().__init__(branch, nn.Identity() if same else None, last.normalisation if same else None)
