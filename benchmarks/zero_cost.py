"""Our zero-cost proxies beside those of NAS-Bench-Suite-Zero, and beside accuracy after training, on NAS-Bench-201.

OMP_NUM_THREADS=1 python benchmarks/zero_cost.py --table nasbench201_cifar10.npz --data cifar10_half.npz --cells 40

Cells are drawn from those whose table rows have scores (all operations reachable), each with its own initialisation.
Scored cells are kept in the output: run it again to go on, `--limit` ends a sitting early.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import machine
import numpy as np
import torch
from scipy.stats import spearmanr

from nasforge import registry
from nasforge.core.ladder import Rung
from nasforge.core.trial import Measure
from nasforge.data import load_data
from nasforge.evaluators.zero_cost import ZeroCost, metric_of
from nasforge.experiment.job import trial_seed
from nasforge.settings.experiment import DataConfig, load_space
from nasforge.settings.spec import SearchSpec

EDGES = ("0_1", "0_2", "1_2", "0_3", "1_3", "2_3")
COLUMNS = {"naswot": "nwot"}
HERE = Path(__file__).parent


class Report:
    """What the evaluator may know of its job."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.costs: dict[str, float] = {}


def column(table: np.lib.npyio.NpzFile, proxy: str) -> np.ndarray:
    return table[f"zc_cifar10_{COLUMNS.get(proxy, proxy)}"]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return round(float(spearmanr(a, b).statistic), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--cells", type=int, default=40)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--cells-per-stage", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=int, default=10**9, help="cells to score now")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "zero_cost.json")
    given = parser.parse_args()
    if given.device == "cpu":
        torch.set_num_threads(1)
    table = np.load(given.table)
    space = load_space("nasbench201")
    space = type(space).from_json(
        {**space.to_json(), "arguments": {"channels": 16, "cells_per_stage": given.cells_per_stage}}
    )
    proxies = registry.names("proxy")
    data = DataConfig(given.data)
    load_data(data)  # not a proxy's time
    candidates = np.flatnonzero(~np.isnan(column(table, "synflow")))
    drawn = np.random.default_rng(given.seed).choice(candidates, given.cells, replace=False)
    settings = {"images": given.images, "cells_per_stage": given.cells_per_stage, "seed": given.seed}
    rows: list[dict] = []
    if given.out.exists():
        held = json.loads(given.out.read_text())
        if held["settings"] != settings:
            parser.error(f"{given.out} was measured with {held['settings']}; give another --out")
        rows = held["rows"]
    scored = {row["index"] for row in rows}
    options = {"device": given.device, "images": given.images}
    for place, index in enumerate(drawn.tolist()):
        if index in scored or given.limit <= 0:
            continue
        given.limit -= 1
        ops = {
            f"model.edge{edge}": str(table["ops"][code])
            for edge, code in zip(EDGES, table["codes"][index], strict=True)
        }
        point = space.point({**space.default_point().values, **ops})
        row: dict = {"index": index, "scores": {}, "cpu_s": {}}
        for proxy in proxies:
            began = time.process_time()
            evaluator = ZeroCost(SearchSpec(space, data, [Rung(1)]), proxies=[proxy], **options)
            result = evaluator(Measure(point), Report(trial_seed(given.seed, place)))
            row["scores"][proxy] = result.metrics.get(metric_of(proxy))
            row["cpu_s"][proxy] = round(time.process_time() - began, 2)
            row["flops"] = result.metrics.get("cost/flops")
        rows.append(row)
    chosen = np.array([row["index"] for row in rows])
    accuracy = table["cifar10_test_e200"]
    found = {}
    for proxy in proxies:
        ours = np.array([row["scores"][proxy] for row in rows], dtype=float)
        theirs = column(table, proxy)
        has = ~np.isnan(ours)
        found[proxy] = {
            "n": int(has.sum()),
            "with_the_table": spearman(ours[has], theirs[chosen[has]]),
            "with_test_accuracy": spearman(ours[has], accuracy[chosen[has]]),
            "tables_with_test_accuracy": spearman(theirs[chosen[has]], accuracy[chosen[has]]),
            "tables_with_test_accuracy_all_cells": spearman(theirs[candidates], accuracy[candidates]),
            "median_cpu_s": round(float(np.median([row["cpu_s"][proxy] for row in rows])), 2),
        }
    content = {
        "what": "Spearman rank correlations of zero-cost proxies on NAS-Bench-201, half of CIFAR-10; test accuracy is "
        "the table's after 200 epochs",
        "settings": settings,
        "cells": len(rows),
        "machine": machine.describe(),
        "proxies": found,
        "rows": rows,
    }
    machine.write(given.out, content)
    print(f"{len(rows)} cells")
    for proxy, figures in found.items():
        print(f"{proxy:10}", figures)


if __name__ == "__main__":
    main()
