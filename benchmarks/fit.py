"""`nasforge fit` beside a plain PyTorch script and scikit-learn, on small real problems, each in the same time.

    NASFORGE_DATA=... python benchmarks/fit.py --data wbc --seconds 180           writes benchmarks/results/fit.json
    NASFORGE_DATA=... python benchmarks/fit.py --data digits fashion cifar200 cifar2000 --seeds 3

Every problem has a test split that neither sees before its end: the official one, or an outer fold of five. The script
is forty lines: a small ResNet with a strided stem, AdamW, one-cycle, crop and flip; it tries three learning rates on a
fifth of the training images in half of its time, and trains with the best one on all of them in the other half.
What is in the file already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

RESULT = Path(__file__).parent / "results" / "fit.json"
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


def fitted(file: Path, seconds: int, seed: int, folder: Path) -> dict[str, Any]:
    began = time.monotonic()
    command = [sys.executable, "-m", "nasforge", "fit", str(file), "--time", f"{seconds}s", "--json"]
    command += ["--runs-dir", str(folder / "runs"), "--name", "fit", "--seed", str(seed), "--tracking-uri", "none"]
    command += ["--pretrained", "none"]  # whatever lies in the caches of this machine
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
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


def plain(file: Path, seconds: int, seed: int, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--plain", str(file), "--seconds", str(seconds), "--seeds", str(seed)]
    answer: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return answer


def plain_script(file: Path, seconds: float, seed: int) -> dict[str, Any]:
    """The forty lines that somebody writes who knows PyTorch."""
    began = time.monotonic()
    import torch
    from sklearn.metrics import balanced_accuracy_score, f1_score
    from torch import nn
    from torch.nn import functional as f

    torch.manual_seed(seed)
    with np.load(file) as found:
        x, y, test_x, test_y = (found[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    mean, std = np.float32(x.mean()), np.float32(x.std())

    def tensor(images: np.ndarray) -> torch.Tensor:
        images = images if images.ndim == 4 else images[..., None]
        return torch.from_numpy((images.astype(np.float32) - mean) / std).permute(0, 3, 1, 2).contiguous()

    x, y, test_x = tensor(x), torch.from_numpy(y.astype(np.int64)), tensor(test_x)
    size, classes = x.shape[-1], int(y.max()) + 1
    mirrored = "digits" not in file.name

    class Block(nn.Module):
        def __init__(self, a: int, b: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(),
                nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b),
            )  # fmt: skip
            self.way = nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return f.relu(self.body(x) + self.way(x))

    def network() -> nn.Module:
        stem = 2 if size > 16 else 1
        widths = (16, 32, 64, 128) if size > 40 else (16, 32, 64)
        layers: list[nn.Module] = [
            nn.Conv2d(x.shape[1], 16, 3, stem, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        ]  # fmt: skip
        for i, (a, b) in enumerate(zip((16, *widths), widths, strict=False)):
            layers.append(Block(a, b, 1 if i == 0 else 2))
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))

    def trained(rows: torch.Tensor, rate: float, until: float) -> nn.Module:
        model, batch, pad = network(), 32, max(1, size // 12)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-8, weight_decay=0.05)
        start, share = time.monotonic(), 0.0
        while share < 1:
            for piece in torch.randperm(len(rows)).split(batch):
                share = (time.monotonic() - start) / (until - start)
                if share >= 1 or len(piece) < 2:
                    break
                lr = rate * (share / 0.3 if share < 0.3 else 0.5 * (1 + np.cos(np.pi * (share - 0.3) / 0.7)))
                for group in optimizer.param_groups:
                    group["lr"] = lr
                images = f.pad(x[rows[piece]], (pad,) * 4)
                dy, dx = torch.randint(0, 2 * pad + 1, (2,)).tolist()
                images = images[:, :, dy : dy + size, dx : dx + size]
                if mirrored:
                    flip = torch.rand(len(images)) < 0.5
                    images[flip] = images[flip].flip(3)
                loss = f.cross_entropy(model(images), y[rows[piece]], label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return model.eval()

    def said(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([model(piece) for piece in images.split(256)]).argmax(1)

    order = torch.randperm(len(x))
    held, rest = order[: len(x) // 5], order[len(x) // 5 :]
    scores = {}
    for i, rate in enumerate((0.001, 0.003, 0.01)):
        model = trained(rest, rate, began + seconds * 0.5 * (i + 1) / 3)
        scores[rate] = float((said(model, x[held]) == y[held]).float().mean())
    rate = max(scores, key=lambda r: scores[r])
    chosen = said(trained(order, rate, began + seconds * 0.97), test_x).numpy()
    return {
        "test": {
            "accuracy": float((chosen == test_y).mean()),
            "balanced_accuracy": float(balanced_accuracy_score(test_y, chosen)),
            "f1_macro": float(f1_score(test_y, chosen, average="macro")),
        },
        "rate": rate,
        "seconds": round(time.monotonic() - began, 1),
    }


ROWS = {"fit": fitted, "script": plain}


def runs(options: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    for name in options.data:
        for seed in range(options.seeds):
            for row in options.rows:
                yield name, row, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="*", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seconds", type=int, default=180)
    parser.add_argument("--seeds", type=int, default=3, help="of wbc: outer folds, five in all")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        print(json.dumps(plain_script(options.plain, options.seconds, options.seeds)))
        return
    content = json.loads(RESULT.read_text()) if RESULT.exists() else {"machine": describe(), "runs": {}}
    for name, row, seed in runs(options):
        key = f"{name}, {options.seconds} s, {row}, {seed}"
        if key in content["runs"]:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / f"{name}.npz"
            write_problem(PROBLEMS[name](seed), file)
            found = ROWS[row](file, options.seconds, seed, Path(scratch))
        content["runs"][key] = {**found, "load": [round(value, 1) for value in os.getloadavg()]}
        print(key, json.dumps(content["runs"][key]), flush=True)
        RESULT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
