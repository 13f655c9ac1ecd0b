"""Residual blocks: two 3x3 convolutions (v1, and v2 with pre-activation), the 1x1 bottleneck, the grouped one."""

from __future__ import annotations

import torch
from torch import nn

from nasforge.models.blocks.conv import Activation, ConvNorm, Residual, conv, groups_for, reduced, shortcut
from nasforge.models.blocks.drop_path import DropPath
from nasforge.models.blocks.squeeze_excite import squeeze_excite_or_not


class ResidualBlock(Residual):
    """Basic block of "Deep Residual Learning for Image Recognition", He et al. 2015, https://arxiv.org/abs/1512.03385.

    3x3 and 3x3, added to the input, then the activation.
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
        last = ConvNorm(out_channels, out_channels, 3)
        branch = nn.Sequential(
            ConvNorm(in_channels, out_channels, 3, stride, activation=activation),
            last,
            *squeeze_excite_or_not(out_channels, squeeze_excite),
        )
        super().__init__(branch, shortcut(in_channels, out_channels, stride), last.normalisation, activation())


class PreActivation(nn.Module):
    """A branch behind normalisation and activation, added to the input; nothing follows the sum.

    Where shapes change, the 1x1 projection takes the pre-activated input.
    """

    def __init__(
        self, branch: nn.Module, in_channels: int, out_channels: int, stride: int, activation: Activation
    ) -> None:
        super().__init__()
        self.pre = nn.Sequential(nn.BatchNorm2d(in_channels), activation())
        self.branch = branch
        same = in_channels == out_channels and stride == 1
        self.projection = None if same else conv(in_channels, out_channels, 1, stride)
        self.drop_path = DropPath()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map N x Cin x H x W -> N x Cout x ceil(H / stride) x ceil(W / stride)."""
        ready = self.pre(x)
        bypass: torch.Tensor = x if self.projection is None else self.projection(ready)
        out: torch.Tensor = bypass + self.drop_path(self.branch(ready))
        return out


class PreActivationBlock(PreActivation):
    """Basic block of "Identity Mappings in Deep Residual Networks", He et al. 2016, https://arxiv.org/abs/1603.05027.

    Normalisation and activation come before each 3x3 convolution. No normalisation ends the branch, so zero-init leaves
    it alone.
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
        branch = nn.Sequential(
            ConvNorm(in_channels, out_channels, 3, stride, activation=activation),
            conv(out_channels, out_channels, 3),
            *squeeze_excite_or_not(out_channels, squeeze_excite),
        )
        super().__init__(branch, in_channels, out_channels, stride, activation)


class BottleneckBlock(Residual):
    """Bottleneck of "Deep Residual Learning for Image Recognition", He et al. 2015, https://arxiv.org/abs/1512.03385.

    1x1 to `out_channels / reduction`, 3x3 (which takes the stride), 1x1 back, added to the input.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        reduction: int = 4,
        activation: Activation = nn.ReLU,
        squeeze_excite: bool = False,
    ) -> None:
        hidden = reduced(out_channels, reduction)
        last = ConvNorm(hidden, out_channels)
        branch = nn.Sequential(
            ConvNorm(in_channels, hidden, activation=activation),
            ConvNorm(hidden, hidden, 3, stride, activation=activation),
            last,
            *squeeze_excite_or_not(out_channels, squeeze_excite),
        )
        super().__init__(branch, shortcut(in_channels, out_channels, stride), last.normalisation, activation())


class ResNeXtBlock(Residual):
    """Grouped bottleneck of "Aggregated Residual Transformations", Xie et al. 2017, https://arxiv.org/abs/1611.05431.

    As the bottleneck, at half of `out_channels` (the paper's 32x4d: 128 of 256), its 3x3 in `cardinality` groups, or
    the largest smaller number that divides the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        cardinality: int = 8,
        activation: Activation = nn.ReLU,
        squeeze_excite: bool = False,
    ) -> None:
        hidden = reduced(out_channels, 2)
        last = ConvNorm(hidden, out_channels)
        branch = nn.Sequential(
            ConvNorm(in_channels, hidden, activation=activation),
            ConvNorm(hidden, hidden, 3, stride, groups_for(hidden, cardinality), activation),
            last,
            *squeeze_excite_or_not(out_channels, squeeze_excite),
        )
        super().__init__(branch, shortcut(in_channels, out_channels, stride), last.normalisation, activation())
