"""Ultralytics' smallest classifier from its YAML, without weights, trained for a given time.

    python -m venv peer && peer/bin/pip install ultralytics
    peer/bin/python benchmarks/ultralytics_peer.py images.npz --seconds 180     ends with the figures as JSON

It runs in an environment of its own, without nasforge. Its settings are its defaults, but for the size of the images
and the time; a fifth of the training images is its validation split.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_folders(file: Path, root: Path, seed: int) -> tuple[int, list[Path], list[int]]:
    """Write train/ and val/ with a folder per class; return the side of images, test files and their classes."""
    with np.load(file) as arrays:
        x, y, test_x, test_y = (arrays[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    order = list(range(len(x)))
    random.Random(seed).shuffle(order)
    for place, i in enumerate(order):
        folder = root / ("val" if place < len(x) // 5 else "train") / f"{int(y[i]):03}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[i]).convert("RGB").save(folder / f"{i}.png")
    (root / "asked").mkdir()
    files = [root / "asked" / f"{i}.png" for i in range(len(test_x))]
    for image, path in zip(test_x, files, strict=True):
        Image.fromarray(image).convert("RGB").save(path)
    return int(x.shape[1]), files, [int(label) for label in test_y]


def peer(file: Path, seconds: float, seed: int, threads: int) -> dict[str, Any]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["YOLO_CONFIG_DIR"] = scratch  # the settings of this user stay as they are
        import torch
        from ultralytics import YOLO, settings

        settings.update({"mlflow": False})
        torch.set_num_threads(threads)
        root = Path(scratch) / "data"
        size, files, truth = write_folders(file, root, seed)
        size = max(32, -(-size // 32) * 32)
        left = seconds - (time.monotonic() - began) - 0.03 * seconds
        with contextlib.redirect_stdout(sys.stderr):
            model = YOLO("yolo11n-cls.yaml")
            model.train(
                data=str(root), imgsz=size, time=left / 3600, batch=32, seed=seed, device="cpu", workers=0,
                project=scratch, name="peer", plots=False, exist_ok=True,
            )  # fmt: skip
            took = time.monotonic() - began
            best = YOLO(str(Path(scratch) / "peer" / "weights" / "best.pt"))
            lines = [
                int(best.names[int(answer.probs.top1)])
                for i in range(0, len(files), 100)
                for answer in best.predict([str(f) for f in files[i : i + 100]], imgsz=size, verbose=False)
            ]
    right = [a == b for a, b in zip(lines, truth, strict=True)]
    return {"test": {"accuracy": sum(right) / len(right)}, "answers": lines, "seconds": round(took, 1)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print(json.dumps(peer(options.file, options.seconds, options.seed, options.threads)))
