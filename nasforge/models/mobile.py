"""A network of inverted residuals, after MobileNetV2 and MobileNetV3, that searches its own resolution too."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from torch.nn.functional import interpolate

from nasforge.core.architecture import Value
from nasforge.core.protocols import Pick
from nasforge.models.blocks.catalogue import ACTIVATIONS, KERNELS, SEARCHED
from nasforge.models.blocks.conv import Activation, ConvNorm
from nasforge.models.blocks.identity import IdentityBlock
from nasforge.models.blocks.inverted import InvertedBlock
from nasforge.models.staged import check_arguments, head, scaled, with_settings

RESOLUTIONS = range(4, 513)


class Resize(nn.Module):
    """Layer that scales images to `resolution` x `resolution`, bilinear."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map N x C x H x W -> N x C x resolution x resolution."""
        if x.shape[-1] == self.resolution == x.shape[-2]:
            return x
        return interpolate(x, size=(self.resolution, self.resolution), mode="bilinear")

    def extra_repr(self) -> str:
        """Return the text that a printed network shows."""
        return str(self.resolution)


def build(
    pick: Pick,
    *,
    in_channels: int,
    classes: int,
    strides: Sequence[int] = (1, 2, 2),
    stem_width: int = 16,
    stem_stride: int = 1,
    head_width: int = 128,
    width_multiplier: float = 1.0,
    dropout: float = 0.0,
    layers: int = 4,
) -> nn.Sequential:
    """Build a network for images N x C x H x W -> logits N x classes.

    "MobileNetV2", Sandler et al. 2018, https://arxiv.org/abs/1801.04381, and "Searching for MobileNetV3", Howard et al.
    2019, https://arxiv.org/abs/1905.02244.

    Reads the decisions `resolution`, `activation`, and for each stage i `stage{i}.width` and `stage{i}.layer{j}.block`
    (`inverted` or, after the first layer, `identity`) with `kernel`, `expansion` and `squeeze_excite` nested below
    `inverted`.

    Args:
        pick: answers the decisions.
        in_channels: C of the images.
        classes: number of logits.
        strides: one per stage, taken by its first layer.
        stem_width: channels after the first 3x3 convolution, before the multiplier.
        stem_stride: stride of that convolution.
        head_width: channels of the 1x1 convolution in front of the pooling; 0 leaves it out.
        width_multiplier: scales all widths.
        dropout: probability in front of the classifier.
        layers: most layers of a stage.

    Raises:
        BuildError: an argument out of range, or an option that this builder does not have.
    """
    check_arguments("mobile", strides, stem_width, stem_stride, width_multiplier, dropout, layers)
    activation: Activation = partial(pick, "activation", ACTIVATIONS)
    channels = scaled(stem_width, width_multiplier)
    network: OrderedDict[str, nn.Module] = OrderedDict()
    network["resize"] = pick("resolution", {size: partial(Resize, size) for size in RESOLUTIONS})
    network["stem"] = ConvNorm(in_channels, channels, 3, stem_stride, activation=activation)
    for i, stride in enumerate(strides):
        width = scaled(pick.width(f"stage{i}.width"), width_multiplier)
        stage: OrderedDict[str, nn.Module] = OrderedDict()
        for j in range(layers):
            key = f"stage{i}.layer{j}.block"
            shape = (channels, width, stride) if j == 0 else (width, width, 1)
            make = partial(InvertedBlock, *shape, activation=activation)
            searched: dict[str, Sequence[Value]] = {
                "kernel": KERNELS,
                "expansion": SEARCHED["expansion"],
                "squeeze_excite": (False, True),
            }
            options: dict[Value, Callable[[], nn.Module]] = {
                "inverted": partial(with_settings, pick, f"{key}.inverted", make, searched),
                "identity": partial(IdentityBlock, *shape),
            }
            stage[f"layer{j}"] = pick(key, options)
        network[f"stage{i}"] = nn.Sequential(stage)
        channels = width
    if head_width:
        wide = scaled(head_width, width_multiplier)
        network["last"] = ConvNorm(channels, wide, activation=activation)
        channels = wide
    network.update(head(channels, classes, activation, dropout))
    return nn.Sequential(network)
