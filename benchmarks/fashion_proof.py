"""Fashion-MNIST under a limit of parameters and FLOPs: the network of a search against a ResNet-preact-20.

    NASFORGE_DATA=... python benchmarks/fashion_proof.py             # -> benchmarks/results/fashion_proof.json
    NASFORGE_DATA=... python benchmarks/fashion_proof.py --limits large --trials 150 --epochs 60 --seeds 3

`small` is 100k params and 15M FLOPs, `large` 300k and 40M. The search (`predictor`, space `fashion_proof.yaml`) trains
networks for 4 epochs on 10,000 of the training images, stops most after the first (ASHA), and validates on 6,000 other
training images. Its best network and the ResNet of the same FLOPs (pre-activation, 20 layers, width scaled; 16 channels
at 31M) are then trained `--epochs` on all 60,000 by one recipe. Each meets the test split once; the mean over an image
and its mirror image is given apart. The same command continues a stopped run, also with fewer trials or more seeds.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from gpu import preact_resnet20
from machine import describe, write
from torch import nn

import nasforge
from nasforge.core.protocols import Pick
from nasforge.core.space import SearchSpace
from nasforge.models.costs import count_flops

HERE = Path(__file__).parent
RESULT = HERE / "results" / "fashion_proof.json"
LIMITS = {"small": ["params<=100k", "flops<=15M"], "large": ["params<=300k", "flops<=40M"]}


def build(pick: Pick, *, in_channels: int, classes: int, width: int) -> nn.Module:
    """Build the ResNet-preact-20 of this width, so that references are network folders too."""
    return preact_resnet20(in_channels, classes, width)


def reference(flops: float, *, shape: tuple[int, int, int], classes: int) -> tuple[str, SearchSpace]:
    """The widest ResNet-preact-20 of at most `flops`; it has 16 channels at first in the paper."""
    width = 1
    while count_flops(preact_resnet20(shape[0], classes, width + 1), shape) <= flops:
        width += 1
    name = f"ResNet-preact-20 x {width / 16:g}"
    return name, SearchSpace(name, (), builder="fashion_proof:build", arguments={"width": width})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limits", choices=LIMITS, default="small")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=16, help="of the last trainings")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/benchmarks"))
    options = parser.parse_args()
    name = f"fashion-proof-{options.limits}"
    state = nasforge.search(
        space=str(HERE / "fashion_proof.yaml"),
        data={"source": str(Path(os.environ["NASFORGE_DATA"]).resolve() / "fashion_mnist.npz"), "images": 16_000}
        | {"validation": 0.375},
        constraints=LIMITS[options.limits],
        strategy="predictor",
        ladder=[{"epochs": 1}, {"epochs": 4}],
        pruner="asha",
        budget={"trials": options.trials},
        evaluator={"name": "training", "threads": 1},
        runner="local",
        name=name,
        runs_dir=options.runs_dir,
        tracking_uri="none",
    )
    for seeds in range(1, options.seeds + 1):  # so that what a stopped run leaves are pairs
        finalists = nasforge.retrain(
            options.runs_dir / name,
            seeds=seeds,
            epochs=options.epochs,
            tta="flip",
            reference="fashion_proof:reference",
            trust=True,
            progress=lambda name, epoch, epochs, metrics: print(name, f"{epoch}/{epochs}", flush=True),
        )
    row = {
        "machine": describe(),
        "trials": state.counts(),
        "worker_s": state.charged.worker_seconds,
        "epochs": options.epochs,
        "finalists": [finalist.to_json() for finalist in finalists],
    }
    before: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {"protocol": __doc__, "runs": {}}
    before["runs"][f"{options.limits}, {options.trials} trials, {options.epochs} epochs"] = row
    write(RESULT, before)


if __name__ == "__main__":
    main()
