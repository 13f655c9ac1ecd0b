"""Small evaluators, spaces and strategies for tests: no training, known answers, everything picklable."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from nasforge.api.assembly import make_pruner, make_strategy
from nasforge.core.about import About
from nasforge.core.events import SCHEMA, Header
from nasforge.core.protocols import Report
from nasforge.core.space import Choice, Decision, Float, Int, SearchSpace
from nasforge.core.trial import Charge, Measure, Proposal, Result
from nasforge.experiment.experiment import Experiment
from nasforge.settings.experiment import ExperimentConfig, resolve


def nested_space() -> SearchSpace:
    """Return a space of choices, a conditional number, a whole number and a logarithmic one."""
    kernel = Decision("model.block.conv.kernel", Choice((1, 3, 5)))
    return SearchSpace(
        "nested",
        (
            Decision("model.block", Choice(("identity", "conv"), ((), (kernel,)))),
            Decision("model.depth", Int(1, 8)),
            Decision("model.width", Choice((8, 16, 32, 64))),
            Decision("train.learning_rate", Float(1e-4, 1.0, log=True)),
        ),
    )


@dataclass
class Planted:
    """Evaluator of `nested_space` by a formula; the optimum (1.0) is conv, kernel 5, depth 8, width 64.

    Attributes:
        epochs: reports per trial.
        seconds: slept per epoch.
        diary: where each call leaves a line `number attempt`, to count what ran; None for nowhere.
        crash: numbers whose first attempt kills the process.
        fail: numbers that raise.
    """

    about: ClassVar[About] = About()
    epochs: int = 3
    seconds: float = 0.0
    diary: Path | None = None
    crash: tuple[int, ...] = ()
    fail: tuple[int, ...] = ()

    def __call__(self, proposal: Proposal, report: Report) -> Result:
        """Return a finished result with `val/accuracy`."""
        assert isinstance(proposal, Measure)  # noqa: S101
        if self.diary:
            with self.diary.open("a") as file:
                file.write(f"{report.number} {report.attempt}\n")
        if report.number in self.crash and report.attempt == 1:
            os.kill(os.getpid(), 9)
        if report.number in self.fail:
            raise RuntimeError(f"planted failure of trial {report.number}")
        metrics: dict[str, float] = {}
        for step in range(1, self.epochs + 1):
            time.sleep(self.seconds)
            metrics = self.metrics_of(proposal.architecture.values, report.seed, step)
            if not report(step, metrics):
                break
        charged = Charge(metrics["time/worker_s"], metrics["work/multiply_adds"])
        return Result("finished", metrics, steps_done=self.epochs, charged=charged)

    def metrics_of(self, values: Mapping[str, Any], seed: int, step: int) -> dict[str, float]:
        """Return the metrics that a trial with these decisions reports after `step`."""
        score = 0.1 * (values["model.block"] == "conv") + 0.1 * (values.get("model.block.conv.kernel", 0) / 5)
        score += 0.4 * values["model.depth"] / 8 + 0.4 * values["model.width"] / 64
        noise = Random(seed).uniform(-0.005, 0.005)
        return {
            "val/accuracy": score * (1 - 0.5 ** (step + 1)) + noise,
            "cost/flops": float(values["model.depth"] * values["model.width"] ** 2),
            "time/worker_s": 0.01 * step,
            "work/multiply_adds": 100.0 * step,
        }


def toy_config(runs_dir: Path, **settings: Any) -> ExperimentConfig:
    """Configure a search over `nested_space` with no data and no tracking; settings as in `nasforge.resolve`."""
    defaults: dict[str, Any] = {
        "space": nested_space(),
        "strategy": "random",
        "objectives": ["val/accuracy"],
        "budget": {"trials": 12},
        "ladder": [{"epochs": 1}, {"epochs": 3}],
        "pruner": "none",
        "runner": "local",
        "name": "toy",
        "runs_dir": runs_dir,
        "tracking_uri": "none",
    }
    return resolve({**defaults, **settings})


def toy_experiment(config: ExperimentConfig, **options: Any) -> Experiment:
    """Make the experiment of a `toy_config`; `options` go to Experiment, `check` accepts everything at no cost."""
    header = Header(SCHEMA, config.name, config.to_json(), config.space.fingerprint, config.seed, {}, "")
    defaults = {"check": lambda proposal: {}, "pruner": make_pruner(config)}
    return Experiment(config.folder, header, make_strategy(config), **{**defaults, **options})
