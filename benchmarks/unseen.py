"""Families of strategies on data sets that no network was designed for, against networks that nobody searched.

    OMP_NUM_THREADS=1 python benchmarks/unseen.py               # -> benchmarks/results/unseen.json

`addnist:digits` and `tile:digits` (Geada et al. 2024, https://arxiv.org/abs/2404.02189), the space `tiny`. A search may
compute `--charge` multiply-adds (supernets included) in trainings of 2 epochs on a part of the images, and does not
begin with the default network; its best network is trained anew, `--epochs` on all images, next to the ResNet of the
same FLOPs, and meets the test split once.

Not searched, by the same final recipe: the default network of the space for `--epochs`, and for as many more as the
charge of a search buys (`default, longer`, with its ResNet). `portfolio` trains the points of the space `photos` that
are shipped for unknown data, one after the other, for the charge of a search.

Charges are multiply-adds, so the speed of the machine does not matter. Every result is kept: the same command
continues.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from machine import describe, write
from scipy.stats import t

import nasforge
from nasforge.data import load_data
from nasforge.settings.experiment import DataConfig

RESULT = Path(__file__).parent / "results" / "unseen.json"
DATA = ("addnist:digits", "tile:digits")
STRATEGIES: dict[str, dict[str, Any]] = {
    "random": {"name": "random"},
    "evolution": {"name": "evolution", "population": 8},
    "predictor": {"name": "predictor", "starts": 5},
    "reinforce": {"name": "reinforce"},
    "gdas": {"name": "gdas", "epochs": 5},
}
DEFAULT, LONGER, PORTFOLIO = "default", "default, longer", "portfolio"
CONTESTANTS = (*STRATEGIES, PORTFOLIO, DEFAULT, LONGER)
SHORT = 2
"""Epochs of a training in a search."""


def searched(contestant: str, data: str, seed: int, options: argparse.Namespace) -> Path:
    """Search; return the experiment's folder."""
    name = f"unseen-{data.replace(':', '-')}-{contestant.replace(', ', '-')}-s{seed}"
    settings: dict[str, Any] = {"space": "tiny", "strategy": {"name": "random"}}
    if contestant in (DEFAULT, LONGER):
        settings |= {"start_from": "default", "budget": {"trials": 1}}
    else:
        settings |= {"budget": {"multiply_adds": options.charge}}
    if contestant in STRATEGIES:
        settings |= {"strategy": STRATEGIES[contestant], "start_from": "none"}
    if contestant == PORTFOLIO:
        settings |= {"space": "photos", "start_from": "portfolio"}
    shared = settings["strategy"]["name"] == "gdas"
    nasforge.search(
        data={"source": data, "images": options.images, "seed": seed},
        evaluator={"name": "shared_weights" if shared else "training", "threads": 1, "device": "cpu"},
        ladder=[{"epochs": SHORT}],
        runner="local",
        seed=seed,
        name=name,
        runs_dir=options.runs_dir,
        tracking_uri="none",
        **settings,
    )
    return options.runs_dir / name


def measured(contestant: str, data: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return a row: what a contestant reaches, and what the search was charged."""
    folder = searched(contestant, data, seed, options)
    state = nasforge.load_state(folder)
    best = state.best
    assert best is not None and best.architecture is not None
    epochs = options.epochs
    if contestant == LONGER:
        images = len(load_data(DataConfig(data, seed=seed)).train_and_validation())
        epochs += round(options.charge / (3 * best.costs["cost/flops"] * images))
    finalist = nasforge.retrain(folder, top=1, seeds=1, epochs=epochs, device="cpu")[0]
    assert finalist.reference is not None
    row = {
        "test": finalist.retrained.test["test/accuracy"].mean,
        "resnet": finalist.reference.test["test/accuracy"].mean,
        "data": data,
        "contestant": contestant,
        "seed": seed,
        "trials": state.counts(),
        "charged_multiply_adds": state.charged.multiply_adds,
        "validation": best.metrics["val/accuracy"],
        "epochs": epochs,
        "flops": best.costs["cost/flops"],
        "params": best.costs["cost/params"],
        "point": dict(best.architecture.values),
        "resnet_flops": finalist.reference.costs["cost/flops"],
    }
    print(contestant, data, seed, row["test"], row["resnet"], flush=True)
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Test accuracies with 95 % t-intervals over seeds, and differences to `random`, seed by seed."""
    figures: dict[str, Any] = {}
    for data in DATA:
        by: dict[str, dict[int, float]] = {}
        for row in (row for row in rows if row["data"] == data):
            by.setdefault(row["contestant"], {})[row["seed"]] = row["test"]
            by.setdefault(f"resnet of {row['contestant']}", {})[row["seed"]] = row["resnet"]
        figures[data] = {
            name: {
                **interval(list(values.values())),
                "minus_random": interval([values[seed] - by["random"][seed] for seed in values if seed in by["random"]])
                if "random" in by
                else None,
            }
            for name, values in by.items()
        }
    return figures


def interval(values: list[float]) -> dict[str, Any]:
    count = len(values)
    if not count:
        return {"n": 0}
    half = t.ppf(0.975, count - 1) * statistics.stdev(values) / math.sqrt(count) if count > 1 else None
    return {"n": count, "mean": round(statistics.mean(values), 4), "half_95": None if half is None else round(half, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=",".join(DATA))
    parser.add_argument("--contestants", help="of: " + "; ".join(CONTESTANTS), default=";".join(CONTESTANTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--charge", type=float, default=1e11, help="multiply-adds of a search")
    parser.add_argument("--images", type=int, default=3000, help="images of a search, a tenth of them to validate")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the last training")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/benchmarks/unseen"))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    settings = {name: getattr(options, name) for name in ("charge", "images", "epochs")}
    rows: list[dict[str, Any]] = []
    if options.out.exists():
        held = json.loads(options.out.read_text())
        if held["settings"] != settings:
            parser.error(f"{options.out} was measured with {held['settings']}; give another --out")
        rows = held["rows"]
    done = {(row["data"], row["contestant"], row["seed"]) for row in rows}
    for seed in range(options.seeds):
        for data in options.data.split(","):
            for contestant in options.contestants.split(";"):
                if (data, contestant, seed) in done:
                    continue
                rows.append(measured(contestant, data, seed, options))
                write(
                    options.out,
                    {
                        "protocol": __doc__,
                        "machine": describe(),
                        "settings": settings,
                        "test_accuracy": summary(rows),
                        "rows": rows,
                    },
                )


if __name__ == "__main__":
    main()
