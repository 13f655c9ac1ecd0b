"""Our zero-cost proxies on NAS-Bench-201: against those of NAS-Bench-Suite-Zero, and against accuracy after training.

OMP_NUM_THREADS=1 python benchmarks/zero_cost.py --table nasbench201_cifar10.npz --data cifar10_half.npz --cells 40

Cells are drawn from those whose table rows have scores (all operations reachable), each with its own initialisation.
Scored cells are kept in the output: run it again to go on, `--limit` ends a sitting early.

`ranks` of the output compares on one set of cells: our scores, the table's, and the assembled ones of AZ-NAS, each with
Spearman's and Kendall's correlation with test accuracy and a 95 % bootstrap interval (1,000 draws of cells). A cell for
which a proxy has no number ranks last by it. `best_of_1` and `best_of_5`: 1,000 pools of 50 of these cells, mean test
accuracy of the first one by the score, and of the best among the first five.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import machine
import numpy as np
import torch
from scipy.stats import rankdata, spearmanr

from nasforge import registry
from nasforge.core.ladder import Rung, proxy_metric
from nasforge.core.trial import Measure
from nasforge.data import load_data
from nasforge.evaluators.zero_cost import ZeroCost
from nasforge.experiment.job import trial_seed
from nasforge.settings.experiment import DataConfig, load_space
from nasforge.settings.spec import SearchSpec
from nasforge.strategies.aggregation import log_rank_sums

EDGES = ("0_1", "0_2", "1_2", "0_3", "1_3", "2_3")
COLUMNS = {"naswot": "nwot"}
TABLE = "table: "
AZ_NAS = ("expressivity", "progressivity", "trainability", "log_flops")
ASSEMBLED = {
    "AZ-NAS": AZ_NAS,
    "AZ-NAS + swap": (*AZ_NAS, "swap"),
    "AZ-NAS without trainability": ("expressivity", "progressivity", "log_flops"),
    "expressivity + progressivity": ("expressivity", "progressivity"),
    "swap + expressivity + progressivity": ("swap", "expressivity", "progressivity"),
    "table: nwot + jacov + synflow": ("table: nwot", "table: jacov", "table: synflow"),
    "AZ-NAS + table: jacov": (*AZ_NAS, "table: jacov"),
}
LARGEST = 1_531_546
"""Parameters of the largest cell: where regularised SWAP is centred."""

HERE = Path(__file__).parent
DRAWS = 1000
POOL = 50


class Report:
    """The facts of a job that the evaluator reads."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.costs: dict[str, float] = {}


def column(table: np.lib.npyio.NpzFile, proxy: str) -> np.ndarray | None:
    """The table's scores by a proxy of ours, if it has them."""
    name = f"zc_cifar10_{COLUMNS.get(proxy, proxy)}"
    return table[name] if name in table.files else None


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return round(float(spearmanr(a, b).statistic), 3)


def assembled(scores: dict[str, np.ndarray]) -> np.ndarray:
    """AZ-NAS's sums of several scores; one score as it is, -inf where there is no number."""
    if len(scores) > 1:
        return np.array(log_rank_sums(scores))
    (only,) = scores.values()
    return np.where(np.isfinite(only), only.astype(float), -np.inf)


