"""A table in miniature for tests of comparisons: instant answers, final figures, a known optimum."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import process
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from nasforge.core.about import About
from nasforge.core.architecture import Architecture
from nasforge.core.errors import StopNow
from nasforge.core.goals import Constraint
from nasforge.core.trial import Proposal, Result
from nasforge.settings.spec import SearchSpec
from nasforge.testing.toys import Planted


class Table(Planted):
    """Planted's formula after one epoch, without its noise: the optimum is 1.0 * (1 - 0.25).

    Attributes:
        gate: file that searches with the seeds 4 and 5 wait for; empty for none.
    """

    about: ClassVar[About] = About(instant=True)
    metric = "val/accuracy"
    final_metric = "test/accuracy"

    def __init__(self, spec: SearchSpec, *, shift: float = 0.0, gate: str = "") -> None:
        super().__init__(epochs=1)
        self.shift, self.gate = shift, gate

    def __call__(self, proposal: Proposal, report: Any) -> Result:
        while self.gate and report.experiment.name.endswith(("-s4", "-s5")) and not Path(self.gate).exists():
            time.sleep(0.01)
        return super().__call__(proposal, report)

    def optimum(self, limits: Sequence[Constraint] = ()) -> float:
        return 0.75

    def worst(self, limits: Sequence[Constraint] = ()) -> None:
        return None

    def final(self, architecture: Architecture) -> float:
        return self.metrics_of(architecture.values, 0, 20)["val/accuracy"]

    def metrics_of(self, values: Mapping[str, Any], seed: int, step: int) -> dict[str, float]:
        metrics = super().metrics_of(values, 0, step)
        return {**metrics, "val/accuracy": round(metrics["val/accuracy"], 6) + self.shift}


class SlowToAnswer(Table):
    """Until a file is there, the first search's worker keeps the lock of the outcomes, and the second one searches."""

    def __call__(self, proposal: Proposal, report: Any) -> Result:
        if report.number == 0 and report.attempt == 1:
            if report.experiment.name.endswith("-s0"):
                process._sendback_result = partial(_sent_slowly, process._sendback_result)
            while report.experiment.name.endswith("-s1") and not Path("go_on").exists():
                try:
                    time.sleep(0.01)
                except StopNow:
                    time.sleep(1.5)  # when a worker has died, the driver stops the others once more
                    raise
        return super().__call__(proposal, report)


def _sent_slowly(send: Any, results: Any, *arguments: Any, **more: Any) -> None:
    with results._wlock:
        Path("locked").touch()
        while not Path("go_on").exists():
            time.sleep(0.01)
    send(results, *arguments, **more)


class SomeBreak(Table):
    """Every trial of the searches with seed 1 breaks."""

    def __call__(self, proposal: Proposal, report: Any) -> Result:
        if report.experiment.name.endswith("-s1"):
            raise RuntimeError("planted")
        return super().__call__(proposal, report)
