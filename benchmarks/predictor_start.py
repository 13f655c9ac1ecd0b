"""Does the predictor begin better with zero-cost scores? The CIFAR-10 table of NAS-Bench-201.

    python benchmarks/predictor_start.py --table $NASFORGE_DATA/nasbench201_cifar10.npz [--seeds 20]

The mean 200-epoch validation accuracy is the signal; figures are the test accuracy of the best by it after 1, 5, 10 and
20 trained cells. The batch of scores (all 15,625 cells) is a trial that trains nothing, so searches with scores have
one more. `screening` trains cells in the order of their assembled ranks. The same command continues.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
from pathlib import Path

from machine import describe, write
from scipy.stats import t

import nasforge
from nasforge.core.trial import Measure

RESULT = Path(__file__).parent / "results" / "predictor_start.json"
COLUMNS = {
    **{name: f"zc_cifar10_{name}" for name in ("synflow", "nwot", "jacov", "snip", "zen")},
    "flops": "flops_M",
    "params": "params_M",
}
FIVE = ["synflow", "nwot", "jacov", "snip", "zen"]
THREE = ["nwot", "jacov", "flops"]
VARIANTS = {
    "random": ("random", {}, []),
    "predictor": ("predictor", {}, []),
    "predictor, five scores": ("predictor", {"zero_cost": FIVE}, FIVE),
    "predictor, nwot + jacov + flops": ("predictor", {"zero_cost": THREE}, THREE),
    "screening, five scores": ("screening", {"pool": 20_000, "batch": 20_000}, FIVE),
    "screening, nwot + jacov + flops": ("screening", {"pool": 20_000, "batch": 20_000}, THREE),
}
AT = (1, 5, 10, 20)


def searched(variant: str, seed: int, options: argparse.Namespace) -> dict:
    """Search; return the test accuracy of the best by the signal after so many trained cells."""
    strategy, settings, proxies = VARIANTS[variant]
    ladder = [*([{"proxies": proxies}] if proxies else []), {"epochs": 200}]
    name = f"start-{''.join(c if c.isalnum() else '-' for c in variant)}-s{seed}"
    evaluator = {
        "name": "lookup_table",
        "path": str(options.table.absolute()),
        "key": "arch_str",
        "signal": "cifar10_val_e200",
        "metrics": {"test": "cifar10_test_e200"},
        "proxies": {proxy: COLUMNS[proxy] for proxy in proxies},
    }
    state = nasforge.search(
        space="nasbench201",
        strategy={"name": strategy, **settings},
        evaluator=evaluator,
        ladder=ladder,
        budget={"trials": max(AT) + bool(proxies)},
        runner="simulated",
        seed=seed,
        name=name,
        runs_dir=options.runs_dir,
        tracking_uri="none",
    )
    trained = [trial for trial in state.trials.values() if isinstance(trial.proposal, Measure) and trial.result]
    pairs = [(trial.metrics["val/accuracy"], trial.metrics["test"]) for trial in trained]
    return {"variant": variant, "seed": seed, "test": {str(at): max(pairs[:at])[1] for at in AT}}


def summary(rows: list[dict]) -> dict:
    figures: dict = {}
    for variant in VARIANTS:
        for at in map(str, AT):
            values = [row["test"][at] for row in rows if row["variant"] == variant]
            if len(values) > 1:
                half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
                figures.setdefault(variant, {})[at] = {
                    "n": len(values),
                    "mean": round(statistics.mean(values), 3),
                    "half_95": round(half, 3),
                }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--table", type=Path, default=Path(os.environ.get("NASFORGE_DATA", ".")) / "nasbench201_cifar10.npz"
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/benchmarks/predictor_start"))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    rows: list[dict] = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    done = {(row["variant"], row["seed"]) for row in rows}
    for seed in range(options.seeds):
        for variant in VARIANTS:
            if (variant, seed) not in done:
                rows.append(searched(variant, seed, options))
                print(rows[-1], flush=True)
                content = {"protocol": __doc__, "machine": describe(), "test_accuracy": summary(rows), "rows": rows}
                write(options.out, content)


if __name__ == "__main__":
    main()
