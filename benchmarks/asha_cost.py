"""CPU milliseconds of a trial, early and late in a long search: 10,000 trials, two objectives, a pruner.

    python benchmarks/asha_cost.py           writes benchmarks/results/asha_cost.json

The simulated runner plays eight workers on an evaluator that knows the answers at once, so all the time is ours:
asking, journal, state, pruner, telling. Time is that of the process, in windows of 1,000 closed trials.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import describe, write

from nasforge.core.events import Told
from nasforge.core.protocols import Report
from nasforge.core.trial import Charge, Measure, Proposal, Result
from nasforge.runners import simulated
from nasforge.testing.toys import Planted, toy_config, toy_experiment

HERE = Path(__file__).parent
WINDOW = 1000


class Instant(Planted):
    """Planted's formula, looked up: nothing sleeps, and epochs of unequal length let trials overtake each other."""

    instant = True

    def __call__(self, proposal: Proposal, report: Report) -> Result:
        """All epochs, or as many as the pruner allows."""
        assert isinstance(proposal, Measure)
        values = proposal.architecture.values
        for step in range(1, self.epochs + 1):
            metrics = {
                **self.metrics_of(values, report.seed, step),
                "time/worker_s": step * (0.5 + float(values["model.depth"])),
            }
            if not report(step, metrics):
                break
        return Result("finished", metrics, steps_done=self.epochs, charged=Charge(metrics["time/worker_s"]))


def measured(strategy: str, pruner: str, trials: int) -> tuple[list[float], list[float]]:
    """CPU milliseconds per trial in each window, and events per trial (a pruned trial has fewer than a finished)."""
    moments, events = [time.process_time()], [0]

    class Clock:
        seen = 0

        def on_event(self, event: Any) -> None:
            Clock.seen += 1
            if isinstance(event, Told):
                moments.append(time.process_time())
                events.append(Clock.seen)

    with tempfile.TemporaryDirectory() as folder:
        config = toy_config(
            Path(folder),
            strategy=strategy,
            pruner=pruner,
            objectives=["val/accuracy", "cost/flops"],
            budget={"trials": trials},
            ladder=[{"epochs": 1}, {"epochs": 3}, {"epochs": 9}],
        )
        with toy_experiment(config, trackers=[Clock()], sync=False) as experiment:
            simulated.run(experiment, Instant(epochs=9), max_concurrent_trials=8)
            counts = experiment.state.counts()
    print(strategy, pruner, counts, flush=True)
    return [1000 * amount for amount in per_trial(moments)], per_trial(events)


def per_trial(total: Sequence[float]) -> list[float]:
    """What a running total grows by per trial, in each window."""
    ends = total[::WINDOW]
    return [(after - before) / WINDOW for before, after in itertools.pairwise(ends)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--strategies", nargs="*", default=["random", "evolution", "nsga2"])
    parser.add_argument("--pruners", nargs="*", default=["asha", "median"])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    seconds_of: dict[str, Any] = {}
    for strategy in options.strategies:
        for pruner in options.pruners:
            runs = [measured(strategy, pruner, options.trials) for _ in range(options.runs)]
            cpu = [statistics.median(column) for column in zip(*(run[0] for run in runs), strict=True)]
            seconds_of[f"{strategy}, {pruner}"] = {
                "cpu_ms_per_trial": [round(value, 3) for value in cpu],
                "events_per_trial": [round(value, 2) for value in runs[0][1]],
                "cpu_ms_per_trial_first_thousand": [round(run[0][0], 3) for run in runs],
                "cpu_ms_per_trial_last_thousand": [round(run[0][-1], 3) for run in runs],
            }
            print(seconds_of[f"{strategy}, {pruner}"], flush=True)
    content = {
        "machine": describe(),
        "trials": options.trials,
        "window": WINDOW,
        "n": options.runs,
        "found": seconds_of,
    }
    write(HERE / "results" / "asha_cost.json", content)


if __name__ == "__main__":
    main()
