"""Loss of a training: cross-entropy or focal loss, with weights for classes of unequal size."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nasforge.core.recipe import Recipe
from nasforge.data.split import Split
from nasforge.tasks.task import Criterion


def class_weights(split: Split) -> Tensor:
    """Return one weight for each class, inverse to its size, so that all classes weigh the same in sum; equal sizes: 1.

    scikit-learn's `class_weight="balanced"`, after "Logistic Regression in Rare Events Data", King & Zeng 2001. A class
    without images has weight 0.
    """
    sizes = torch.bincount(split.labels, minlength=split.classes)
    present = int((sizes > 0).sum())
    return torch.where(sizes > 0, len(split) / (present * sizes.clamp_min(1)), 0.0)


def criterion_of(recipe: Recipe, split: Split, device: torch.device) -> Criterion:
    """Make the loss that a recipe asks for; its weights are those of `split`'s classes."""
    weight = class_weights(split).to(device) if recipe.class_weights == "balanced" else None
    if recipe.loss == "focal":
        return partial(focal_loss, gamma=recipe.focal_gamma, weight=weight, label_smoothing=recipe.label_smoothing)
    return partial(cross_entropy, weight=weight, label_smoothing=recipe.label_smoothing)


def focal_loss(
    logits: Tensor, labels: Tensor, gamma: float, weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Return the cross-entropy in which an image counts by (1 - p)^gamma, p the probability of its right class.

    "Focal Loss for Dense Object Detection", Lin et al. 2017, https://arxiv.org/abs/1708.02002, for one label of several
    classes (torchvision's is for independent yes-or-no ones). At gamma 0 it is cross-entropy.
    """
    losses = cross_entropy(logits, labels, weight=weight, label_smoothing=label_smoothing, reduction="none")
    right = logits.log_softmax(1).gather(1, labels[:, None]).squeeze(1).exp()
    # the root of 1 - p has no finite slope at p = 1, so gamma below 1 is kept off it
    losses = (1 - right).clamp_min(1e-6) ** gamma * losses
    return losses.mean() if weight is None else losses.sum() / weight[labels].sum()
