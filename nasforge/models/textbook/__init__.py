"""Networks of the textbooks as references: each scaled in width to a budget of multiply-adds.

**Small images.** The papers' networks for ImageNet reduce images of 224 pixels by 4 in their first layers, the stem,
and by 8 after it. Here the stem follows the resolution as that of the reference ResNets does
(`nasforge.models.resolution.reference_layout`):

* up to 40 pixels (shorter side) it keeps the resolution: a convolution of stride 1 and no pooling;
* up to 80 pixels it reduces by 2: a convolution of stride 2 and no pooling;
* above 80 pixels it is that of the paper.

Up to 80 pixels a stem of 11x11 or 7x7 becomes 3x3, as in the ResNets for CIFAR (He et al. 2015, section 4.2). All that
follows the stem, its three reductions by 2 included, stays. Networks that begin with small convolutions (VGG,
MobileNet) lose the first reductions in the same way: both up to 40 pixels, the second up to 80.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import nn

from nasforge import registry
from nasforge.core.errors import BuildError, ConfigError, did_you_mean
from nasforge.core.protocols import Pick, Reference
from nasforge.core.space import SearchSpace
from nasforge.models.costs import count_flops
from nasforge.models.resolution import reference_layout

TIMM = "timm:"
"""Beginning of the names of references that timm makes."""
STEP = 1000
"""Width multipliers are whole multiples of 1 / STEP."""
_WIDEST = 64 * STEP
BUILDER = f"{__name__}:build"
"""Name of the builder in network folders."""


class Make(Protocol):
    """A network with a width multiplier."""

    def __call__(self, width: float, *, in_channels: int, classes: int, pixels: int) -> nn.Module:
        """Build the network, N x C x H x W -> N x classes.

        Args:
            width: factor of all numbers of channels; 1 for the paper's.
            in_channels: C of the images.
            classes: number of logits.
            pixels: shorter side of the images; the stem follows it.
        """
        ...


@dataclass(frozen=True)
class Textbook:
    """A network of a paper as `retrain` takes references.

    Attributes:
        name: name in the registry.
        title: name in tables, with its depth: `VGG-16`.
        make: builds it.
    """

    name: str
    title: str
    make: Make

    def __call__(self, flops: float, *, shape: tuple[int, int, int], classes: int) -> tuple[str, SearchSpace]:
        """Return the network whose multiply-adds are the nearest to `flops` that are not above it.

        The width multiplier is found by bisection. Where even the narrowest network, of one channel in every layer, is
        above `flops`, it is returned all the same.

        Args:
            flops: multiply-adds for one image.
            shape: channels, height, width.
            classes: number of logits.

        Returns:
            A name such as `VGG-16 x0.137`, with the width multiplier, and a space that holds the network alone.

        Raises:
            BuildError: `flops` is not above zero, or the images are too small for the network.
        """
        if not flops > 0:
            raise BuildError(f"{self.title} needs a budget of multiply-adds above 0, got {flops!r}", kind="range")

        @cache
        def flops_at(steps: int) -> int:
            with torch.device("meta"):
                return count_flops(self._network(steps, shape, classes), shape)

        return self.at(widest(flops_at, flops) / STEP, shape=shape, classes=classes)

    def at(self, width: float, *, shape: tuple[int, int, int], classes: int) -> tuple[str, SearchSpace]:
        """Return the network with a width multiplier, 1 for that of its paper, as `__call__` does."""
        name = f"{self.title} x{width:g}"
        arguments: dict[str, Any] = {"network": self.name, "width": width, "pixels": min(shape[1:])}
        return name, SearchSpace(name, (), builder=BUILDER, arguments=arguments)

    def remark(self, flops: float, budget: float, network: str) -> str:
        """Return a sentence for tables where the network could not be scaled to the budget; else "".

        Args:
            flops: multiply-adds of this network.
            budget: multiply-adds of the network that it is held against.
            network: name of that one.
        """
        if flops <= budget:
            return ""
        return (
            f"{self.title}: even its narrowest form has {flops:,.0f} multiply-adds, {flops / budget:.1f} times the "
            f"{budget:,.0f} of {network}. The comparison favours it"
        )

    def _network(self, steps: int, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return self.make(steps / STEP, in_channels=shape[0], classes=classes, pixels=min(shape[1:]))


def widest(flops_at: Callable[[int], int], budget: float) -> int:
    """Return the largest number of steps whose multiply-adds are within the budget, by bisection; at least 1.

    Args:
        flops_at: multiply-adds by number of steps; more steps never have fewer.
        budget: largest multiply-adds.
    """
    if flops_at(1) > budget:
        return 1
    guess = min(_WIDEST, max(2, round(STEP * (budget / flops_at(STEP)) ** 0.5)))  # most layers have width^2 of them
    low, high = 1, _WIDEST + 1
    for steps in (guess, round(0.9 * guess), round(1.1 * guess)):  # narrows the interval before it is halved
        if low < steps < high:
            low, high = (steps, high) if flops_at(steps) <= budget else (low, steps)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if flops_at(middle) <= budget else (low, middle)
    return low


def stem_stride(pixels: int) -> int:
    """Return the reduction by the stem: 1, 2, or 4 where the stem is the paper's; see the rule of this module."""
    return reference_layout(pixels).stem_stride


def build(pick: Pick, *, in_channels: int, classes: int, network: str, width: float, pixels: int) -> nn.Module:
    """Build a network of this module, so that references are network folders too.

    Args:
        pick: is asked nothing.
        in_channels: C of the images.
        classes: number of logits.
        network: registered name, or `timm:NAME`.
        width: factor of all numbers of channels.
        pixels: shorter side of the images.

    Raises:
        BuildError: `network` has no width multiplier.
    """
    reference = reference_named(network)
    if not isinstance(reference, Textbook):
        raise BuildError(f"reference '{network}' has a builder of its own", kind="unsupported", key="network")
    return reference.make(width, in_channels=in_channels, classes=classes, pixels=pixels)


def reference_named(name: str) -> Reference:
    """Return a reference: registered, `timm:NAME`, or `module:function` of your own.

    Raises:
        ConfigError: no such reference, timm has no such network, or a `Textbook` has another name.
    """
    if name.startswith(TIMM):
        from nasforge.models.textbook.of_timm import of_timm  # timm takes a second

        return of_timm(name.removeprefix(TIMM))
    if ":" not in name and name not in registry.names("reference"):
        known = [*registry.names("reference"), f"{TIMM}NAME"]
        raise ConfigError(f"unknown reference '{name}'; {did_you_mean(name, known)}", kind="unknown", key="reference")
    reference: Reference = registry.get("reference", name)
    if ":" in name and isinstance(reference, Textbook) and reference.name != name:
        raise ConfigError(
            f"reference '{name}' is a Textbook with the name '{reference.name}', by which nothing finds it again. Make "
            f"its first argument '{name}'",
            kind="mismatch",
            key="reference",
        )
    return reference
