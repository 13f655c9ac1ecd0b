"""The forty lines that somebody writes who knows PyTorch: a small ResNet, AdamW, one-cycle, crop and flip.

    python benchmarks/plain_script.py images.npz --seconds 180 --seed 0     prints figures on the test split as JSON

It imports nothing of nasforge. It tries three learning rates on four fifths of the training images in half of its time,
and trains with the best one on all of them in the other half.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as f

BATCH = 32


class Block(nn.Module):
    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(),
            nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b),
        )  # fmt: skip
        self.way = nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))

    def forward(self, x: Tensor) -> Tensor:
        return f.relu(self.body(x) + self.way(x))


def network(channels: int, size: int, classes: int) -> nn.Module:
    stem = 2 if size > 16 else 1
    widths = (16, 32, 64, 128) if size > 40 else (16, 32, 64)
    layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, stem, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for i, (a, b) in enumerate(zip((16, *widths), widths, strict=False)):
        layers.append(Block(a, b, 1 if i == 0 else 2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


def tensors(file: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images to learn from, normalised, with their classes, and those to test on."""
    with np.load(file) as arrays:
        x, y, test_x, test_y = (arrays[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    mean, std = np.float32(x.mean()), np.float32(x.std())

    def tensor(images: np.ndarray) -> Tensor:
        images = images if images.ndim == 4 else images[..., None]
        return torch.from_numpy((images.astype(np.float32) - mean) / std).permute(0, 3, 1, 2).contiguous()

    return tensor(x), torch.from_numpy(y.astype(np.int64)), tensor(test_x), torch.from_numpy(test_y.astype(np.int64))


def trained(model: nn.Module, x: Tensor, y: Tensor, rate: float, share: Callable[[], float], flip: bool) -> nn.Module:
    """Train until `share` is 1, the share that is done of the steps or of the time; it is called before every step."""
    size = x.shape[-1]
    pad = max(1, size // 12)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-8, weight_decay=0.05)
    model.train()
    while True:
        for piece in torch.randperm(len(x)).split(BATCH):
            if len(piece) < 2:
                continue
            done = share()
            if done >= 1:
                return model.eval()
            for group in optimizer.param_groups:
                group["lr"] = rate * (done / 0.3 if done < 0.3 else 0.5 * (1 + np.cos(np.pi * (done - 0.3) / 0.7)))
            images = f.pad(x[piece], (pad,) * 4)
            dy, dx = torch.randint(0, 2 * pad + 1, (2,)).tolist()
            images = images[:, :, dy : dy + size, dx : dx + size]
            if flip:
                mirrored = torch.rand(len(images)) < 0.5
                images[mirrored] = images[mirrored].flip(3)
            loss = f.cross_entropy(model(images), y[piece], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def answers(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(piece) for piece in images.split(256)]).argmax(1)


def script(file: Path, seconds: float, seed: int, began: float) -> dict[str, Any]:
    from sklearn.metrics import balanced_accuracy_score, f1_score

    torch.manual_seed(seed)
    x, y, test_x, test_y = tensors(file)
    shape = x.shape[1], x.shape[-1], int(y.max()) + 1
    flip = "digits" not in file.name

    def until(end: float) -> Callable[[], float]:
        start = time.monotonic()
        return lambda: (time.monotonic() - start) / (end - start)

    order = torch.randperm(len(x))
    held, rest = order[: len(x) // 5], order[len(x) // 5 :]
    scores = {}
    for i, rate in enumerate((0.001, 0.003, 0.01)):
        end = began + seconds * 0.5 * (i + 1) / 3
        model = trained(network(*shape), x[rest], y[rest], rate, until(end), flip)
        scores[rate] = float((answers(model, x[held]) == y[held]).float().mean())
    rate = max(scores, key=lambda r: scores[r])
    model = trained(network(*shape), x, y, rate, until(began + seconds * 0.97), flip)
    chosen = answers(model, test_x)
    return {
        "test": {
            "accuracy": float((chosen == test_y).float().mean()),
            "balanced_accuracy": float(balanced_accuracy_score(test_y, chosen)),
            "f1_macro": float(f1_score(test_y, chosen, average="macro")),
        },
        "answers": chosen.tolist(),
        "rate": rate,
        "seconds": round(time.monotonic() - began, 1),
    }


if __name__ == "__main__":
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(script(options.file, options.seconds, options.seed, start)))