def tau(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's tau-b of two columns without NaN."""
    one, other = (np.sign(rankdata(column)[:, None] - rankdata(column)) for column in (a, b))
    return float((one * other).sum() / math.sqrt(np.abs(one).sum() * np.abs(other).sum()))


def first_choices(scores: dict[str, np.ndarray], accuracy: np.ndarray) -> dict[str, float]:
    """Mean test accuracy of the best one, and of the best of five, by the scores within pools of 50 of the cells."""
    rng = np.random.default_rng(0)
    chosen: dict[int, list[float]] = {1: [], 5: []}
    for _ in range(DRAWS):
        pool = rng.choice(len(accuracy), POOL, replace=False)
        order = np.argsort(-assembled({name: values[pool] for name, values in scores.items()}), kind="stable")
        for count, best in chosen.items():
            best.append(float(accuracy[pool[order[:count]]].max()))
    return {f"best_of_{count}": round(float(np.mean(best)), 3) for count, best in chosen.items()}


def with_interval(scores: dict[str, np.ndarray], accuracy: np.ndarray) -> dict:
    """Both correlations of the assembled scores (of one: itself) with accuracy, and their bootstrap intervals."""

    def both(rows: np.ndarray) -> tuple[float, float]:
        parts = {name: values[rows] for name, values in scores.items()}
        one = assembled(parts)
        return np.corrcoef(rankdata(one), rankdata(accuracy[rows]))[0, 1], tau(one, accuracy[rows])

    rng = np.random.default_rng(0)
    count = len(accuracy)
    draws = np.array([both(rng.integers(0, count, count)) for _ in range(DRAWS)])
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    here = both(np.arange(count))
    named = zip(("spearman", "kendall"), here, low, high, strict=True)
    return {name: [round(float(v), 3) for v in (value, lower, upper)] for name, value, lower, upper in named}


def ranks(table: np.lib.npyio.NpzFile, rows: list[dict], proxies: list[str]) -> dict:
    """Every score that all of these cells have, and the assembled ones."""
    rows = [row for row in rows if all(proxy in row["scores"] for proxy in proxies)]
    chosen = np.array([row["index"] for row in rows])
    accuracy = table["cifar10_test_e200"][chosen]
    scores = {proxy: np.array([row["scores"][proxy] for row in rows], dtype=float) for proxy in proxies}
    if {"swap", "log_params"} <= scores.keys():
        distance = (np.exp(scores["log_params"]) - LARGEST) / LARGEST
        scores[f"swap_regularised(params={LARGEST})"] = scores["swap"] * np.exp(-(distance**2))
    for name in table.files:
        if name.startswith("zc_cifar10_"):
            scores[TABLE + name.removeprefix("zc_cifar10_")] = table[name][chosen]
    figures = {}
    for name, values in scores.items():
        missing = int((~np.isfinite(values)).sum())
        one = {name: values}
        figures[name] = {
            **with_interval(one, accuracy),
            **first_choices(one, accuracy),
            "without_a_number": missing,
        }
    for name, parts in ASSEMBLED.items():
        if all(part in scores for part in parts):
            several = {part: scores[part] for part in parts}
            figures[name] = {**with_interval(several, accuracy), **first_choices(several, accuracy), "parts": parts}
    random = {"random": np.random.default_rng(1).permutation(len(rows)).astype(float)}
    figures["random"] = first_choices(random, accuracy)
    return {"n": len(rows), "scores": figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--cells", type=int, default=40)
    parser.add_argument("--proxies", help="names, with commas; default: all of the platform that need no option")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--cells-per-stage", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=int, default=10**9, help="cells to score now")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "zero_cost.json")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    table = np.load(arguments.table)
    space = load_space("nasbench201")
    space = type(space).from_json(
        {**space.to_json(), "arguments": {"channels": 16, "cells_per_stage": arguments.cells_per_stage}}
    )
    every = [name for name in registry.names("proxy") if name != "swap_regularised"]
    proxies = arguments.proxies.split(",") if arguments.proxies else every
    data = DataConfig(arguments.data)
    load_data(data)  # not a proxy's time
    synflow = column(table, "synflow")
    assert synflow is not None
    candidates = np.flatnonzero(~np.isnan(synflow))
    drawn = np.random.default_rng(arguments.seed).choice(candidates, arguments.cells, replace=False)
    settings = {"images": arguments.images, "cells_per_stage": arguments.cells_per_stage, "seed": arguments.seed}
    rows: list[dict] = []
    if arguments.out.exists():
        held = json.loads(arguments.out.read_text())
        if held["settings"] != settings:
            parser.error(f"{arguments.out} was measured with {held['settings']}; give another --out")
        rows = held["rows"]
    by_index = {row["index"]: row for row in rows}
    options = {"device": arguments.device, "images": arguments.images}
    for place, index in enumerate(drawn.tolist()):
        row = by_index.get(index) or {"index": index, "scores": {}, "cpu_s": {}}
        missing = [proxy for proxy in proxies if proxy not in row["scores"]]
        if not missing or arguments.limit <= 0:
            continue
        arguments.limit -= 1
        ops = {
            f"model.edge{edge}": str(table["ops"][code])
            for edge, code in zip(EDGES, table["codes"][index], strict=True)
        }
        point = space.point({**space.default_point().values, **ops})
        for proxy in missing:
            began = time.process_time()
            evaluator = ZeroCost(SearchSpec(space, data, [Rung(1)]), proxies=[proxy], **options)
            result = evaluator(Measure(point), Report(trial_seed(arguments.seed, place)))
            row["scores"][proxy] = result.metrics.get(proxy_metric(proxy))
            row["cpu_s"][proxy] = round(time.process_time() - began, 2)
            row["flops"] = result.metrics.get("cost/flops", row.get("flops"))
        if index not in by_index:
            rows.append(row)
        if len(rows) % 20 == 0:
            save(arguments.out, settings, rows, {})
    figures = {}
    accuracy = table["cifar10_test_e200"]
    for proxy in proxies:
        theirs = column(table, proxy)
        scored = [row for row in rows if row["scores"].get(proxy) is not None]
        if theirs is None or not scored:
            continue
        ours = np.array([row["scores"][proxy] for row in scored])
        chosen = np.array([row["index"] for row in scored])
        figures[proxy] = {
            "n": len(scored),
            "with_the_table": spearman(ours, theirs[chosen]),
            "with_test_accuracy": spearman(ours, accuracy[chosen]),
            "tables_with_test_accuracy": spearman(theirs[chosen], accuracy[chosen]),
            "tables_with_test_accuracy_all_cells": spearman(theirs[candidates], accuracy[candidates]),
        }
    seconds = {
        proxy: round(float(np.median([row["cpu_s"][proxy] for row in rows if proxy in row["cpu_s"]])), 2)
        for proxy in proxies
    }
    content = {"proxies": figures, "median_cpu_s": seconds, "ranks": ranks(table, rows, proxies)}
    save(arguments.out, settings, rows, content)
    print(f"{len(rows)} cells")
    for proxy, one in figures.items():
        print(f"{proxy:10}", one)
    for name, one in content["ranks"]["scores"].items():
        print(f"{name:40}", one.get("spearman"), one.get("kendall"), one["best_of_1"], one["best_of_5"])


def save(path: Path, settings: dict, rows: list[dict], content: dict) -> None:
    """Write what is known so far."""
    what = (
        "Spearman rank correlations of zero-cost proxies on NAS-Bench-201, half of CIFAR-10; test accuracy is "
        "the table's after 200 epochs"
    )
    clean = [{**row, "scores": {name: _number(value) for name, value in row["scores"].items()}} for row in rows]
    whole = {"what": what, "settings": settings, "cells": len(rows), "machine": machine.describe(), **content}
    machine.write(path, {**whole, "rows": clean})


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


if __name__ == "__main__":
    main()
