"""Squeeze-and-excitation: channels weighted by a look at the whole picture."""

from __future__ import annotations

import torch
from torch import nn

from nasforge.models.blocks.conv import reduced


class SqueezeExcite(nn.Module):
    """ "Squeeze-and-Excitation Networks", Hu et al. 2018, https://arxiv.org/abs/1709.01507.

    Global average pooling, a bottleneck of two 1x1 convolutions, a sigmoid; the input is scaled channel by channel.
    The convolutions carry a bias, as in the paper: no normalisation follows them.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = reduced(channels, reduction)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)
        for layer in (self.squeeze, self.excite):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map N x C x H x W -> the same shape."""
        summary = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.excite(torch.relu(self.squeeze(summary))))


def squeeze_excite_or_not(channels: int, enabled: bool) -> list[nn.Module]:
    """Return the layers to append for a block's option `squeeze_excite`: one or none."""
    return [SqueezeExcite(channels)] if enabled else []
