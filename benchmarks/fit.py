"""`nasforge fit` beside a plain PyTorch script, scikit-learn and Ultralytics on small real problems, in the same time.

    NASFORGE_DATA=... python benchmarks/fit.py --data wbc --seconds 180           writes benchmarks/results/fit.json
    NASFORGE_DATA=... python benchmarks/fit.py --data digits fashion cifar200 cifar2000 --seeds 3
    NASFORGE_DATA=... python benchmarks/fit.py --rows ultralytics --peer-python peer/bin/python

Every problem has a test split that none sees before its end: the official one, or an outer fold of five. The script is
`plain_script.py`, the peer `ultralytics_peer.py`. What is in the file already is not run again. With `--cores 0` every
row runs on that core alone; with `--cores 0 1` the rows of a problem run side by side, each on a core of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe, write

RESULT = Path(__file__).parent / "results" / "fit.json"
SCRIPT = Path(__file__).parent / "plain_script.py"
PEER = Path(__file__).parent / "ultralytics_peer.py"
FOLDS = 5
MOST_ANSWERS = 1000
"""Answers of so many test images are kept, to compare two rows image by image."""
Problem = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Images to learn from with their classes, images to test on with theirs: uint8, N x H x W (x 3)."""


def source(name: str) -> Path:
    return Path(os.environ["NASFORGE_DATA"]) / name


