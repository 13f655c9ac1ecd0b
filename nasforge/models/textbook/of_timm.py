"""Any network of timm as a reference, as wide as timm makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import timm
from torch import nn

from nasforge.core.architecture import Architecture
from nasforge.core.errors import ConfigError, did_you_mean
from nasforge.core.space import SearchSpace
from nasforge.models.pick import Fixed
from nasforge.models.textbook import BUILDER, TIMM, Textbook
from nasforge.models.timm_backbone import build as timm_backbone


@dataclass(frozen=True)
class OfTimm(Textbook):
    """A network of timm, without pretrained weights. timm's networks have no common width multiplier: no scaling.

    One that takes images of one size alone resizes them itself.
    """

    def __call__(self, flops: float, *, shape: tuple[int, int, int], classes: int) -> tuple[str, SearchSpace]:
        """Return timm's name and a space that holds the network alone, whatever its multiply-adds."""
        return self.at(1.0, shape=shape, classes=classes)

    def at(self, width: float, *, shape: tuple[int, int, int], classes: int) -> tuple[str, SearchSpace]:
        """Return the network; the only width is 1."""
        arguments: dict[str, Any] = {"network": self.name, "width": 1.0, "pixels": min(shape[1:])}
        return self.title, SearchSpace(self.title, (), builder=BUILDER, arguments=arguments)

    def remark(self, flops: float, budget: float, network: str) -> str:
        """Return a sentence on its multiply-adds."""
        return f"{self.title} is not scaled: it has {flops / budget:.2g} times the multiply-adds of {network}"


def of_timm(name: str) -> OfTimm:
    """Return a network of timm, https://github.com/huggingface/pytorch-image-models, as a reference.

    Raises:
        ConfigError: timm has no such network.
    """
    if not timm.is_model(name):
        known = [known for known in timm.list_models() if known[:3] == name[:3]] or [
            "resnet18",
            "vgg16",
            "vit_tiny_patch16_224",
        ]
        raise ConfigError(
            f"reference '{TIMM}{name}': timm has no network '{name}'; {did_you_mean(name, known)}",
            kind="unknown",
            key="reference",
        )

    def make(width: float, *, in_channels: int, classes: int, pixels: int) -> nn.Module:
        about = timm.get_pretrained_cfg(name, allow_unregistered=False)
        fixed = about is not None and about.fixed_input_size
        pick = Fixed(Architecture({"model.backbone": name}))
        resolution = about.input_size[1] if about is not None and fixed else 0
        return timm_backbone(pick, in_channels=in_channels, classes=classes, backbones=[name], resolution=resolution)

    return OfTimm(f"{TIMM}{name}", name, make)
