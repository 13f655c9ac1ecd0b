"""Families of strategies on data sets that no network was designed for, against networks that nobody searched.

    OMP_NUM_THREADS=1 python benchmarks/unseen.py               # -> benchmarks/results/unseen.json

`addnist:digits` and `tile:digits` (Geada et al. 2024, https://arxiv.org/abs/2404.02189), the space `unseen.yaml` beside
this file, networks of at most twice the FLOPs of its default network, a ResNet-8. A search may compute as many
multiply-adds (supernets included) as `--trainings` of the default network in it, which are 4 epochs on a part of the
images, and does not begin with that network. Its best network is trained anew, `--epochs` on all images, next to the
ResNet of the same FLOPs, and meets the test split once.

Not searched, by the same final recipe: the default network for `--epochs`, and for as many more as the charge of a
search buys (`default, longer`). `portfolio` trains the points of the space `photos` that are shipped for unknown data,
one after the other, for the charge of a search; its networks have no limit.

Charges are multiply-adds, so the speed of the machine does not matter. Every result is kept: the same command
continues.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import describe, write
from scipy.stats import t

import nasforge
from nasforge.data import load_data
from nasforge.models.costs import count_flops
from nasforge.models.network import fresh
from nasforge.settings.experiment import DataConfig, load_space

RESULT = Path(__file__).parent / "results" / "unseen.json"
SPACE = str(Path(__file__).with_suffix(".yaml"))
DATA = ("addnist:digits", "tile:digits")
STRATEGIES: dict[str, dict[str, Any]] = {
    "random": {"name": "random"},
    "evolution": {"name": "evolution", "population": 8},
    "predictor": {"name": "predictor", "starts": 5},
    "reinforce": {"name": "reinforce"},
    "cost_aware": {"name": "cost_aware", "epochs": 5},
}
DEFAULT, LONGER, PORTFOLIO = "default", "default, longer", "portfolio"
CONTESTANTS = (*STRATEGIES, PORTFOLIO, DEFAULT, LONGER)
SHORT = 4
"""Epochs of a training in a search."""
LARGEST = 2.0
"""FLOPs of a search's networks at most, relative to the default network."""


@dataclass(frozen=True)
class Means:
    """What a search on a data set may spend: multiply-adds in all, and FLOPs of a network."""

    charge: float
    flops: float


def means_of(data: str, options: argparse.Namespace) -> Means:
    """Multiples of what the default network costs, which grows with the size of the images."""
    train, space = load_data(DataConfig(data, seed=0)).train, load_space(SPACE)
    point = space.default_point()
    network = fresh(space, point, 0, in_channels=train.shape[0], classes=train.classes)
    flops = count_flops(network, train.shape)
    return Means(options.trainings * 3 * flops * options.images * SHORT, LARGEST * flops)


def searched(contestant: str, data: str, seed: int, means: Means, options: argparse.Namespace) -> Path:
    """Search; return the experiment's folder."""
    name = f"unseen-{data.replace(':', '-')}-{contestant.replace(', ', '-')}-s{seed}"
    settings: dict[str, Any] = {"space": SPACE, "strategy": {"name": "random"}}
    if contestant in (DEFAULT, LONGER):
        settings |= {"start_from": "default", "budget": {"trials": 1}}
    else:
        settings |= {"budget": {"multiply_adds": means.charge}}
    if contestant in STRATEGIES:
        limits = [f"flops<={means.flops:.0f}"]
        settings |= {"strategy": STRATEGIES[contestant], "start_from": "none", "constraints": limits}
        settings |= {"targets": limits} if contestant == "cost_aware" else {}
    if contestant == PORTFOLIO:
        settings |= {"space": "photos", "start_from": "portfolio"}
    shared = contestant == "cost_aware"
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


def measured(contestant: str, data: str, seed: int, means: Means, options: argparse.Namespace) -> dict[str, Any]:
    """Return a row: what a contestant reaches, and what the search was charged."""
    folder = searched(contestant, data, seed, means, options)
    state = nasforge.load_state(folder)
    best = state.best
    assert best is not None and best.architecture is not None
    epochs = options.epochs
    if contestant == LONGER:
        images = len(load_data(DataConfig(data, seed=seed)).train_and_validation())
        epochs += round(means.charge / (3 * best.costs["cost/flops"] * images))
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
    parser.add_argument("--trainings", type=int, default=40, help="of the default network that a search may cost")
    parser.add_argument("--images", type=int, default=4000, help="images of a search")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of the last training")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/benchmarks/unseen"))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    settings = {name: getattr(options, name) for name in ("trainings", "images", "epochs")}
    rows: list[dict[str, Any]] = []
    if options.out.exists():
        held = json.loads(options.out.read_text())
        if held["settings"] != settings:
            parser.error(f"{options.out} was measured with {held['settings']}; give another --out")
        rows = held["rows"]
    done = {(row["data"], row["contestant"], row["seed"]) for row in rows}
    means = {data: means_of(data, options) for data in options.data.split(",")}
    for seed in range(options.seeds):
        for data in means:
            for contestant in options.contestants.split(";"):
                if (data, contestant, seed) in done:
                    continue
                rows.append(measured(contestant, data, seed, means[data], options))
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
