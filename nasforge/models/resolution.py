"""Search spaces and reference networks that follow the resolution of the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nasforge.core.architecture import MODEL, TRAIN
from nasforge.core.errors import ConfigError
from nasforge.core.space import SearchSpace

BY_RESOLUTION = "by_resolution"
"""The value that stands for a number in a space until the images are known: of the argument `strides` of a builder, and
of the recipe's default `crop_pixels`."""
SMALL = 40
"""Images whose shorter side has at most so many pixels keep their resolution through the stem and the first stage."""
_CROP = f"{TRAIN}crop_pixels"
_CROP_SHARE = 8


@dataclass(frozen=True)
class Layout:
    """Where a network reduces the resolution.

    Attributes:
        stem_stride: stride of the first convolution.
        strides: one per stage, taken by its first layer.
    """

    stem_stride: int
    strides: tuple[int, ...]


def layout_for(pixels: int) -> Layout:
    """Return the layout for images whose shorter side has so many pixels.

    Up to 40 pixels this is the ResNet for CIFAR of "Deep Residual Learning", He et al. 2015,
    https://arxiv.org/abs/1512.03385; above 80 pixels the stem reduces by 4, as its ResNets for ImageNet do.
    From 41 pixels on there are four stages. On 299 photos of 64 pixels (`benchmarks/portfolio.py`, entry `three stages`)
    three stages reached a validation accuracy that was .07 lower in the same time.
    """
    if pixels <= SMALL:
        return Layout(1, (1, 2, 2))
    if pixels <= 80:
        return Layout(2, (1, 2, 2, 2))
    return Layout(4, (1, 2, 2, 2))


def suited(space: SearchSpace, shape: tuple[int, int, int]) -> SearchSpace:
    """Return the space with numbers where it says `by_resolution`; another space is returned as it is.

    The builder's arguments `strides` and `stem_stride` become those of `layout_for`. Decisions of stages that the
    layout does not have are removed, with their defaults. A default `crop_pixels` becomes an eighth of the shorter
    side.

    Args:
        space: the space.
        shape: channels, height and width of the images.

    Raises:
        ConfigError: the layout has a stage for which the space has no decisions.
    """
    pixels = min(shape[1:])
    if space.defaults.get(_CROP) == BY_RESOLUTION:
        space = replace(space, defaults={**space.defaults, _CROP: max(1, pixels // _CROP_SHARE)})
    if space.arguments.get("strides") != BY_RESOLUTION:
        return space
    layout = layout_for(pixels)
    stages = len(layout.strides)
    for stage in range(stages):
        if not any(key.startswith(f"{MODEL}stage{stage}.") for key in space.domains):
            raise ConfigError(
                f"space '{space.name}': images of {pixels} pixels take {stages} stages, and the space has no decisions "
                f"'{MODEL}stage{stage}.*'. Add them, or set the argument strides to a list"
            )
    arguments: Mapping[str, Any] = {
        **space.arguments,
        "strides": list(layout.strides),
        "stem_stride": layout.stem_stride,
    }
    return replace(
        space,
        arguments=arguments,
        decisions=tuple(decision for decision in space.decisions if _stage(decision.key) < stages),
        defaults={key: value for key, value in space.defaults.items() if _stage(key) < stages},
    )


def _stage(key: str) -> int:
    """Return the number of the stage that a decision belongs to, -1 where it belongs to none."""
    name = key.removeprefix(MODEL).partition(".")[0]
    number = name.removeprefix("stage")
    return int(number) if key.startswith(MODEL) and name != number and number.isdecimal() else -1
