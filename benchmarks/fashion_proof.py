"""Fashion-MNIST under a limit of parameters and FLOPs: the network of a search against a ResNet-preact-20.

    NASFORGE_DATA=... python benchmarks/fashion_proof.py             # -> benchmarks/results/fashion_proof.json
    NASFORGE_DATA=... python benchmarks/fashion_proof.py --limits large --trials 150 --epochs 60 --seeds 3

`small` is 100k params and 15M FLOPs, `large` 300k and 40M. The search (`predictor`, space `fashion_proof.yaml`) trains
networks for 4 epochs on 10,000 of the training images, stops most after the first (ASHA), and validates on 6,000 other
training images. Its best network and the ResNet of the same FLOPs (pre-activation, 20 layers, width scaled; 16 channels
at 31M) are then trained `--epochs` on all 60,000 by one recipe. Each meets the test split once; the mean over an image
and its mirror image is given apart. The same command continues a stopped run.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import describe, write

import nasforge
from nasforge.core.space import SearchSpace
from nasforge.models.costs import count_flops
from nasforge.models.network import build
from nasforge.settings.experiment import load_space

HERE = Path(__file__).parent
RESULT = HERE / "results" / "fashion_proof.json"
LIMITS = {"small": ["params<=100k", "flops<=15M"], "large": ["params<=300k", "flops<=40M"]}


def preact_resnet20(flops: float, *, shape: tuple[int, int, int], classes: int) -> tuple[str, SearchSpace]:
    """The ResNet with pre-activation of 3 x 3 blocks and a width of 16 w, 32 w, 64 w, nearest to `flops` from below.

    He et al. 2016, https://arxiv.org/abs/1603.05027. Multiples of one channel of the first stage.
    """
    space = load_space(str(HERE / "fashion_proof.yaml"))
    blocks = {f"model.stage{i}.layer{j}.block": "preactivation" for i in range(3) for j in range(3)}
    widths = {"model.stage0.width": 16, "model.stage1.width": 32, "model.stage2.width": 64}
    point = dict(space.fixed({**blocks, "model.activation": "relu"}).default_point().values) | widths
    fitting: tuple[str, SearchSpace] | None = None
    for channels in range(4, 65):
        arguments = {**space.arguments, "stem_width": 16, "width_multiplier": channels / 16}
        network = replace(space.fixed(point), arguments=arguments)
        built = build(network, network.default_point(), in_channels=shape[0], classes=classes)
        if count_flops(built, shape) > flops:
            break
        fitting = f"ResNet-preact-20 x {channels / 16:g}", network
    if fitting is None:
        raise SystemExit(f"no ResNet-preact-20 has less than {flops:.3g} multiply-adds")
    return fitting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limits", choices=LIMITS, default="small")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=16, help="of the last trainings")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/benchmarks"))
    options = parser.parse_args()
    name = f"fashion-proof-{options.limits}-{options.trials}"
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
    finalists = nasforge.retrain(
        options.runs_dir / name,
        seeds=options.seeds,
        epochs=options.epochs,
        tta="flip",
        reference="fashion_proof:preact_resnet20",
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
