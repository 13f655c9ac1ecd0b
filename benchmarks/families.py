"""Three families on one space and real images, at equal charge: random, evolution, REINFORCE, a single-path supernet.

    NASFORGE_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/families.py   # -> benchmarks/results/families.json

Fashion-MNIST, `blocks_four.yaml` beside this file, at most 100k params and 10M FLOPs; 6,000 training and 2,000
validation images, 3 epochs, ASHA; 900 worker-seconds for each search, supernet and pruned trials included; 3 seeds. Two
searches at a time, one thread each. `spos` trains its supernet for 12 epochs, measures 60 networks on its weights, then
trains the best. The best of each family is retrained (6 epochs on all images, `--final-seeds` times) and meets the
sealed test split once. Stop it at any time: the same command continues, also where the folder of its runs is gone.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from machine import describe, write
from sittings import Journals

import nasforge

HERE = Path(__file__).parent
RESULT = HERE / "results" / "families.json"
STRATEGIES = ["random", "evolution", "reinforce", {"name": "spos", "epochs": 12, "measures": 60}]
TWO = {"name": "ray_tune", "max_concurrent_trials": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--worker-seconds", type=float, default=900)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--no-retrain", action="store_true")
    parser.add_argument("--final-seeds", type=int, default=1, help="trainings of each finalist and of its ResNet")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    data = Path(os.environ["NASFORGE_DATA"]).resolve() / "fashion_mnist.npz"
    journals = Journals(options.out, options.runs_dir / "families")

    def done(name: str, count: int, total: int) -> None:
        print(f"{count}/{total} {name}", flush=True)
        journals.keep(name)

    comparison = nasforge.compare(
        strategies=STRATEGIES,
        seeds=options.seeds,
        name="families",
        axis="worker_seconds",
        workers=2,
        runs_dir=options.runs_dir,
        tracking_uri="none",
        space=str(HERE / "blocks_four.yaml"),
        data={"source": str(data), "images": options.images, "validation": 0.25},
        evaluator={"name": "shared_weights", "threads": 1},
        constraints=["params<=100k", "flops<=10M"],
        budget={"worker_seconds": options.worker_seconds},
        epochs=3,
        pruner="asha",
        progress=done,
    )
    content = {"machine": describe(), "protocol": __doc__, "comparison": comparison.to_json()}
    write(options.out, content)
    if options.no_retrain:
        return
    finalists = {}
    for row in (row for row in comparison.rows if row.quantity == "signal"):
        best = max(range(len(row.values)), key=row.values.__getitem__)
        experiment = comparison.strategies[row.label]["experiments"][best]
        folder = options.runs_dir / "families" / experiment
        retrained = nasforge.retrain(folder, top=1, seeds=options.final_seeds, epochs=6, runner=TWO)
        finalists[row.label] = [finalist.to_json() for finalist in retrained]
        write(options.out, {**content, "finalists": finalists})


if __name__ == "__main__":
    main()
