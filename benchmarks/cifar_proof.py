"""CIFAR-10 below 250k params and 30M FLOPs: the network of a search against a ResNet-preact-20.

    NASFORGE_DATA=... OMP_NUM_THREADS=1 python benchmarks/cifar_proof.py  # -> benchmarks/results/cifar_proof.json

As `fashion_proof.py` in all but its data. The search (`predictor`, space `cifar_proof.yaml`) trains networks on 20,000
of the training images and validates on 10,000 others: 3 epochs at 16x16 pixels, 3 at 32x32 if the network is among the
best third (ASHA), and 6 more if it is again. Its best network and the widest ResNet-preact-20 within the limits (13
channels at first) are then trained `--epochs` on all 50,000 by one recipe. Each meets the test split once.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from fashion_proof import HERE, parser_of, prove, resnet, write_row

from nasforge.core.space import SearchSpace

LIMITS = ["params<=250k", "flops<=30M"]


def reference(flops: float, *, shape: tuple[int, int, int], classes: int) -> tuple[str, SearchSpace]:
    """The widest ResNet-preact-20 within the limits."""
    return resnet(LIMITS, shape)


def cifar10(folder: Path, path: Path) -> Path:
    """Write CIFAR-10 as one file, of the two halves that the data's folder has, and return its path."""
    if not path.exists():
        halves = [dict(np.load(folder / name)) for name in ("cifar10_half.npz", "cifar10_other_half.npz")]
        whole: dict[str, np.ndarray] = {}
        for split in ("train", "test"):
            images, labels = (np.concatenate([half[f"{kind}_{split}"] for half in halves]) for kind in "xy")
            order = np.random.default_rng(0).permutation(len(labels))
            whole |= {f"x_{split}": images[order], f"y_{split}": labels[order]}
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, class_names=halves[0]["class_names"], **whole)
    return path.resolve()


def main(description: str) -> None:
    options = parser_of(description, minutes=90, epochs=24, seeds=1).parse_args()
    source = cifar10(Path(os.environ["NASFORGE_DATA"]), options.runs_dir / "cifar10.npz")
    row = prove(
        "cifar_proof.yaml",
        {"source": str(source), "images": 30_000, "validation": 1 / 3},
        LIMITS,
        [{"epochs": 3, "resolution": 16}, {"epochs": 6}, {"epochs": 12}],
        "cifar_proof:reference",
        "cifar-proof",
        options,
    )
    title = f"{options.minutes:g} minutes, {options.epochs} epochs"
    write_row(HERE / "results" / "cifar_proof.json", description, title, row)


if __name__ == "__main__":
    main(str(__doc__))
