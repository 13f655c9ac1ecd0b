"""Differentiable searches on NAS-Bench-201's space, what they derive looked up in the table: do they collapse?

    NASFORGE_DATA=../shared/data python benchmarks/differentiable.py     # -> benchmarks/results/differentiable.json

REDUCED PROTOCOL, for a CPU: the supernet (1 cell per stage, not 5; 8 channels, not 16) learns Fashion-MNIST at
16 x 16 instead of CIFAR-10 at 32 x 32: 4,000 training images, of which the alphas get half; 30 epochs, of GDAS 90, so
that all compute about as much (`gdas_short`: 30; second order: more than twice as much). The first derived cell's
CIFAR-10 test accuracy after 200 epochs is read from the table; the network itself is never trained. Published, by the
full protocol on CIFAR-10: DARTS 54.30, GDAS 93.61, DrNAS 94.36; a random cell's mean is in the result file.
Stop it at any time: what the result file has is not searched again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe, write

import nasforge
from nasforge.core.alphas import derive, without
from nasforge.settings.experiment import load_space

RESULT = Path(__file__).parent / "results" / "differentiable.json"
VARIANTS: dict[str, dict[str, Any]] = {
    "darts": {"name": "darts"},
    "darts_second_order": {"name": "darts", "second_order": True},
    "gdas": {"name": "gdas"},
    "gdas_short": {"name": "gdas"},
    "drnas": {"name": "drnas"},
}


LONGER = {"gdas": 3}
"""Times the epochs of the others: a step of one path costs a third of one of all options."""


def searched(variant: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    full = load_space("nasbench201")
    epochs = options.epochs * LONGER.get(variant, 1)
    space = replace(full, arguments={**full.arguments, "channels": 8, "cells_per_stage": 1})
    state = nasforge.search(
        space=space,
        data={"source": str(options.data / "fashion_mnist.npz"), "images": 5000, "validation": 0.2, "resolution": 16},
        strategy={**VARIANTS[variant], "epochs": epochs},
        budget={"trials": 1},
        pruner="none",
        recipe={"batch_size": 64},
        evaluator={"name": "shared_weights", "threads": 1},
        runner="local",
        seed=seed,
        name=f"differentiable-{variant}-{epochs}-s{seed}",
        runs_dir=options.runs_dir,
        tracking_uri="none",
    )
    trial = state.trials[0]
    assert trial.result is not None and trial.result.alphas is not None, trial.result
    point = next(derive(full, without(full, trial.result.alphas, "none")))
    told = {key: value for key, value in trial.metrics.items() if key.startswith(("alphas/", "supernet/"))}
    return {
        "variant": variant,
        "seed": seed,
        "epochs": trial.result.steps_done,
        "cell": full.function("text")(point.model),
        "worker_s": trial.result.charged.worker_seconds,
        **told,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    options.data = Path(os.environ["NASFORGE_DATA"]).resolve()
    with np.load(options.data / "nasbench201_cifar10.npz") as table:
        test = dict(zip(table["arch_str"].tolist(), table["cifar10_test_e200"].tolist(), strict=True))
    rows = json.loads(options.out.read_text())["searches"] if options.out.exists() else []
    done = {(row["variant"], row["seed"]) for row in rows}
    for seed in range(options.seeds):
        for variant in options.variants.split(","):
            if (variant, seed) in done:
                continue
            row = searched(variant, seed, options)
            rows.append({**row, "test_e200": test[row["cell"]]})
            print(rows[-1], flush=True)
            table_of = {name: [row["test_e200"] for row in rows if row["variant"] == name] for name in VARIANTS}
            summary = {
                name: {
                    "mean": statistics.mean(searches),
                    "min": min(searches),
                    "max": max(searches),
                    "n": len(searches),
                }
                for name, searches in table_of.items()
                if searches
            }
            random_cells = {
                "mean": float(np.mean(list(test.values()))),
                "median": float(np.median(list(test.values()))),
            }
            content = {"machine": describe(), "protocol": __doc__, "test_e200": summary, "random_cell": random_cells}
            write(options.out, {**content, "searches": rows})


if __name__ == "__main__":
    main()
