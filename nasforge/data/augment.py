"""Augmentation of whole batches on their device; every image draws its own numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


def crop(images: Tensor, pixels: int, generator: torch.Generator, fill: Sequence[float] | None = None) -> Tensor:
    """Shift each image by up to `pixels` in both directions. uint8, N x C x H x W.

    Args:
        images: on the generator's device.
        pixels: the largest shift.
        generator: decides.
        fill: a value from 0 to 1 per channel, seen where an image leaves the frame; None: black.
    """
    count, channels, height, width = images.shape
    colour = torch.tensor(fill or (0.0,) * channels, device=images.device).mul(255).round().to(images.dtype)
    padded = colour.view(1, -1, 1, 1).repeat(count, 1, height + 2 * pixels, width + 2 * pixels)
    padded[:, :, pixels : pixels + height, pixels : pixels + width] = images
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    shift = torch.randint(0, 2 * pixels + 1, (2, count), generator=generator, device=images.device)
    return windows[torch.arange(count, device=images.device), :, shift[0], shift[1]]


def flip(images: Tensor, generator: torch.Generator, *, axis: int = -1) -> Tensor:
    """Mirror each image left to right (upside down at axis -2) with probability one half."""
    return mirror(images, torch.rand(len(images), generator=generator, device=images.device) < 0.5, axis=axis)


def mirror(images: Tensor, chosen: Tensor, *, axis: int = -1) -> Tensor:
    """Mirror the chosen images (N, bool, on their device) left to right, at axis -2 upside down."""
    return torch.where(chosen[:, None, None, None], images.flip(axis), images)


def alternating(count: int, epoch: int, seed: int) -> Tensor:
    """Return which of `count` images alternating flip mirrors in this epoch: N, bool, on the CPU.

    "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", Jordan 2024, https://arxiv.org/abs/2404.00498, section 3.6. Coins
    decide in the first epoch, and every later one mirrors those images that the one before it did not. So two epochs
    show each image both ways, while random flips show half of them twice the same way.
    """
    coins = torch.rand(count, generator=torch.Generator().manual_seed(seed)) < 0.5
    return coins if epoch % 2 == 0 else ~coins


def rotate(images: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Turn each image by up to `degrees` either way about its centre, bilinear, black outside its frame.

    uint8, N x C x H x W. (torchvision's `rotate` turns all images of a call by one angle.)
    """
    count, _, height, width = images.shape
    angles = torch.deg2rad(degrees * (2 * torch.rand(count, generator=generator, device=images.device) - 1))
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # affine_grid's axes run from -1 to 1 whatever the sides, so a rotation needs their ratio
    turns = torch.stack([cos, -sin * height / width, zero, sin * width / height, cos, zero], 1).view(count, 2, 3)
    grid = affine_grid(turns, list(images.shape), align_corners=False)
    turned = grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return turned.round().to(torch.uint8)


def color_jitter(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Multiply brightness, contrast and saturation of each image by 1 - `strength` to 1 + `strength`, in this order.

    uint8, N x C x H x W. The blends of torchvision's `ColorJitter`, which draws one factor for all images of a call;
    saturation is for three channels only.
    """
    from torchvision.transforms.v2.functional import rgb_to_grayscale  # takes a second, and few recipes want it

    count, channels = images.shape[:2]
    factors = 1 + strength * (2 * torch.rand(3, count, 1, 1, 1, generator=generator, device=images.device) - 1)
    changed = (images.float() * factors[0]).clamp(0, 255)
    gray = rgb_to_grayscale(changed) if channels == 3 else changed.mean(1, keepdim=True)
    changed = torch.lerp(gray.mean((1, 2, 3), keepdim=True), changed, factors[1]).clamp(0, 255)
    if channels == 3:
        changed = torch.lerp(rgb_to_grayscale(changed), changed, factors[2]).clamp(0, 255)
    return changed.round().to(torch.uint8)


def pca_noise(
    inputs: Tensor,
    strength: float,
    axes: tuple[tuple[float, ...], ...],
    std: tuple[float, ...],
    generator: torch.Generator,
) -> Tensor:
    """Shift the colour of each image along the principal components of the training images' colours.

    "ImageNet Classification with Deep Convolutional Neural Networks", Krizhevsky et al. 2012,
    https://papers.nips.cc/paper/4824, section 4.1: every pixel of an image gets
    [p1, p2, p3] [a1 l1, a2 l2, a3 l3]^T, with eigenvectors p and eigenvalues l of the 3 x 3 covariance of colours, and
    numbers a of mean 0 that are drawn once for the image. Colours are scaled to 0..1 here; nothing is cut off there.

    Args:
        inputs: normalised, N x 3 x H x W, on the generator's device.
        strength: standard deviation of a.
        axes: p1 l1, p2 l2, p3 l3, see `nasforge.data.split.Split.colour_axes`.
        std: the standard deviations that the inputs were divided by.
        generator: decides.
    """
    numbers = strength * torch.randn(len(inputs), 3, generator=generator, device=inputs.device)
    return inputs + (numbers @ _axes(axes, std, inputs.device))[:, :, None, None]


@lru_cache(maxsize=16)
def _axes(axes: tuple[tuple[float, ...], ...], std: tuple[float, ...], device: torch.device) -> Tensor:
    rows = torch.tensor(axes, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
    return rows.to(device, torch.float32)


def erase(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Draw noise with this probability on 2 to 33 % of the area, sides 1:3 to 3:1. Normalised, N x C x H x W.

    "Random Erasing Data Augmentation", Zhong et al. 2017, https://arxiv.org/abs/1708.04896.
    """
    count, _, height, width = images.shape

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, device=images.device)

    area, ratio = uniform(0.02, 0.33) * height * width, uniform(-math.log(3), math.log(3)).exp()
    chosen = uniform(0, 1) < probability

    def inside(length: int, edge: Tensor) -> Tensor:
        edge = edge.round().clamp(1, length)
        start = (uniform(0, 1) * (length - edge + 1)).floor()
        position = torch.arange(length, device=images.device)
        return (position >= start[:, None]) & (position < (start + edge)[:, None])

    rows, columns = inside(height, (area * ratio).sqrt()), inside(width, (area / ratio).sqrt())
    blank = (rows[:, None, :, None] & columns[:, None, None, :]) & chosen[:, None, None, None]
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return torch.where(blank, noise, images)


def cutout(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Set a square of `pixels` to zero (on normalised images the mean), its centre anywhere in the image.

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
    """Convert uint8 images to float32 with mean 0 and standard deviation 1 per channel."""
    centre, scale = _constants(mean, std, images.device)
    return (images.float() - centre) * scale


@lru_cache(maxsize=16)  # else every batch would wait for a copy to the GPU
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    centre = torch.tensor([255 * m for m in mean], dtype=torch.float32, device=device)
    scale = torch.tensor([1 / (255 * s) for s in std], dtype=torch.float32, device=device)
    return centre.view(1, -1, 1, 1), scale.view(1, -1, 1, 1)
