"""Any network of timm by name, as a decision beside the recipe's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import timm
from torch import nn

from nasforge.core.errors import BuildError, did_you_mean
from nasforge.core.protocols import Pick


def build(
    pick: Pick, *, in_channels: int, classes: int, backbones: Sequence[str], pretrained: bool = False
) -> nn.Module:
    """The timm network that decision `backbone` names, with a classifier of `classes` logits.

    timm: https://github.com/huggingface/pytorch-image-models

    Args:
        pick: answers the decision `backbone`.
        in_channels: C of the images; timm adapts the first convolution.
        classes: number of logits.
        backbones: timm names that may be decided.
        pretrained: start from timm's weights, downloaded on first use.

    Raises:
        BuildError: a name that timm does not know, or weights that cannot be had.
    """
    if isinstance(backbones, str) or not backbones:
        raise BuildError(f"builder 'timm_backbone': backbones must be a list of timm names, got {backbones!r}")
    for name in backbones:
        if not timm.is_model(name):
            raise BuildError(f"builder 'timm_backbone': timm has no network '{name}'; {_nearest(str(name))}")
    make = partial(_create, in_channels=in_channels, classes=classes, pretrained=pretrained)
    network: nn.Module = pick("backbone", {name: partial(make, name) for name in backbones})
    return network


def _create(name: str, in_channels: int, classes: int, pretrained: bool) -> nn.Module:
    try:
        network: nn.Module = timm.create_model(name, pretrained=pretrained, in_chans=in_channels, num_classes=classes)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        advice = "set pretrained: false, or make the weights reachable" if pretrained else "choose another backbone"
        raise BuildError(f"builder 'timm_backbone': cannot make '{name}': {reason}; {advice}") from error
    return network


def _nearest(name: str) -> str:
    """timm knows a thousand names: show those of the family, not all."""
    family = [known for known in timm.list_models() if known[:4] == name[:4]]
    return did_you_mean(name, family) if family else "list them with timm.list_models()"
