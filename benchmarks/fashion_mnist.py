"""The flagship space on Fashion-MNIST under a CPU's means: strategies against each other, the winner against a ResNet.

    NASFORGE_DATA=../shared/data python benchmarks/fashion_mnist.py        writes benchmarks/results/fashion_mnist.json

`blocks`, at most 100k params and 10M FLOPs, 24 trials of 3 epochs with ASHA on 6,000 training and 2,000 validation
images; evolution, NSGA-II (accuracy and FLOPs), local search and random, 3 seeds each. The best network of all is
retrained, 15 epochs on all 60,000 images, 2 seeds, beside the ResNet of the same FLOPs by the same recipe; the test
part is opened for these four networks only. Stop it at any time: the same command continues, and what the result file
has is not searched again, even where the folder of its runs is gone. The searches take about an hour of two quiet
cores, the retraining as long again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

from machine import describe, write

import nasforge
from nasforge.core.space import SearchSpace
from nasforge.experiment.state import State
from nasforge.settings.experiment import load_space

RESULT = Path(__file__).parent / "results" / "fashion_mnist.json"
STRATEGIES = ("evolution", "nsga2", "local_search", "random")


def searched(name: str, space: str | SearchSpace, data: Path, options: argparse.Namespace, **settings: Any) -> State:
    return nasforge.search(
        space=space,
        data={"source": str(data), "images": 8000, "validation": 0.25},
        constraints=["params<=100k", "flops<=10M"],
        epochs=3,
        name=name,
        runs_dir=options.runs_dir,
        tracking_uri="none",
        runner={"name": "ray_tune", "max_concurrent_trials": 2},
        evaluator={"name": "training", "threads": 1},
        **settings,
    )


def report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    table = {}
    for strategy in STRATEGIES:
        accuracies = [row["val_accuracy"] for row in rows if row["strategy"] == strategy]
        if accuracies:
            spread = statistics.stdev(accuracies) if len(accuracies) > 1 else None
            table[strategy] = {
                "mean": statistics.mean(accuracies),
                "std": spread,
                "n": len(accuracies),
                "max": max(accuracies),
            }
    return {"machine": describe(), "protocol": __doc__, "searches": rows, "val_accuracy": table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=15, help="of the retraining")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--no-retrain", action="store_true")
    options = parser.parse_args()
    data = Path(os.environ["NASFORGE_DATA"]).resolve() / "fashion_mnist.npz"
    rows: list[dict[str, Any]] = json.loads(RESULT.read_text())["searches"] if RESULT.exists() else []
    done = {(row["strategy"], row["seed"]) for row in rows}  # in earlier sittings
    for seed in range(options.seeds):
        for strategy in STRATEGIES:
            if (strategy, seed) in done:
                continue
            state = searched(
                f"fashion-{strategy}-s{seed}",
                "blocks",
                data,
                options,
                strategy=strategy,
                objectives=["val/accuracy", "cost/flops"] if strategy == "nsga2" else ["val/accuracy"],
                budget={"trials": options.trials},
                pruner="asha",
                seed=seed,
            )
            best = state.best
            assert best is not None and best.architecture is not None
            accuracy = best.metrics["val/accuracy"]
            counts = state.counts()
            seconds = state.charged.worker_seconds
            row = {"strategy": strategy, "seed": seed, "val_accuracy": accuracy, "trials": counts, "worker_s": seconds}
            costs = {"params": best.costs["cost/params"], "flops": best.costs["cost/flops"]}
            rows.append({**row, **costs, "processor": describe()["cpu"], "point": dict(best.architecture.values)})
            print(rows[-1], flush=True)
            write(RESULT, report(rows))  # a sitting may end here; the next one goes on
    if options.no_retrain:
        return
    content = report(rows)
    winner = max(rows, key=lambda row: row["val_accuracy"])
    # a search of its one point: the folder of the search that found it may be gone
    space = load_space("blocks").fixed(winner["point"])
    searched("fashion-winner", space, data, options, strategy="random", budget={"trials": 1}, pruner="none")
    finalists = nasforge.retrain(
        options.runs_dir / "fashion-winner",
        top=1,
        seeds=2,
        epochs=options.epochs,
        runner={"name": "ray_tune", "max_concurrent_trials": 2},
        progress=lambda name, epoch, epochs, metrics: print(name, f"{epoch}/{epochs}", flush=True),
    )
    content["winner"] = {"search": winner, "finalists": [finalist.to_json() for finalist in finalists]}
    write(RESULT, content)


if __name__ == "__main__":
    main()
