"""Our training loop beside a plain one: the same network, images, rate and number of steps.

    NASFORGE_DATA=... python benchmarks/same_steps.py                 writes benchmarks/results/same_steps.json
    NASFORGE_DATA=... python benchmarks/same_steps.py --data cifar2000 --epochs 126 --rows careful blended mixed

`script` is the loop of `plain_script.py`, `nasforge` is `nasforge.training.loop.train` with the same settings as a
recipe; the network is the script's. The other rows are the default network of the space `photos` with recipes of its
portfolio; `mixed, wide` is twice as wide. A loop or a recipe that loses accuracy shows here and nowhere else: all learn
from the same images for as many steps, and are asked about the same ones. What is in the file already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import plain_script
import torch
from fit import PROBLEMS, write_problem
from machine import describe, write

from nasforge.core.recipe import Recipe, recipe_of
from nasforge.data import load_data
from nasforge.models.network import fresh
from nasforge.models.resolution import suited
from nasforge.settings.experiment import DataConfig, load_space
from nasforge.training.loop import train
from nasforge.training.scoring import answers

RESULT = Path(__file__).parent / "results" / "same_steps.json"
EPOCHS = {"wbc": 80, "cifar200": 120, "cifar2000": 32, "cifar10000": 25, "fashion": 32, "digits": 30}
"""About what a fit of three minutes has for its last training on one core."""
RATE = 0.003
CAREFUL = {"learning_rate": 0.006, "flip": True, "label_smoothing": 0.1}
RECIPES: dict[str, dict[str, Any]] = {
    "smooth": {"label_smoothing": 0.1},
    "careful": CAREFUL,
    "careful, black": {**CAREFUL, "crop_fill": "black"},
    "careful, alternating": {**CAREFUL, "flip_order": "alternating"},
    "mixed, alternating": {**CAREFUL, "color_jitter": 0.2, "mixup": 0.2, "flip_order": "alternating"},
    "blended": {**CAREFUL, "mixup": 0.2},
    "mixed": {**CAREFUL, "color_jitter": 0.2, "mixup": 0.2},
}
"""Changes of the default recipe; `careful, black` has crops that end in black, and not in the mean colour."""
WIDE = {"model.stage0.width": 32, "model.stage1.width": 64, "model.stage2.width": 128}


def key_of(name: str, row: str, seed: int, epochs: int) -> str:
    """Return the key of a training in the result file."""
    return f"{name}{'' if epochs == EPOCHS[name] else f' ({epochs} epochs)'}, {row}, {seed}"


def measured(name: str, row: str, seed: int, epochs: int) -> tuple[str, dict[str, Any]]:
    """Train on one problem, and ask about its test images."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"{name}.npz"
        write_problem(PROBLEMS[name](seed), file)
        torch.manual_seed(seed)
        x, y, test_x, test_y = plain_script.tensors(file)
        size, classes = x.shape[-1], int(y.max()) + 1
        flip = name != "digits"
        network = plain_script.network(x.shape[1], size, classes)
        if row == "script":
            steps = epochs * -(-len(x) // plain_script.BATCH)
            done = iter(np.arange(steps + 1) / steps)
            plain_script.trained(network, x, y, RATE, lambda: float(next(done)), flip)
            right = plain_script.answers(network, test_x) == test_y
        else:
            data = load_data(DataConfig(str(file), validation=0.2, seed=0))
            pool = data.train_and_validation()
            change = row.removesuffix(", wide")
            if change in RECIPES:
                space = suited(load_space("photos"), pool.shape)
                widths = {} if row == change else {k: v for k, v in WIDE.items() if k in space.domains}
                point = space.point({**space.default_point().values, **widths})
                network = fresh(space, point, seed, in_channels=pool.shape[0], classes=classes)
                recipe = replace(recipe_of(space, point, {}), **RECIPES[change])
            else:
                recipe = Recipe(
                    optimizer="adamw",
                    learning_rate=RATE,
                    weight_decay=0.05,
                    schedule="one_cycle",
                    batch_size=plain_script.BATCH,
                    keep_last_batch=True,
                    label_smoothing=0.1,
                    crop_pixels=max(1, size // 12),
                    flip=flip,
                )
            train(network, pool, recipe, epochs=epochs, seed=seed)
            answered = answers(network, data.open_test())
            right = torch.from_numpy(answered.probabilities.argmax(1) == answered.truth)
    return key_of(name, row, seed, epochs), {"right": int(right.sum()), "n": len(right), "epochs": epochs}


def summary_of(runs: dict[str, Any]) -> dict[str, str]:
    """Problem and row -> accuracy over all seeds."""
    by_row: dict[str, list[dict[str, Any]]] = {}
    for key, run in runs.items():
        by_row.setdefault(key.rpartition(", ")[0], []).append(run)
    return {
        key: f"{sum(r['right'] for r in rows) / sum(r['n'] for r in rows):.4f} ({len(rows)} trainings)"
        for key, rows in sorted(by_row.items())
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="*", default=list(EPOCHS), choices=list(EPOCHS))
    parser.add_argument("--rows", nargs="*", default=["script", "nasforge", *RECIPES])
    parser.add_argument("--epochs", type=int, help="of every training, instead of those of its data")
    parser.add_argument("--seeds", type=int, default=3, help="of wbc: outer folds, five in all")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    runs: dict[str, Any] = json.loads(RESULT.read_text())["runs"] if RESULT.exists() else {}
    jobs = [
        (name, row, seed, options.epochs or EPOCHS[name])
        for name in options.data
        for seed in range(5 if name == "wbc" else options.seeds)
        for row in options.rows
        if key_of(name, row, seed, options.epochs or EPOCHS[name]) not in runs
    ]
    with ProcessPoolExecutor(options.workers) as pool:
        for future in as_completed([pool.submit(measured, *job) for job in jobs]):
            key, run = future.result()
            runs[key] = run
            print(key, run, flush=True)
            write(RESULT, {"machine": describe(), "summary": summary_of(runs), "runs": runs})


if __name__ == "__main__":
    main()
