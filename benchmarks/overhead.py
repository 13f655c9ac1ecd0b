"""Seconds that a trial costs beside its training: no-op evaluator, 2 workers, 200 and 2,000 trials.

    python benchmarks/overhead.py            writes benchmarks/results/overhead.json

Compares our Ray runner (journal with three fsyncs a trial) with plain Ray Tune + OptunaSearch (its defaults, and with
`reuse_actors`), and with our local runner. Ratios within one run are meaningful, seconds are this machine's.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe, write

from nasforge.core.protocols import Report
from nasforge.core.trial import Charge, Measure, Proposal, Result
from nasforge.runners import local
from nasforge.testing.toys import toy_config, toy_experiment

HERE = Path(__file__).parent


class NoOp:
    """Knows the answer at once."""

    def __call__(self, proposal: Proposal, report: Report) -> Result:
        assert isinstance(proposal, Measure)
        return Result(
            "finished", {"val/accuracy": proposal.architecture.values["model.depth"] / 8}, charged=Charge(0.0)
        )


def ours(runner: str, trials: int) -> dict[str, float]:
    """Seconds per trial; on Ray also without the start of Ray and its workers (from the first ask to the last tell)."""
    with tempfile.TemporaryDirectory() as folder:
        config = toy_config(Path(folder), budget={"trials": trials}, strategy="evolution")
        moments = []

        class Clock:
            def on_event(self, event: Any) -> None:
                if event.kind in ("asked", "told"):
                    moments.append(time.perf_counter())

        began = time.perf_counter()
        with toy_experiment(config, trackers=[Clock()]) as experiment:
            if runner == "local":
                local.run(experiment, NoOp())
            else:
                from nasforge.runners.ray_tune import run

                run(experiment, NoOp(), cpus=2)
            finished = experiment.state.counts()["finished"]
        assert finished == trials, finished
        whole = time.perf_counter() - began
        return {"with_start_s": whole / trials, "steady_s": (moments[-1] - moments[0]) / trials}


def plain_tune(trials: int, reuse: bool) -> dict[str, float]:
    """Ray Tune with its own OptunaSearch; a class trainable, so that `reuse_actors` can be used."""
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    class Trainable(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.depth = config["depth"]

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.depth = new_config["depth"]
            return True

        def step(self) -> dict[str, Any]:
            return {"accuracy": self.depth / 8, "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            pass

        def load_checkpoint(self, checkpoint: Any) -> None:
            pass

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    space = {"block": tune.choice(["identity", "conv"]), "depth": tune.randint(1, 9), "width": tune.choice([8, 16, 32])}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        tune.Tuner(
            tune.with_resources(Trainable, {"cpu": 1}),
            param_space=space,
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(metric="accuracy", mode="max"),
                num_samples=trials,
                max_concurrent_trials=2,
                reuse_actors=reuse,
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
        seconds = time.perf_counter() - began
    ray.shutdown()
    return {"with_start_s": seconds / trials}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="*", default=[200, 2000])
    parser.add_argument("--plain", type=int, default=60, help="trials of plain Ray Tune, which is slow")
    options = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    results: dict[str, Any] = {"local": {}, "ray_tune": {}}
    # Plain Tune first: our runner's settings of Tune stay in the process.
    results["plain_tune_defaults"] = {str(options.plain): plain_tune(options.plain, reuse=False)}
    print("plain", results["plain_tune_defaults"], flush=True)
    results["plain_tune_reuse_actors"] = {str(options.plain): plain_tune(options.plain, reuse=True)}
    print("plain, reuse", results["plain_tune_reuse_actors"], flush=True)
    for trials in options.trials:
        for runner in ("local", "ray_tune"):
            results[runner][str(trials)] = ours(runner, trials)
            print(runner, trials, results[runner][str(trials)], flush=True)
    plain = results["plain_tune_defaults"][str(options.plain)]["with_start_s"]
    largest = results["ray_tune"][str(max(options.trials))]
    results["plain_over_ours"] = {name: plain / seconds for name, seconds in largest.items()}
    write(
        HERE / "results" / "overhead.json", {"machine": describe(), "workers": 2, "n": 1, "seconds_per_trial": results}
    )


if __name__ == "__main__":
    main()
