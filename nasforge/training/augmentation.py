"""The augmentation that a recipe asks for, in its order, and what of it needs another kind of image."""

from __future__ import annotations

import torch
from torch import Tensor

from nasforge.core.errors import Problem, RecipeError
from nasforge.core.recipe import Recipe
from nasforge.data.augment import color_jitter, crop, cutout, erase, flip, mirror, normalise, pca_noise, rotate
from nasforge.data.split import Split


def check_images(recipe: Recipe, split: Split) -> None:
    """Check that the images can be augmented so.

    Raises:
        RecipeError: with all settings that do not fit.
    """
    edge, channels = min(split.shape[1:]), split.shape[0]
    problems = [
        Problem(
            f"is {getattr(recipe, name)}, but the images have only {edge} pixels; lower it",
            key=f"train.{name}",
            kind="range",
        )
        for name in ("crop_pixels", "cutout_pixels")
        if getattr(recipe, name) > edge
    ]
    if recipe.randaugment and channels not in (1, 3):
        message = f"needs images of one or three channels, these have {channels}; leave it out"
        problems.append(Problem(message, key="train.randaugment", kind="unsupported"))
    if recipe.pca_noise and channels != 3:
        message = f"needs colour images of three channels, these have {channels}; leave it out"
        problems.append(Problem(message, key="train.pca_noise", kind="unsupported"))
    if problems:
        raise RecipeError(problems)


def augmented(
    images: Tensor,
    split: Split,
    recipe: Recipe,
    generator: torch.Generator,
    host: torch.Generator | None = None,
    mirrored: Tensor | None = None,
) -> Tensor:
    """Move, colour, normalise and blank images (uint8, N x C x H x W), each by its own random numbers.

    Args:
        images: on the generator's device.
        split: says how to normalise, and has the colours' principal components.
        recipe: what to do.
        generator: decides; what the recipe leaves out draws nothing.
        host: decides on the CPU what Python has to know, for which it would have to wait for a GPU; None: `generator`.
        mirrored: which images to mirror left to right where the recipe does (N, bool); None: half of them, drawn.
    """
    if recipe.crop_pixels:
        images = crop(images, recipe.crop_pixels, generator, split.mean if recipe.crop_fill == "mean" else None)
    if recipe.flip:
        images = flip(images, generator) if mirrored is None else mirror(images, mirrored)
    if recipe.vertical_flip:
        images = flip(images, generator, axis=-2)
    if recipe.rotation_degrees:
        images = rotate(images, recipe.rotation_degrees, generator)
    if recipe.color_jitter:
        images = color_jitter(images, recipe.color_jitter, generator)
    if recipe.randaugment:
        from nasforge.data.randaugment import randaugment  # torchvision's transforms take a second

        images = randaugment(images, recipe.randaugment, recipe.randaugment_magnitude, host or generator)
    inputs = normalise(images, split.mean, split.std)
    if recipe.pca_noise:
        inputs = pca_noise(inputs, recipe.pca_noise, split.colour_axes, split.std, generator)
    if recipe.cutout_pixels:
        inputs = cutout(inputs, recipe.cutout_pixels, generator)
    if recipe.random_erasing:
        inputs = erase(inputs, recipe.random_erasing, generator)
    return inputs
