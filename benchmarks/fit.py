"""`nasforge fit` beside a plain PyTorch script and scikit-learn, on small real problems, each in the same time.

    NASFORGE_DATA=... python benchmarks/fit.py --data wbc --seconds 180           writes benchmarks/results/fit.json
    NASFORGE_DATA=... python benchmarks/fit.py --data digits fashion cifar200 cifar2000 --seeds 3

Every problem has a test split that neither sees before its end: the official one, or an outer fold of five. The script
is `plain_script.py`. What is in the file already is not run again. With `--one-core` the rows of a problem run side by
side, each on a core of its own: half of the machine for each, and half of the time for all.
"""

from __future__ import annotations

import argparse
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
FOLDS = 5
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
        with np.load(source(file)) as found:
            x, y, test_x, test_y = (found[key] for key in ("x_train", "y_train", "x_test", "y_test"))
        return *some(x, y, count, seed), test_x, test_y

    return problem


def digits(seed: int) -> Problem:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    images = np.round(found.images * 255 / 16).astype(np.uint8)
    a, b, c, d = train_test_split(images, found.target, test_size=0.2, stratify=found.target, random_state=seed)
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


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "wbc": wbc,
    "digits": digits,
    "fashion": arrays("fashion_mnist.npz", 2000),
    "cifar200": arrays("cifar10_half.npz", 200),
    "cifar2000": arrays("cifar10_half.npz", 2000),
    "cifar10000": arrays("cifar10_half.npz", 10_000),
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


def fitted(file: Path, seconds: int, seed: int, folder: Path, pinned: list[str]) -> dict[str, Any]:
    began = time.monotonic()
    command = [*pinned, sys.executable, "-m", "nasforge", "fit", str(file), "--time", f"{seconds}s", "--json"]
    command += ["--runs-dir", str(folder / "runs"), "--name", "fit", "--seed", str(seed), "--tracking-uri", "none"]
    command += ["--pretrained", "none"]  # whatever lies in the caches of this machine
    answer = json.loads(output_of(command))
    rows = {row["name"]: row for row in answer["rows"]}
    best = max((row for row in answer["rows"] if row["kind"] == "sklearn"), key=lambda row: row["val"]["accuracy"])
    search = [json.loads(line) for line in (folder / "runs" / "fit" / "fit.jsonl").read_text().splitlines()]
    return {
        "test": rows[answer["winner"]]["test"],
        "val": rows[answer["winner"]]["val"],
        "winner": answer["winner"],
        "flops": rows[answer["winner"]]["flops"],
        "sklearn": {"name": best["name"], **best["test"]},
        "beaten_by": answer["beaten_by"],
        "candidates": sum(entry["kind"] == "trial" for entry in search),
        "plan": next(entry["value"]["plan"] for entry in search if entry.get("name") == "trainings"),
        "seconds": round(time.monotonic() - began, 1),
    }


def plain(file: Path, seconds: int, seed: int, folder: Path, pinned: list[str]) -> dict[str, Any]:
    command = [*pinned, sys.executable, str(SCRIPT), str(file), "--seconds", str(seconds), "--seed", str(seed)]
    answer: dict[str, Any] = json.loads(output_of(command))
    return answer


ROWS = {"fit": fitted, "script": plain}


def measured(options: argparse.Namespace, name: str, row: str, seed: int, core: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"{name}.npz"
        write_problem(PROBLEMS[name](seed), file)
        pinned = ["taskset", "--cpu-list", str(core)] if options.one_core else []
        found = ROWS[row](file, options.seconds, seed, Path(scratch), pinned)
    return {**found, "load": [round(value, 1) for value in os.getloadavg()]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="*", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seconds", type=int, default=180)
    parser.add_argument("--seeds", type=int, default=3, help="of wbc: outer folds, five in all")
    parser.add_argument("--one-core", action="store_true")
    options = parser.parse_args()
    content = json.loads(RESULT.read_text()) if RESULT.exists() else {"runs": {}}
    place = ", one core" if options.one_core else ""
    for name in options.data:
        for seed in range(options.seeds):
            keys = {row: f"{name}, {options.seconds} s{place}, {row}, {seed}" for row in options.rows}
            left = [row for row in options.rows if keys[row] not in content["runs"]]
            with ThreadPoolExecutor(len(ROWS) if options.one_core else 1) as pool:
                jobs = {row: pool.submit(measured, options, name, row, seed, list(ROWS).index(row)) for row in left}
                for row, job in jobs.items():
                    content["runs"][keys[row]] = job.result()
                    print(keys[row], json.dumps(content["runs"][keys[row]]), flush=True)
                    write(RESULT, {**content, "machine": describe(), "summary": summary_of(content["runs"])})


def summary_of(runs: dict[str, Any]) -> dict[str, str]:
    """Problem, time and row -> mean accuracy on the test images; of wbc that of all folds together, nearly."""
    found: dict[str, list[float]] = {}
    for key, run in runs.items():
        found.setdefault(key.rpartition(", ")[0], []).append(run["test"]["accuracy"])
        if "sklearn" in run:
            key = key.replace(", fit, ", ", sklearn, ")
            found.setdefault(key.rpartition(", ")[0], []).append(run["sklearn"]["accuracy"])
    return {key: f"{statistics.mean(values):.4f}, n = {len(values)}" for key, values in sorted(found.items())}


if __name__ == "__main__":
    main()
