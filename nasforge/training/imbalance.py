"""Classes of unequal size: weights for the loss, or an order of images in which all classes are as frequent."""

from __future__ import annotations

import torch
from torch import Tensor

from nasforge.data.part import Part


def class_weights(part: Part) -> Tensor:
    """One number per class, inverse to its size, so that every class weighs as much in sum; 1 where all are equal.

    scikit-learn's `class_weight="balanced"`, after "Logistic Regression in Rare Events Data", King & Zeng 2001. A class
    without images gets no weight.
    """
    sizes = torch.bincount(part.labels, minlength=part.classes)
    present = int((sizes > 0).sum())
    return torch.where(sizes > 0, len(part) / (present * sizes.clamp_min(1)), 0.0)


def order_of(part: Part, images: int, sampling: str, generator: torch.Generator) -> Tensor:
    """Positions of the images of one epoch.

    Args:
        part: what is trained on.
        images: how many, at most as many as there are.
        sampling: `uniform`: every image at most once; `balanced`: drawn with replacement, every class as often.
        generator: decides.
    """
    if sampling == "uniform":
        return torch.randperm(len(part), generator=generator)[:images]
    weights, images = class_weights(part)[part.labels], min(images, len(part))
    return torch.multinomial(weights, images, replacement=True, generator=generator)
