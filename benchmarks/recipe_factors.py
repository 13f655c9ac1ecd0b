"""What six settings of a recipe do at equal steps: a fractional factorial design, eight cells for all of them.

    NASFORGE_DATA=... python benchmarks/recipe_factors.py             writes benchmarks/results/recipe_factors.json

The network is the default of the space `photos`. Three settings take both values in all combinations, and each of the
other three follows from two of them (2^(6-3), Box & Hunter 1961), so half of the trainings have either value of each
setting. An effect is therefore measured on all trainings; it is mixed with the interaction of the two others. What is
in the file already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from fit import PROBLEMS, write_problem
from machine import describe, write
from sklearn.metrics import balanced_accuracy_score

from nasforge.core.recipe import recipe_of
from nasforge.data import load_data
from nasforge.models.network import fresh
from nasforge.models.resolution import suited
from nasforge.settings.experiment import DataConfig, load_space
from nasforge.training.loop import train
from nasforge.training.scoring import answers

RESULT = Path(__file__).parent / "results" / "recipe_factors.json"
COMMON = {"flip": True, "label_smoothing": 0.1}


def settings_of(cell: int) -> dict[str, Any]:
    """The settings of a cell, 0 to 7."""
    a, b, c = cell & 1, cell >> 1 & 1, cell >> 2 & 1
    return {
        "crop_fill": ("black", "mean")[a],
        "class_weights": ("none", "balanced")[b],
        "learning_rate": (0.003, 0.006)[c],
        "crop_pixels": (5, 8)[a ^ b],
        "color_jitter": (0.0, 0.2)[a ^ c],
        "mixup": (0.0, 0.2)[b ^ c],
    }


def measured(name: str, seed: int, cell: int, epochs: int) -> dict[str, Any]:
    """Train on one problem, and ask about its test images."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"{name}.npz"
        write_problem(PROBLEMS[name](seed), file)
        data = load_data(DataConfig(str(file), validation=0.2, seed=0))
        pool, test = data.train_and_validation(), data.open_test()
    space = suited(load_space("photos"), pool.shape)
    point = space.default_point()
    network = fresh(space, point, seed, in_channels=pool.shape[0], classes=pool.classes)
    recipe = replace(recipe_of(space, point, {}), **COMMON, **settings_of(cell))
    train(network, pool, recipe, epochs=epochs, seed=seed)
    answered = answers(network, test)
    right = answered.probabilities.argmax(1) == answered.truth
    sure = answered.probabilities[np.arange(len(right)), answered.truth]
    return {
        **settings_of(cell),
        "right": int(right.sum()),
        "n": len(right),
        "balanced_accuracy": float(balanced_accuracy_score(answered.truth, answered.probabilities.argmax(1))),
        "loss": float(-np.log(np.maximum(sure, 1e-9)).mean()),
        "epochs": epochs,
    }


def summary_of(runs: list[dict[str, Any]]) -> dict[str, str]:
    """Setting and value -> accuracy, balanced accuracy and log loss over all trainings that have it."""
    effects = {}
    for setting in settings_of(0):
        for value in sorted({run[setting] for run in runs}):
            rows = [run for run in runs if run[setting] == value]
            accuracy = sum(run["right"] for run in rows) / sum(run["n"] for run in rows)
            balanced, loss = (statistics.mean(run[key] for run in rows) for key in ("balanced_accuracy", "loss"))
            effects[f"{setting}={value}"] = f"{accuracy:.3f}, {balanced:.3f}, {loss:.3f} ({len(rows)} trainings)"
    return effects


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="wbc", choices=list(PROBLEMS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of wbc: outer folds, five in all")
    parser.add_argument("--epochs", type=int, default=80)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[str, Any] = json.loads(RESULT.read_text())["runs"] if RESULT.exists() else {}
    for seed in options.seeds:
        for cell in range(8):
            key = f"{options.data}, {seed}, {cell}"
            if key not in runs:
                runs[key] = measured(options.data, seed, cell, options.epochs)
                print(key, runs[key], flush=True)
                mine = {k: run for k, run in runs.items() if k.startswith(f"{options.data}, ")}
                summary = json.loads(RESULT.read_text())["summary"] if RESULT.exists() else {}
                summary[options.data] = summary_of(list(mine.values()))
                write(RESULT, {"machine": describe(), "runs": runs, "summary": summary})


if __name__ == "__main__":
    main()
