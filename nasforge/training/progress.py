"""Where a training stands; the plain numbers of its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nasforge.core.recipe import Recipe
from nasforge.core.trial import Charge


@dataclass
class Progress:
    """Counts of a training.

    Attributes:
        epoch: epochs done.
        position: steps done in this one.
        loss_sum: of its images.
        images_seen: likewise.
        train_s: seconds of training steps.
        worker_s: seconds of everything.
        multiply_adds: of everything.
        best: of what early stopping looks at, higher is better.
        stale: epochs since then.
        metrics: of the last epoch.
    """

    epoch: int = 0
    position: int = 0
    loss_sum: float = 0.0
    images_seen: int = 0
    train_s: float = 0.0
    worker_s: float = 0.0
    multiply_adds: float = 0.0
    best: float = -math.inf
    stale: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def charged(self) -> Charge:
        """What the training cost."""
        return Charge(self.worker_s, self.multiply_adds)

    def uncharged(self) -> Progress:
        """The same place, with nothing charged yet: another trial paid for the way here."""
        spent = {"time/train_s", "time/worker_s", "work/multiply_adds"}
        metrics = {key: 0.0 if key in spent else value for key, value in self.metrics.items()}
        return replace(self, train_s=0.0, worker_s=0.0, multiply_adds=0.0, metrics=metrics)

    def judge(self, metrics: Mapping[str, float], recipe: Recipe) -> None:
        """Count the epochs without anything better, by the metric that the recipe's early stopping looks at."""
        found = metrics[f"val/{recipe.early_stopping_metric}"]
        found = -found if recipe.early_stopping_metric == "loss" else found
        self.stale = 0 if found > self.best else self.stale + 1
        self.best = max(found, self.best)
