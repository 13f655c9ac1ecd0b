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
"""Longest shorter side, in pixels, of images that take three stages."""
_TINY, _MEDIUM = 24, 80
"""The stem keeps the resolution of images up to the first size; above the second it reduces it by 4."""
_CROP = f"{TRAIN}crop_pixels"
_CROP_SHARE = 8


@dataclass(frozen=True)
class Layout:
    """Places where a network reduces the resolution.

    Attributes:
        stem_stride: stride of the first convolution.
        strides: one per stage, taken by its first layer.
    """

    stem_stride: int
    strides: tuple[int, ...]


def layout_for(pixels: int) -> Layout:
    """Return the layout of a space that follows the resolution, for images whose shorter side has this many pixels.

    The numbers are accuracies in equal time (`benchmarks/portfolio.py`). On 2,000 images of CIFAR-10, of 32 pixels, a
    stem of stride 2 (entry `three stages`) reached .41 where one of stride 1 reached .32, and .47 to .45 in four times
    as much. On 299 photos of 64 pixels four stages (`plain`) reached .84, three stages .77 (two folds, 120 answers).
    """
    if pixels <= _TINY:
        return Layout(1, (1, 2, 2))
    if pixels <= SMALL:
        return Layout(2, (1, 2, 2))
    if pixels <= _MEDIUM:
        return Layout(2, (1, 2, 2, 2))
    return Layout(4, (1, 2, 2, 2))


def reference_layout(pixels: int) -> Layout:
    """Return the layout of the reference ResNets: up to 40 pixels that of the ResNets for CIFAR, above `layout_for`.

    "Deep Residual Learning", He et al. 2015, https://arxiv.org/abs/1512.03385, section 4.2.
    """
    return Layout(1, (1, 2, 2)) if pixels <= SMALL else layout_for(pixels)


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
                f"'{MODEL}stage{stage}.*'. Add them, or set the argument strides to a list",
                kind="missing",
                key=f"{MODEL}stage{stage}",
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
