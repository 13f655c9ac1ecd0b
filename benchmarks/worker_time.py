"""Share of a worker's time that goes into training steps and validation, for trials of about 1 and of 5 seconds.

    python benchmarks/worker_time.py                          # writes benchmarks/results/worker_time.json
    python benchmarks/worker_time.py --against ../older       # another checkout, in turns with this one
    python benchmarks/worker_time.py --runners local --trials 4 2 --turns 1 --out /tmp/try.json

A random search of `benchmarks/blocks_four.yaml` on digits, one thread per worker. Every checkout trains the same
networks. A worker's time runs from the end of its first trial, which imports what the others use, to the end of its
last one. It includes the time between trials: the ask, the cost check, the journal, and with Ray the way to the worker.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from machine import describe, write

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "worker_time.json"
CASES = {"trials of about 1 s": 1, "trials of about 5 s": 7}
"""Name -> epochs of a trial."""
USEFUL = ("steps", "batch_statistics", "validation")
PLACES = {
    "steps": "nasforge.training.loop:_Loop.train_epoch",
    "batch_statistics": "nasforge.training.loop:recalibrate",
    "validation": "nasforge.training.loop:score",
    "checkpoints": "nasforge.training.state:TrainingState.save",
    "building": "nasforge.evaluators.training:fresh_and_whole",
    "weights": "nasforge.evaluators.training:save_weights",
    "releasing_memory": "nasforge.evaluators.guarded:release_memory",
}
"""Name -> function whose seconds are counted."""


class Clocked:
    """Evaluator around another one, whose results also say how long each part of the work took."""

    def __init__(self, evaluator: Any) -> None:
        self.evaluator = evaluator
        self.seconds: dict[str, float] | None = None

    @property
    def about(self) -> Any:
        return self.evaluator.about

    def __call__(self, proposal: Any, report: Any) -> Any:
        from dataclasses import replace

        import torch

        torch.set_num_threads(1)
        if self.seconds is None:
            self.seconds = defaultdict(float)
            for name, place in PLACES.items():
                clock(name, place, self.seconds)
        self.seconds.clear()
        began = time.monotonic()
        result = self.evaluator(proposal, report)
        parts = {f"clock/{name}": self.seconds[name] for name in PLACES}
        moments = {"clock/began": began, "clock/ended": time.monotonic(), "clock/process": os.getpid()}
        return replace(result, metrics={**result.metrics, **parts, **moments})


def clock(name: str, place: str, seconds: dict[str, float]) -> None:
    """Replace a function by one that counts its seconds."""
    from importlib import import_module

    module, _, path = place.partition(":")
    *owners, attribute = path.split(".")
    holder: Any = import_module(module)
    for owner in owners:
        holder = getattr(holder, owner)
    function: Callable[..., Any] = getattr(holder, attribute)

    def counted(*arguments: Any, **options: Any) -> Any:
        began = time.monotonic()
        try:
            return function(*arguments, **options)
        finally:
            seconds[name] += time.monotonic() - began

    setattr(holder, attribute, counted)


def one_search(runner: str, epochs: int, trials: int, workers: int) -> dict[str, float]:
    """Search, and return seconds per trial and the shares of the workers' time."""
    import torch

    import nasforge
    from nasforge.api.assembly import make_evaluator

    torch.set_num_threads(1)
    named: Any = runner if runner == "local" else {"name": runner, "max_concurrent_trials": workers, "cpus": workers}
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "space": str(HERE / "blocks_four.yaml"),
            "data": "digits",
            "strategy": "random",
            "pruner": "none",
            "epochs": epochs,
            "recipe": {"precision": "fp32"},
            "budget": {"trials": trials + (workers if runner != "local" else 1)},
            "runner": named,
            "runs_dir": folder,
            "tracking_uri": "none",
            "name": "worker_time",
        }
        config = nasforge.resolve(settings)
        state = nasforge.search(config, made_evaluator=Clocked(make_evaluator(config)), say=lambda text: None)
        results = [trial.result for trial in state.trials.values() if trial.result is not None]
    by_worker: dict[float, list[Mapping[str, float]]] = defaultdict(list)
    for result in results:
        assert result.status == "finished", result
        by_worker[result.metrics["clock/process"]].append(result.metrics)
    seconds: dict[str, float] = defaultdict(float)
    count = 0
    for rows in by_worker.values():
        rows.sort(key=lambda row: row["clock/began"])
        seconds["all"] += rows[-1]["clock/ended"] - rows[0]["clock/ended"]
        count += len(rows) - 1
        for row in rows[1:]:
            inside = row["clock/ended"] - row["clock/began"]
            for name in PLACES:
                seconds[name] += row[f"clock/{name}"]
                inside -= row[f"clock/{name}"]
            seconds["other_work"] += inside
    seconds["between_trials"] = seconds["all"] - sum(value for name, value in seconds.items() if name != "all")
    shares = {name: value / seconds["all"] for name, value in seconds.items() if name != "all"}
    return {
        "trials": count,
        "seconds_per_trial": seconds["all"] / count,
        "useful_share": sum(shares[name] for name in USEFUL),
        **{f"share/{name}": share for name, share in shares.items()},
        "accuracies": [result.metrics["val/accuracy"] for result in results] if runner == "local" else [],
    }


def in_checkout(checkout: Path, *arguments: object) -> dict[str, Any]:
    """Run `one_search` in a process that imports nasforge from a checkout."""
    paths = os.pathsep.join([str(checkout), str(HERE)])
    command = [sys.executable, str(Path(__file__).absolute()), "--one", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert Path(answer.pop("package")).is_relative_to(checkout), f"nasforge was not imported from {checkout}"
    return answer


def medians(turns: list[dict[str, Any]]) -> dict[str, float]:
    return {key: statistics.median(turn[key] for turn in turns) for key in turns[0] if key != "accuracies"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Share of a worker's time in training steps and validation.")
    parser.add_argument("--against", type=Path, help="another checkout of NASForge, measured in turns with this one")
    parser.add_argument("--runners", nargs="+", default=["local", "ray_tune"])
    parser.add_argument("--trials", type=int, nargs=2, default=[40, 10], help="of about 1 s, of about 5 s, per turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of Ray")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=4, metavar=("RUNNER", "EPOCHS", "TRIALS", "WORKERS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        import nasforge

        runner, *numbers = options.one
        print(json.dumps({**one_search(runner, *map(int, numbers)), "package": nasforge.__file__}))
        return
    checkouts = {"now": HERE.parent.absolute()}
    if options.against is not None:
        checkouts = {"before": options.against.absolute(), **checkouts}
    report: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/worker_time.py", *sys.argv[1:]]),
        "machine": describe(),
        "workers_of_ray": options.workers,
        "results": {},
    }
    for runner in options.runners:
        for (case, epochs), trials in zip(CASES.items(), options.trials, strict=True):
            turns: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
            for turn in range(options.turns):
                for name, checkout in checkouts.items():
                    turns[name].append(in_checkout(checkout, runner, epochs, trials, options.workers))
                    row = turns[name][-1]
                    print(
                        f"{runner}, {case}, turn {turn}, {name}: {row['seconds_per_trial']:.2f} s a trial, "
                        f"{row['useful_share']:.1%} in steps and validation",
                        flush=True,
                    )
            learnt = [[turn["accuracies"] for turn in rows] for rows in turns.values()]
            assert all(rows == learnt[0] for rows in learnt), "the checkouts trained different networks"
            report["results"][f"{runner}, {case}"] = {
                name: {"median": medians(rows), "turns": rows} for name, rows in turns.items()
            }
            write(options.out, report)


if __name__ == "__main__":
    main()
