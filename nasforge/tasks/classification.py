"""Classification: one class for each image."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nasforge.core.recipe import Recipe
from nasforge.data.split import Split
from nasforge.tasks.losses import criterion_of
from nasforge.tasks.metrics import ALWAYS, EXTRA, extra_among, figures, unmeasured
from nasforge.tasks.task import Answers, Criterion


class Classification:
    """The default task. A task of yours may inherit from it and change the loss or add metrics.

    Attributes:
        metrics: accuracy, cross-entropy and macro-averaged F1.
        on_request: names of the further metrics; `recall_of_3` and the like, of a single class, are known as well.
    """

    metrics: tuple[str, ...] = tuple(ALWAYS)
    on_request: tuple[str, ...] = tuple(EXTRA)

    def criterion(self, recipe: Recipe, split: Split, device: torch.device) -> Criterion:
        """Return cross-entropy or focal loss, with the class weights of `split` where the recipe asks for them."""
        return criterion_of(recipe, split, device)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of the cross-entropies of a batch, without label smoothing and class weights."""
        return cross_entropy(outputs, labels, reduction="sum")

    def decode(self, outputs: Tensor) -> Tensor:
        """Return the softmax of logits N x classes."""
        return outputs.softmax(1)

    def scores(self, answers: Answers, extra: Collection[str] = ()) -> dict[str, float]:
        """Compute `metrics`, and those in `extra` that are known."""
        return figures(answers, extra)

    def requested(self, metrics: Iterable[str]) -> tuple[str, ...]:
        """Return the names in metric keys such as `val/roc_auc` that are computed on request, each once."""
        return extra_among(metrics)

    def unmeasured(self, names: Iterable[str], split: Split) -> tuple[str, ...]:
        """Return those of `names` that a split cannot measure: metrics of absent classes, AUC of a single class."""
        return unmeasured(names, split)


CLASSIFICATION = Classification()
