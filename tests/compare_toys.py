"""A table in miniature for tests of comparisons: instant answers, final figures, a known optimum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from nasforge.core.about import About
from nasforge.core.architecture import Architecture
from nasforge.core.goals import Constraint
from nasforge.core.trial import Proposal, Result
from nasforge.settings.spec import SearchSpec
from nasforge.testing.toys import Planted


class Table(Planted):
    """Planted's formula after one epoch, without its noise: the optimum is 1.0 * (1 - 0.25)."""

    about: ClassVar[About] = About(instant=True)
    metric = "val/accuracy"
    final_metric = "test/accuracy"

    def __init__(self, spec: SearchSpec, *, seconds: float = 0.0, shift: float = 0.0) -> None:
        super().__init__(epochs=1, seconds=seconds)
        self.shift = shift

    def optimum(self, limits: Sequence[Constraint] = ()) -> float:
        return 0.75

    def worst(self, limits: Sequence[Constraint] = ()) -> None:
        return None

    def final(self, architecture: Architecture) -> float:
        return self.metrics_of(architecture.values, 0, 20)["val/accuracy"]

    def metrics_of(self, values: Mapping[str, Any], seed: int, step: int) -> dict[str, float]:
        metrics = super().metrics_of(values, 0, step)
        return {**metrics, "val/accuracy": round(metrics["val/accuracy"], 6) + self.shift}


class SomeBreak(Table):
    """Every trial of the searches with seed 1 breaks."""

    def __call__(self, proposal: Proposal, report: Any) -> Result:
        if report.experiment.name.endswith("-s1"):
            raise RuntimeError("planted")
        return super().__call__(proposal, report)
