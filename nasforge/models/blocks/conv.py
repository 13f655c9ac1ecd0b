"""The pieces all blocks are made of: bias-free convolutions with He initialisation, followed by batch normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import nn

from nasforge.models.blocks.drop_path import DropPath

Activation: TypeAlias = Callable[[], nn.Module]
"""Makes one activation module; called once for every place that needs one."""


def conv(
    in_channels: int, out_channels: int, kernel: int | tuple[int, int] = 1, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """Make a convolution that keeps the size at stride 1, without a bias because a normalisation follows.

    "Delving Deep into Rectifiers", He et al. 2015, https://arxiv.org/abs/1502.01852: weights are drawn with variance
    2 / fan_in, where fan_in counts the inputs of one group.

    Args:
        in_channels: C of the input N x C x H x W.
        out_channels: C of the output N x C x ceil(H / stride) x ceil(W / stride).
        kernel: odd size, or (height, width).
        stride: step in both directions.
        groups: must divide both channel counts.
    """
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    layer = nn.Conv2d(
        in_channels, out_channels, (height, width), stride, (height // 2, width // 2), groups=groups, bias=False
    )
    if not layer.weight.is_meta:  # there is nothing to draw, and it would be half the time of building
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
    return layer


class ConvNorm(nn.Sequential):
    """Convolution, batch normalisation and, where asked for, an activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        groups: int = 1,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        self.add_module("conv", conv(in_channels, out_channels, kernel, stride, groups))
        self.add_module("norm", nn.BatchNorm2d(out_channels))
        if activation is not None:
            self.add_module("activation", activation())

    @property
    def normalisation(self) -> nn.BatchNorm2d:
        """The batch normalisation in it."""
        layer = self.get_submodule("norm")
        assert isinstance(layer, nn.BatchNorm2d)  # noqa: S101 - made three lines above, for the type checker
        return layer


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Make the identity where shapes allow it, else a strided 1x1 projection (option B of He et al. 2015)."""
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return ConvNorm(in_channels, out_channels, 1, stride)


def groups_for(channels: int, most: int) -> int:
    """Return the largest number of groups up to `most` that divides `channels`, so that odd counts work too."""
    return max(n for n in range(1, min(most, channels) + 1) if channels % n == 0)


def reduced(channels: int, reduction: int) -> int:
    """Return `channels / reduction`, rounded, at least one."""
    return max(1, round(channels / reduction))


class Residual(nn.Module):
    """`after(shortcut(x) + branch(x))`, the form that every residual block shares; without a shortcut, just the branch.

    Attributes:
        drop_path: leaves the branch out of some images, where a recipe says so and there is a shortcut.
        last_norm: the batch normalisation that ends the branch, see `zero_init_last_norms`.
    """

    def __init__(
        self,
        branch: nn.Module,
        bypass: nn.Module | None,
        last_norm: nn.BatchNorm2d | None,
        after: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = bypass
        self.drop_path = DropPath()
        self.after = nn.Identity() if after is None else after
        self._last_norm = (last_norm,)  # in a tuple: it is the branch's child, not a second one of ours

    @property
    def last_norm(self) -> nn.BatchNorm2d | None:
        """The batch normalisation that ends the branch; None where none does."""
        return self._last_norm[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map N x Cin x H x W -> N x Cout x ceil(H / stride) x ceil(W / stride)."""
        out: torch.Tensor = self.branch(x)
        if self.shortcut is not None:
            out = self.shortcut(x) + self.drop_path(out)
        out = self.after(out)
        return out


def zero_init_last_norms(network: nn.Module) -> int:
    """Start every residual branch at zero, by the scale of its last batch normalisation; returns how many.

    "Accurate, Large Minibatch SGD", Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 5.1.
    """
    blocks = [module for module in network.modules() if isinstance(module, Residual)]
    norms = [block.last_norm for block in blocks if block.last_norm is not None]
    for norm in norms:
        nn.init.zeros_(norm.weight)
    return len(norms)
