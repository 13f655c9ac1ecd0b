"""RandAugment of whole batches: every image draws its own operations.

"RandAugment: Practical automated data augmentation with a reduced search space", Cubuk et al. 2020,
https://arxiv.org/abs/1909.13719. The operations, their ranges and their kernels are torchvision's
(`transforms.v2.RandAugment`), which draws one operation for all images of a call. As the magnitude is one number,
images differ in operation and sign only: those that share both are changed by one call.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as ops

MAGNITUDES = 31
"""Steps of the scale from no change to the strongest."""

_SIGNED = (
    *("shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "color", "contrast", "sharpness"),
)
_UNSIGNED = ("identity", "posterize", "solarize", "autocontrast", "equalize")
OPERATIONS = (*_SIGNED, *_UNSIGNED)


def operation(name: str, magnitude: int, sign: int, height: int, width: int) -> Callable[[Tensor], Tensor]:
    """Return one operation on uint8 images ... x C x H x W.

    Args:
        name: one of `OPERATIONS`.
        magnitude: 0 to 30.
        sign: 1 or -1, of those that have a direction.
        height: of the images.
        width: likewise.
    """
    level = magnitude / (MAGNITUDES - 1)
    affine = partial(ops.affine, angle=0.0, scale=1.0)
    slant = math.degrees(math.atan(sign * 0.3 * level))
    shift = 150 / 331 * level * sign
    operations: dict[str, Callable[[Tensor], Tensor]] = {
        "shear_x": partial(affine, translate=[0, 0], shear=[slant, 0.0], center=[0, 0]),
        "shear_y": partial(affine, translate=[0, 0], shear=[0.0, slant], center=[0, 0]),
        "translate_x": partial(affine, translate=[int(shift * width), 0], shear=[0.0, 0.0]),
        "translate_y": partial(affine, translate=[0, int(shift * height)], shear=[0.0, 0.0]),
        "rotate": partial(ops.rotate, angle=sign * 30 * level),
        "brightness": partial(ops.adjust_brightness, brightness_factor=1 + sign * 0.9 * level),
        "color": partial(ops.adjust_saturation, saturation_factor=1 + sign * 0.9 * level),
        "contrast": partial(ops.adjust_contrast, contrast_factor=1 + sign * 0.9 * level),
        "sharpness": partial(ops.adjust_sharpness, sharpness_factor=1 + sign * 0.9 * level),
        "posterize": partial(ops.posterize, bits=8 - round(4 * level)),
        "solarize": partial(ops.solarize, threshold=255 * (1 - level)),
        "autocontrast": ops.autocontrast,
        "equalize": ops.equalize,
        "identity": lambda images: images,
    }
    return operations[name]


def randaugment(images: Tensor, operations: int, magnitude: int, generator: torch.Generator) -> Tensor:
    """Change each image by `operations` drawn operations, in turn. uint8, N x C x H x W, C = 1 or 3.

    The images of one operation are put next to each other, so that a GPU is asked for nothing.

    Args:
        images: on any device.
        operations: number of operations.
        magnitude: 0 to 30.
        generator: draws, on the CPU.
    """
    height, width = images.shape[2:]
    for _ in range(operations):
        drawn = torch.randint(2 * len(OPERATIONS), (len(images),), generator=generator, device=generator.device)
        numbers, places = drawn.cpu().sort(stable=True)
        if images.is_cuda:  # a copy from pageable memory would wait
            places = places.pin_memory().to(images.device, non_blocking=True)
        kinds, counts = torch.unique_consecutive(numbers, return_counts=True)
        changed = []
        for number, group in zip(kinds.tolist(), torch.split(images[places], counts.tolist()), strict=True):
            name, sign = OPERATIONS[number // 2], 1 - 2 * (number % 2)
            changed.append(operation(name, magnitude, sign, height, width)(group))
        images = torch.empty_like(images).index_copy_(0, places, torch.cat(changed))
    return images
