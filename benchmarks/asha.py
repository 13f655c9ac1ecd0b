"""Figure 3: what stopping early saves and costs, and how well the rungs foretell full training. Fashion-MNIST.

    NASFORGE_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/asha.py     # -> benchmarks/results/asha.json

`blocks_four.yaml` beside this file, at most 100k params and 10M FLOPs; 4,500 training and 1,500 validation images.

* `calibration`: 12 random points, 9 epochs, 2 seeds; rungs at 1, 3 and 9 epochs.
  - `networks`: networks, all trained by the space's own recipe, judged with running averages of batch statistics;
  - `recipes`: networks and the four decisions of `search_spaces/recipes/sgd.yaml`;
  - `recipes_precise`: the same points as `recipes`, judged with batch statistics taken anew (`precise_bn` 8);
  - `recipes_share`: the same points as `recipes`, on the cheaper ladder of below.
* `searches`: `--trials` random points of network and recipe, `--seeds` times, each set of points trained
  - `none`: all of them for 9 epochs;
  - `asha`: stopped at 1 and 3 epochs unless in the best third there;
  - `asha_share`: the same, the first epoch on a fifth of the images and the next two on half of them;
  - `promotion`: begun for 1 epoch, and promoted from checkpoints, for as many multiply-adds as `asha` charged;
  - `asha_precise`: as `asha`, judged with batch statistics taken anew.
  Random search proposes the same points, and a trial has the same seed, whatever is stopped: the best that remains
  is to be compared with the best of `none` directly. Rungs are of different fidelity in `asha_share`, and statistics
  in `asha_precise`: their ends are not the same trainings.

Reported: epochs trained, multiply-adds charged, best validation accuracy, and (of the first two) the rank among all of
`none` of what was found. The test split stays sealed. Stop it at any time: the same command continues, also where the
folder of its runs is gone.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from machine import describe, write
from sittings import Journals

import nasforge
from nasforge.core.space import SearchSpace
from nasforge.experiment.state import State
from nasforge.settings.space_file import load_recipe, load_space

HERE = Path(__file__).parent
RESULT = HERE / "results" / "asha.json"
LADDER: list[dict[str, float]] = [{"epochs": 1}, {"epochs": 3}, {"epochs": 9}]
CHEAPER: list[dict[str, float]] = [{"epochs": 1, "share": 0.2}, {"epochs": 3, "share": 0.5}, {"epochs": 9}]
RUNNING, PRECISE = {"precise_bn": 0}, {"precise_bn": 8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=18)
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runner", default="ray_tune", choices=["ray_tune", "local"])
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    data = Path(os.environ["NASFORGE_DATA"]).resolve() / "fashion_mnist.npz"
    workers = {"max_concurrent_trials": options.workers} if options.runner == "ray_tune" else {}
    networks = load_space(HERE / "blocks_four.yaml")
    recipes = networks.with_recipe(load_recipe("sgd"))
    common: dict[str, Any] = {
        "data": {"source": str(data), "images": options.images, "validation": 0.25},
        "constraints": ["params<=100k", "flops<=10M"],
        "evaluator": {"name": "training", "threads": 1},
        "runner": {"name": options.runner, **workers},
        "runs_dir": str(options.runs_dir),
        "tracking_uri": "none",
    }

    journals = Journals(options.out, options.runs_dir)

    def search(name: str, seed: int, **settings: Any) -> State:
        print(f"asha-{name}-s{seed}", flush=True)
        state = nasforge.search(
            **{
                **{"name": f"asha-{name}-s{seed}", "seed": seed, "space": recipes, "strategy": "random"},
                **{"recipe": RUNNING, **common, **settings},
            }
        )
        journals.keep(f"asha-{name}-s{seed}")
        return state

    def calibrate(name: str, space: SearchSpace, ladder: list[dict[str, float]], recipe: dict[str, int]) -> None:
        experiment = f"asha-calibrate-{name}"
        print(experiment, flush=True)
        calibration = nasforge.calibrate(
            networks=options.networks, seeds=2, trials=100, name=experiment, space=space, ladder=ladder, recipe=recipe,
            **common,
        )  # fmt: skip
        journals.keep(experiment)
        content["calibration"][name] = calibration.to_json()
        write(options.out, content)

    content: dict[str, Any] = {"machine": describe(), "protocol": __doc__, "calibration": {}, "searches": []}
    calibrate("networks", networks, LADDER, RUNNING)
    calibrate("recipes", recipes, LADDER, RUNNING)
    calibrate("recipes_precise", recipes, LADDER, PRECISE)
    for seed in range(options.seeds):
        budget = {"trials": options.trials}
        whole = search("none", seed, pruner="none", ladder=LADDER, budget=budget)
        stopped = search("asha", seed, pruner="asha", ladder=LADDER, budget=budget)
        cheaper = search("asha_share", seed, pruner="asha", ladder=CHEAPER, budget=budget)
        spent = {"multiply_adds": stopped.charged.multiply_adds}
        promoted = search(
            "promotion", seed, strategy={"name": "promotion", "of": "random"}, ladder=LADDER, budget=spent
        )
        precise = search("asha_precise", seed, pruner="asha", ladder=LADDER, budget=budget, recipe=PRECISE)
        for name, state in {
            **{"none": whole, "asha": stopped, "asha_share": cheaper, "promotion": promoted, "asha_precise": precise}
        }.items():
            content["searches"].append({"how": name, "seed": seed, **figures(state, whole)})
        write(options.out, content)
    calibrate("recipes_share", recipes, CHEAPER, PRECISE)


def figures(state: State, whole: State) -> dict[str, Any]:
    """What a search cost and found; the rank is among the networks that were all trained to the end."""
    best = state.best
    assert best is not None and best.result is not None and best.result.values is not None and best.architecture
    order = [trial.architecture.point_id for trial in whole.ranking() if trial.architecture]
    steps = [{step.step for step in trial.steps} for trial in state.trials.values()]
    return {
        "trials": state.counts(),
        "epochs": sum(map(len, steps)),
        "networks": len(
            {trial.architecture.point_id for trial in state.trials.values() if trial.steps and trial.architecture}
        ),
        "multiply_adds": state.charged.multiply_adds,
        "worker_seconds": state.charged.worker_seconds,
        "best_epochs": best.result.steps_done,
        "best_val_accuracy": best.result.values[0],
        "rank_of_best": order.index(best.architecture.point_id) + 1 if best.architecture.point_id in order else None,
    }


if __name__ == "__main__":
    main()
