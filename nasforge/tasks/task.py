"""The interface of a task, and the predictions that its metrics are computed from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from nasforge import registry
from nasforge.core.errors import ConfigError
from nasforge.core.recipe import Recipe
from nasforge.data.split import Split

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


@runtime_checkable
class Task(Protocol):
    """Task of networks. The training loop, supernets and evaluators know it only by these members.

    Attributes:
        metrics: names of the metrics that are always computed: `accuracy`.
        on_request: names of those that are computed when an objective or `extra_metrics` names them.
    """

    metrics: tuple[str, ...]
    on_request: tuple[str, ...]

    def criterion(self, recipe: Recipe, split: Split, device: torch.device) -> Criterion:
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

    def unmeasured(self, names: Iterable[str], split: Split) -> tuple[str, ...]:
        """Return those of `names` that are the same for every network on a split."""
        ...


def task_of(name: str) -> Task:
    """Return the task of a registered name or of `module:attribute`.

    Raises:
        ConfigError: there is none, or it lacks a member of `Task`.
    """
    task = registry.get("task", name)
    if isinstance(task, type) or not isinstance(task, Task):
        kind = f"the class {task.__name__}" if isinstance(task, type) else f"a {type(task).__name__}"
        raise ConfigError(
            f"task '{name}' is {kind}, expected an object with the members of nasforge.tasks.task.Task. Inherit from "
            "nasforge.tasks.classification.Classification and name an instance of the class",
            kind="type",
            key="task",
        )
    return task
