"""Stochastic depth: a place in a residual block where training may leave the branch out."""

from __future__ import annotations

import torch
from torch import nn


class DropPath(nn.Module):
    """Layer that drops a branch for some images, in training mode only, and scales the rest to keep the mean.

    "Deep Networks with Stochastic Depth", Huang et al. 2016, https://arxiv.org/abs/1603.09382. What torchvision's
    `StochasticDepth(p, "row")` does, whose import takes longer than to build a hundred networks.

    Attributes:
        p: probability of leaving the branch out; at 0 the input is passed on as it is, and nothing is drawn.
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map N x C x H x W -> N x C x H x W."""
        if not self.training or self.p == 0:
            return x
        keep = 1 - self.p
        kept = x.new_empty((len(x), *(1,) * (x.dim() - 1))).bernoulli_(keep)
        return x * (kept / keep)

    def extra_repr(self) -> str:
        """Return the text that a printed network shows."""
        return f"p={self.p:g}"
