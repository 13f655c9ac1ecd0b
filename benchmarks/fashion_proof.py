"""Fashion-MNIST under a limit of parameters and FLOPs: the network of a search against a ResNet-preact-20.

    export NASFORGE_DATA=... OMP_NUM_THREADS=1
    python benchmarks/fashion_proof.py  # -> benchmarks/results/fashion_proof.json
    python benchmarks/fashion_proof.py --limits small --widened --finalist --epochs 60
    python benchmarks/fashion_proof.py --again --widened --finalist --epochs 60

`large` is 300k params and 40M FLOPs, `small` 100k and 15M. The search (`predictor`, space `fashion_proof.yaml`) trains
networks on 20,000 of the training images and validates on 10,000 others: 3 epochs at 14x14 pixels, 3 at 28x28 if the
network is among the best third (ASHA), and 6 more if it is again. Its best network and the widest ResNet-preact-20
within the same limits (pre-activation, 20 layers; its paper's 16 channels have 272k params and 31M FLOPs) are then
trained `--epochs` on all 60,000 by one recipe. Each meets the test split once; the mean over an image and its mirror
image is given apart. Two trainings run side by side, on one thread each. The same command continues a stopped run, also
with fewer minutes, more epochs or more seeds. Ctrl-C during the last trainings writes what is tested by then.

`--finalist` trains both by a recipe for long schedules: batches of 256, a rate of 0.4, shifts of 4 pixels and cutout of
10. `--widened` trains the network of the search as wide as the limits allow (`nasforge.retrain(widen=True)`). `--again`
takes the network of the result's last search instead of searching.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu import preact_resnet20
from machine import describe, write
from torch import nn

import nasforge
from nasforge.api.retrain import Finalist
from nasforge.core.goals import Constraint
from nasforge.core.protocols import Pick
from nasforge.core.space import SearchSpace
from nasforge.experiment.state import load_state
from nasforge.models.costs import costs_of

HERE = Path(__file__).parent
RESULT = HERE / "results" / "fashion_proof.json"
FINALIST = {"batch_size": 256, "learning_rate": 0.4, "crop_pixels": 4, "cutout_pixels": 10}
"""What a long training changes in the recipe of the search."""
LIMITS = {"large": ["params<=300k", "flops<=40M"], "small": ["params<=100k", "flops<=15M"]}


def build(pick: Pick, *, in_channels: int, classes: int, width: int) -> nn.Module:
    """Build the ResNet-preact-20 of this width, so that references are network folders too."""
    return preact_resnet20(in_channels, classes, width)


def resnet(limits: list[str], shape: tuple[int, int, int]) -> tuple[str, SearchSpace]:
    """The widest ResNet-preact-20 within the limits."""
    bounds = [Constraint.parse(text) for text in limits]
    width = 1
    while True:
        costs = costs_of(functools.partial(preact_resnet20, shape[0], 10, width + 1), shape)
        if any(bound.violation(costs) for bound in bounds):
            break
        width += 1
    name = f"ResNet-preact-20 x {width / 16:g}"
    return name, SearchSpace(name, (), builder="fashion_proof:build", arguments={"width": width})


def small(flops: float, *, shape: tuple[int, int, int], classes: int) -> tuple[str, SearchSpace]:
    """The reference of the smaller class."""
    return resnet(LIMITS["small"], shape)


def large(flops: float, *, shape: tuple[int, int, int], classes: int) -> tuple[str, SearchSpace]:
    """The reference of the larger class."""
    return resnet(LIMITS["large"], shape)


def prove(
    space: str,
    data: dict[str, Any],
    limits: list[str],
    ladder: list[dict[str, int]],
    reference: str,
    name: str,
    options: argparse.Namespace,
    *,
    network: dict[str, Any] | None = None,
    widen: bool = False,
    recipe: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Search, train the best network and the reference, and return what the table of a result needs.

    Args:
        space: file of the search space.
        data: of the search.
        limits: of the networks.
        ladder: of the search.
        reference: what the best network is compared with.
        name: of the search.
        options: of the command.
        network: decisions of the network to train; the search is one epoch of it then.
        widen: whether to train the best network as wide as the limits allow.
        recipe: settings that replace those of the search in the last trainings.
    """
    runner = {"name": "ray_tune", "max_concurrent_trials": 2}
    how: dict[str, Any] = {
        "strategy": "predictor",
        "ladder": ladder,
        "pruner": "asha",
        "budget": {"worker_seconds": 60 * options.minutes},
    }
    if network is not None:
        options.runs_dir.mkdir(parents=True, exist_ok=True)
        points = options.runs_dir / f"{name}.json"
        points.write_text(json.dumps([network]))
        how = {"strategy": "random", "epochs": 1, "start_from": str(points), "budget": {"trials": 1}}
    state = nasforge.search(
        **how,
        space=str(HERE / space),
        data=data,
        constraints=limits,
        evaluator={"name": "training", "threads": 1, "validate_at": []},
        runner=runner,
        name=name,
        runs_dir=options.runs_dir,
        tracking_uri="none",
    )
    finalists: Sequence[Finalist] = ()
    with suppress(KeyboardInterrupt):  # then the row has what has met the test split so far
        finalists = nasforge.retrain(
            options.runs_dir / name,
            seeds=options.seeds,
            epochs=options.epochs,
            recipe=recipe,
            widen=widen,
            tta="flip",
            reference=reference,
            runner=runner,
            trust=True,
            progress=lambda name, epoch, epochs, metrics: print(name, f"{epoch}/{epochs}", flush=True),
        )
    return {
        "machine": describe(),
        "trials": state.counts(),
        "worker_s": state.charged.worker_seconds,
        "epochs": options.epochs,
        "network": network,
        "finalists": [finalist.to_json() for finalist in finalists],
        "tests": load_state(options.runs_dir / name).tests,
    }