def some(images: np.ndarray, labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """So many images, the same number of every class."""
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)
    rows = [rng.choice(np.flatnonzero(labels == k), count // len(classes), replace=False) for k in classes]
    chosen = rng.permutation(np.concatenate(rows))
    return images[chosen], labels[chosen]


def arrays(file: str, count: int) -> Callable[[int], Problem]:
    def problem(seed: int) -> Problem:
        with np.load(source(file)) as arrays:
            x, y, test_x, test_y = (arrays[key] for key in ("x_train", "y_train", "x_test", "y_test"))
        return *some(x, y, count, seed), test_x, test_y

    return problem


def digits(seed: int) -> Problem:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    loaded = load_digits()
    images = np.round(loaded.images * 255 / 16).astype(np.uint8)
    a, b, c, d = train_test_split(images, loaded.target, test_size=0.2, stratify=loaded.target, random_state=seed)
    return a, c, b, d


def wbc(fold: int) -> Problem:
    """White blood cells without the only basophil, shorter side 64 pixels, centre cut out; an outer fold of five."""
    import csv

    from PIL import Image, ImageOps
    from sklearn.model_selection import StratifiedKFold

    with (source("wbc") / "labels.csv").open() as file:
        rows = [(int(row["image ID"]), int(row["class label"]) - 1) for row in csv.DictReader(file)]
    rows = [(image, label) for image, label in rows if label < 4]
    images = [
        np.asarray(ImageOps.fit(Image.open(source("wbc") / "images" / f"{image:03}.png").convert("RGB"), (64, 64)))
        for image, _ in rows
    ]
    x, y = np.stack(images), np.array([label for _, label in rows])
    learn, test = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(x, y))[fold]
    return x[learn], y[learn], x[test], y[test]


def cells(seed: int) -> Problem:
    """Single blood cells of three classes, at most 200 each, 64 pixels; the cells of a photo stay on one side."""
    import csv

    import cut_cells
    from PIL import Image, ImageOps
    from sklearn.model_selection import GroupShuffleSplit

    with tempfile.TemporaryDirectory() as scratch:
        cut_cells.cut(source("bccd"), Path(scratch), 200, seed)
        with (Path(scratch) / "labels.csv").open() as file:
            rows = list(csv.DictReader(file))
        x = np.stack([np.asarray(ImageOps.fit(Image.open(Path(scratch) / row["image"]), (64, 64))) for row in rows])
    y = np.unique([row["label"] for row in rows], return_inverse=True)[1]
    split = GroupShuffleSplit(1, test_size=0.3, random_state=seed)
    learn, test = next(split.split(x, y, [row["photo"] for row in rows]))
    return x[learn], y[learn], x[test], y[test]


def animals(seed: int) -> Problem:
    """Six animals of the other half of CIFAR-10, unbalanced: 240 cats to 40 horses. Kept aside: no default is of it."""
    with np.load(source("cifar10_other_half.npz")) as arrays:
        x, y, test_x, test_y = (arrays[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    counts = {3: 240, 2: 200, 4: 160, 5: 120, 6: 80, 7: 40}  # class of CIFAR-10 -> images
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(
        np.concatenate([rng.choice(np.flatnonzero(y == k), count, replace=False) for k, count in counts.items()])
    )
    asked = np.isin(test_y, list(counts))
    return x[chosen], y[chosen] - 2, test_x[asked], test_y[asked] - 2


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "wbc": wbc,
    "digits": digits,
    "fashion": arrays("fashion_mnist.npz", 2000),
    "cifar200": arrays("cifar10_half.npz", 200),
    "cifar2000": arrays("cifar10_half.npz", 2000),
    "cifar10000": arrays("cifar10_half.npz", 10_000),
    "cells": cells,
    "animals": animals,
}
"""CIFAR-10 is half of CIFAR-10: half of the official training and test images."""


def write_problem(problem: Problem, file: Path) -> None:
    x, y, test_x, test_y = problem
    np.savez(file, x_train=x, y_train=y, x_test=test_x, y_test=test_y)


def output_of(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def fitted(file: Path, seconds: int, seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    began = time.monotonic()
    command = [sys.executable, "-m", "nasforge", "fit", str(file), "--time", f"{seconds}s", "--json"]
    command += ["--runs-dir", str(folder / "runs"), "--name", "fit", "--seed", str(seed), "--tracking-uri", "none"]
    command += ["--pretrained", "none"]  # whatever lies in the caches of this machine
    answer = json.loads(output_of([*options.pinned, *command]))
    rows = {row["name"]: row for row in answer["rows"]}
    best = max((row for row in answer["rows"] if row["kind"] == "sklearn"), key=lambda row: row["val"]["accuracy"])
    place = folder / "runs" / "fit"
    search = [json.loads(line) for line in (place / "fit.jsonl").read_text().splitlines()]
    asked = next(entry["what"] for entry in search if entry["kind"] == "tested" and entry["row"] == answer["winner"])
    with np.load(place / "answers" / f"{asked.replace(' ', '_')}.npz") as kept:
        answers = kept["probabilities"].argmax(1).tolist()
    return {
        "test": rows[answer["winner"]]["test"],
        "val": rows[answer["winner"]]["val"],
        "answers": answers,
        "winner": answer["winner"],
        "flops": rows[answer["winner"]]["flops"],
        "sklearn": {"name": best["name"], **best["test"]},
        "beaten_by": answer["beaten_by"],
        "candidates": sum(entry["kind"] == "trial" for entry in search),
        "plan": next(entry["value"]["plan"] for entry in search if entry.get("name") == "trainings"),
        "last": next(entry["epochs"] for entry in search if entry["kind"] == "trained"),
        "phases": {entry["name"]: entry["seconds"] for entry in search if entry["kind"] == "phase"},
        "seconds": round(time.monotonic() - began, 1),
    }


def plain(file: Path, seconds: int, seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), str(file), "--seconds", str(seconds), "--seed", str(seed)]
    answer: dict[str, Any] = json.loads(output_of([*options.pinned, *command]))
    return answer


def peer(file: Path, seconds: int, seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    command = [str(options.peer_python), str(PEER), str(file), "--seconds", str(seconds), "--seed", str(seed)]
    command += ["--threads", "1"] if options.pinned else []
    answer: dict[str, Any] = json.loads(output_of([*options.pinned, *command]).splitlines()[-1])
    return answer


ROWS = {"fit": fitted, "script": plain, "ultralytics": peer}


def measured(options: argparse.Namespace, name: str, row: str, seed: int, core: int | None) -> dict[str, Any]:
    pinned = argparse.Namespace(**vars(options), pinned=[] if core is None else ["taskset", "--cpu-list", str(core)])
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"{name}.npz"
        problem = PROBLEMS[name](seed)
        write_problem(problem, file)
        result = ROWS[row](file, options.seconds, seed, Path(scratch), pinned)
    truth, answers = problem[3].tolist(), result.pop("answers")
    if len(truth) <= MOST_ANSWERS:
        result["right"] = "".join("1" if a == b else "0" for a, b in zip(answers, truth, strict=True))
        result["chosen"] = "".join(map(str, answers))  # no problem has more than ten classes
    return {**result, "load": [round(value, 1) for value in os.getloadavg()]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--rows", nargs="*", default=["fit", "script"], choices=list(ROWS))
    parser.add_argument("--seconds", type=int, default=180)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of wbc: outer folds, five in all")
    parser.add_argument("--cores", type=int, nargs="*", default=[], help="none: a row has the whole machine")
    parser.add_argument("--peer-python", type=Path, help="of an environment with ultralytics")
    options = parser.parse_args()
    content = json.loads(RESULT.read_text()) if RESULT.exists() else {"runs": {}}
    place = ", one core" if options.cores else ""
    for name in options.data:
        for seed in options.seeds:
            keys = {row: f"{name}, {options.seconds} s{place}, {row}, {seed}" for row in options.rows}
            left = [row for row in options.rows if keys[row] not in content["runs"]]
            with ThreadPoolExecutor(max(1, len(options.cores))) as pool:
                cores = itertools.cycle(options.cores or [None])
                jobs = {row: pool.submit(measured, options, name, row, seed, next(cores)) for row in left}
                for row, job in jobs.items():
                    content["runs"][keys[row]] = job.result()
                    shown = {key: value for key, value in job.result().items() if key not in ("right", "chosen")}
                    print(keys[row], json.dumps(shown), flush=True)
                    write(RESULT, {**content, "machine": describe(), "summary": summary_of(content["runs"])})


def summary_of(runs: dict[str, Any]) -> dict[str, str]:
    """Problem, time and row -> mean accuracy on the test images; of wbc that of all folds together, nearly."""
    accuracies: dict[str, list[float]] = {}
    for key, run in runs.items():
        accuracies.setdefault(key.rpartition(", ")[0], []).append(run["test"]["accuracy"])
        if "sklearn" in run:
            key = key.replace(", fit, ", ", sklearn, ")
            accuracies.setdefault(key.rpartition(", ")[0], []).append(run["sklearn"]["accuracy"])
    return {key: f"{statistics.mean(values):.4f}, n = {len(values)}" for key, values in sorted(accuracies.items())}


if __name__ == "__main__":
    main()
