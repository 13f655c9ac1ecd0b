"""The interface of a task, and the predictions that its metrics are computed from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from nasforge.core.recipe import Recipe
from nasforge.data.part import Part

Criterion: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Outputs N x classes and labels N -> mean loss."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Predictions of a network on a split.

    Attributes:
        truth: N class numbers.
        probabilities: N x classes.
        loss: mean validation loss of an image.
    """

    truth: np.ndarray
    probabilities: np.ndarray
    loss: float

    @property
    def chosen(self) -> np.ndarray:
        """N class numbers, the likeliest ones."""
        chosen: np.ndarray = self.probabilities.argmax(1)
        return chosen


class Task(Protocol):
    """Task of networks. The training loop, supernets and evaluators know it only by these members.

    Attributes:
        metrics: names of the metrics that are always computed: `accuracy`.
        on_request: names of those that are computed when an objective or `extra_metrics` names them.
    """

    metrics: tuple[str, ...]
    on_request: tuple[str, ...]

    def criterion(self, recipe: Recipe, part: Part, device: torch.device) -> Criterion:
        """Return the training loss that a recipe asks for on a split."""
        ...

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of the validation losses of a batch, without what a recipe changes."""
        ...

    def decode(self, outputs: Tensor) -> Tensor:
        """Turn outputs N x classes into probabilities."""
        ...

    def scores(self, answers: Answers, extra: Collection[str] = ()) -> dict[str, float]:
        """Compute `metrics`, and those in `extra` that the task knows."""
        ...

    def requested(self, metrics: Iterable[str]) -> tuple[str, ...]:
        """Return the names in metric keys such as `val/roc_auc` that are computed on request, each once."""
        ...

    def unmeasured(self, names: Iterable[str], part: Part) -> tuple[str, ...]:
        """Return those of `names` that are the same for every network on a split."""
        ...