def parser_of(description: str, minutes: float, epochs: int, seeds: int) -> argparse.ArgumentParser:
    """The options that both proofs take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=minutes, help="that the workers of the search spend together")
    parser.add_argument("--epochs", type=int, default=epochs, help="of the last trainings")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/benchmarks"))
    return parser


def write_row(result: Path, protocol: str, title: str, row: dict[str, Any]) -> None:
    """Add a row to the file of a proof."""
    before: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {"protocol": protocol, "runs": {}}
    before["runs"][title] = row
    write(result, before)


def last_search(limits: str) -> tuple[str, dict[str, Any]]:
    """The title of the last search within these limits, without its epochs, and the decisions that it found."""
    rows = json.loads(RESULT.read_text())["runs"]
    title = [title for title in rows if title.startswith(f"{limits}, ") and ", again, " not in title][-1]
    return ", ".join(title.split(", ")[:2]), rows[title]["finalists"][0]["architecture"]["values"]


def main(description: str) -> None:
    parser = parser_of(description, minutes=90, epochs=12, seeds=3)
    parser.add_argument("--limits", choices=LIMITS, default="large")
    parser.add_argument("--finalist", action="store_true", help="train the last networks by the finalist's recipe")
    parser.add_argument("--again", action="store_true", help="take the network of the result's last search")
    parser.add_argument("--widened", action="store_true", help="train it with the widths that the limits allow")
    options = parser.parse_args()
    title, network = f"{options.limits}, {options.minutes:g} minutes", None
    if options.again:
        title, network = last_search(options.limits)
    origin, width = "again" if options.again else "", "widened" if options.widened else ""
    row = prove(
        "fashion_proof.yaml",
        {
            "source": str(Path(os.environ["NASFORGE_DATA"]).resolve() / "fashion_mnist.npz"),
            "images": 30_000,
            "validation": 1 / 3,
        },
        LIMITS[options.limits],
        [{"epochs": 3, "resolution": 14}, {"epochs": 6}, {"epochs": 12}],
        f"fashion_proof:{options.limits}",
        "-".join(filter(None, ("fashion-proof", options.limits, origin, width))),
        options,
        network=network,
        widen=options.widened,
        recipe=FINALIST if options.finalist else None,
    )
    recipe = "finalist's recipe" if options.finalist else ""
    title = ", ".join(filter(None, (title, origin, width, f"{options.epochs} epochs", recipe)))
    write_row(RESULT, description, title, row)


if __name__ == "__main__":
    main(str(__doc__))
