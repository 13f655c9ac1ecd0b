"""The block that does nothing: a stage is one layer shallower."""

from __future__ import annotations

from torch import nn

from nasforge.core.errors import BuildError
from nasforge.models.blocks.conv import Activation


class IdentityBlock(nn.Identity):
    """Block that returns its input. It cannot change channels or size, so both must stay as they are.

    Raises:
        BuildError: `in_channels` differs from `out_channels`, or `stride` is not 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, *, activation: Activation | None = None
    ) -> None:
        if in_channels != out_channels or stride != 1:
            raise BuildError(
                f"block 'identity' cannot turn {in_channels} channels into {out_channels} at stride {stride}; "
                "offer it only in layers after a stage's first one",
                kind="unsupported",
            )
        super().__init__()
