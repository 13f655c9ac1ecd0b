"""Augmentation of whole batches where they lie: random crop, horizontal flip, cutout."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad


def crop(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Each image shifted by up to `pixels` in both directions, black where it leaves the frame. N x C x H x W."""
    count, _, height, width = images.shape
    windows = pad(images, (pixels,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    shift = torch.randint(0, 2 * pixels + 1, (2, count), generator=generator, device=images.device)
    return windows[torch.arange(count, device=images.device), :, shift[0], shift[1]]


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mirrored left to right with probability one half."""
    mirrored = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(-1), images)


def cutout(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """A square of `pixels` set to zero (on normalised images the mean), its centre anywhere in the image.

    "Improved Regularization of Convolutional Neural Networks with Cutout", DeVries & Taylor 2017,
    https://arxiv.org/abs/1708.04552
    """
    count, _, height, width = images.shape

    def outside(length: int) -> Tensor:
        centre = torch.randint(0, length, (count, 1), generator=generator, device=images.device)
        position = torch.arange(length, device=images.device)
        start = centre - pixels // 2
        return (position < start) | (position >= start + pixels)

    rows, columns = outside(height), outside(width)
    return images * (rows[:, None, :, None] | columns[:, None, None, :])


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 images -> float32 with mean 0 and standard deviation 1 per channel."""
    centre, scale = _constants(mean, std, images.device)
    return (images.float() - centre) * scale


@lru_cache(maxsize=16)  # else every batch would wait for a copy to the GPU
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    centre = torch.tensor([255 * m for m in mean], dtype=torch.float32, device=device)
    scale = torch.tensor([1 / (255 * s) for s in std], dtype=torch.float32, device=device)
    return centre.view(1, -1, 1, 1), scale.view(1, -1, 1, 1)
