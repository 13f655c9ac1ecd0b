"""Inception modules: several kernel sizes side by side, the large ones behind a 1x1 bottleneck."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import nn

from nasforge.models.blocks.conv import Activation, ConvNorm, reduced
from nasforge.models.blocks.squeeze_excite import squeeze_excite_or_not

SHARES = (2, 4, 1, 1)
"""Output channels of 1x1, 3x3, 5x5 and pooling in eighths, as in GoogLeNet's module 3a: 64, 128, 32, 32 of 256."""


def split(channels: int, shares: Sequence[int] = SHARES) -> list[int]:
    """Divide `channels` in proportion to `shares`; the rest goes where rounding cut off most."""
    exact = [channels * share / sum(shares) for share in shares]
    parts = [int(part) for part in exact]
    by_loss = sorted(range(len(shares)), key=lambda i: (parts[i] - exact[i], i))
    for i in by_loss[: channels - sum(parts)]:
        parts[i] += 1
    return parts


class Branches(nn.Module):
    """Parallel branches whose channels are joined; a branch without channels is left out."""

    def __init__(self, branches: dict[str, nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map N x Cin x H x W -> N x sum of the branches' channels x H' x W'."""
        return torch.cat([branch(x) for branch in self.branches.values()], dim=1)


Convolutions: TypeAlias = Callable[[int, int], list[nn.Module]]
"""Function of (input channels, output channels) to the layers that see more than one pixel, at the module's stride."""


def module(
    in_channels: int,
    out_channels: int,
    stride: int,
    reduction: int,
    activation: Activation,
    three: Convolutions,
    five: Convolutions,
) -> Branches:
    """Make the branches 1x1; 1x1 then `three`; 1x1 then `five`; pooling then 1x1.

    The bottleneck in front of `three` has `in_channels / reduction` channels, that of `five` a sixth of it: with
    reduction 2 these are the 96 and 16 of GoogLeNet's module 3a.
    """
    one, middle, large, pool = split(out_channels)
    narrow, narrower = reduced(in_channels, reduction), reduced(in_channels, 6 * reduction)
    branches: dict[str, nn.Module] = {}
    if one:
        branches["one"] = ConvNorm(in_channels, one, 1, stride, activation=activation)
    if middle:
        bottleneck = ConvNorm(in_channels, narrow, activation=activation)
        branches["three"] = nn.Sequential(bottleneck, *three(narrow, middle))
    if large:
        bottleneck = ConvNorm(in_channels, narrower, activation=activation)
        branches["five"] = nn.Sequential(bottleneck, *five(narrower, large))
    if pool:
        branches["pool"] = nn.Sequential(nn.MaxPool2d(3, stride, 1), ConvNorm(in_channels, pool, activation=activation))
    return Branches(branches)


class InceptionBlock(nn.Sequential):
    """Module of "Going Deeper with Convolutions", Szegedy et al. 2014, https://arxiv.org/abs/1409.4842.

    Its branches are those of `module`, with one 3x3 and one 5x5 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        reduction: int = 2,
        activation: Activation = nn.ReLU,
        squeeze_excite: bool = False,
    ) -> None:
        def three(channels_in: int, channels_out: int) -> list[nn.Module]:
            return [ConvNorm(channels_in, channels_out, 3, stride, activation=activation)]

        def five(channels_in: int, channels_out: int) -> list[nn.Module]:
            return [ConvNorm(channels_in, channels_out, 5, stride, activation=activation)]

        super().__init__(
            module(in_channels, out_channels, stride, reduction, activation, three, five),
            *squeeze_excite_or_not(out_channels, squeeze_excite),
        )


class FactorisedInceptionBlock(nn.Sequential):
    """Module of "Rethinking the Inception Architecture", Szegedy et al. 2015, https://arxiv.org/abs/1512.00567.

    As `InceptionBlock`, each 3x3 as 1x3 then 3x1, and the 5x5 as two such pairs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        reduction: int = 2,
        activation: Activation = nn.ReLU,
        squeeze_excite: bool = False,
    ) -> None:
        def pair(channels_in: int, channels_out: int, step: int = stride) -> list[nn.Module]:
            return [
                ConvNorm(channels_in, channels_out, (1, 3), step, activation=activation),
                ConvNorm(channels_out, channels_out, (3, 1), activation=activation),
            ]

        def two_pairs(channels_in: int, channels_out: int) -> list[nn.Module]:
            return [*pair(channels_in, channels_out), *pair(channels_out, channels_out, 1)]

        super().__init__(
            module(in_channels, out_channels, stride, reduction, activation, pair, two_pairs),
            *squeeze_excite_or_not(out_channels, squeeze_excite),
        )
