"""Networks and recipes of the space `photos` on small sets of real images, each trained for the same processor seconds.

    NASFORGE_DATA=../shared/data python benchmarks/portfolio.py            # -> benchmarks/results/portfolio.json

White blood cells (299 photos, 4 classes, 64 px), digits (1,797 images, 8 px), 2,000 images of Fashion-MNIST (28 px),
and 200 and 2,000 images of half of CIFAR-10 (32 px). Cells and digits: five stratified folds; the others: 2,000 of the
official test images, and one draw of training images per fold. Cells have as many folds as `--folds` says, the others
one; the fold's number is the seed. All entries have the time of `plain`: the number of
epochs follows from the time of an epoch of both, measured in turns on one thread.
`plain` is a short script that people write: a ResNet whose stem has stride 2, AdamW, one-cycle, crops. Stop it at any
time: the same command goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from machine import describe, write
from PIL import Image
from portfolio_entries import ENTRIES
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold, train_test_split

from nasforge.core.architecture import Architecture
from nasforge.core.recipe import Recipe, recipe_of
from nasforge.core.space import SearchSpace
from nasforge.data.split import Split
from nasforge.models.network import fresh
from nasforge.models.resolution import suited
from nasforge.settings.experiment import load_space
from nasforge.training.loop import train
from nasforge.training.scoring import answers, score

RESULT = Path(__file__).parent / "results" / "portfolio.json"
EPOCHS = {"wbc": 30, "cifar_2000": 8, "fashion_2000": 8, "cifar_200": 40, "digits": 10}
"""Of `plain`; 5 to 25 seconds of one core of the machine that is named in the results."""
FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=list(EPOCHS))
    parser.add_argument("--entries", nargs="+", default=list(ENTRIES))
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the epochs")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    rows: dict[str, Any] = json.loads(options.out.read_text())["rows"] if options.out.exists() else {}
    jobs = [
        (images, fold, entry, options.scale)
        for entry in options.entries
        for images in options.sets
        for fold in range(options.folds if images == "wbc" else 1)
        if key_of(images, fold, entry, options.scale) not in rows
    ]
    with ProcessPoolExecutor(options.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for future in as_completed([pool.submit(measured, *job) for job in jobs]):
            key, row = future.result()
            rows[key] = row
            print(key, row, flush=True)
            content = {"machine": describe(), "protocol": __doc__, "summary": summary_of(rows), "rows": rows}
            write(options.out, content)


def key_of(images: str, fold: int, entry: str, scale: float) -> str:
    return f"{images}/{scale:g}/{entry}/{fold}"


def measured(images: str, fold: int, entry: str, scale: float) -> tuple[str, dict[str, float]]:
    """Train one entry on one fold and ask the network about the images that are left."""
    split, test = splits_of(images, fold)
    recipe = made(entry, split.shape)[2]
    epochs = max(1, round(scale * epochs_of(entry, images, split)))
    net, began = fresh_of(entry, split, fold), time.process_time()
    trained = train(net, split, recipe, epochs=epochs, seed=fold)
    took = time.process_time() - began
    answered = answers(net, test)
    figures = score(net, test, extra=("balanced_accuracy",))
    return key_of(images, fold, entry, scale), {
        "accuracy": figures["accuracy"],
        "balanced_accuracy": figures["balanced_accuracy"],
        "f1_macro": figures["f1_macro"],
        "loss": figures["loss"],
        "train_loss": trained.metrics["train/loss"],
        "n": len(answered.truth),
        "epochs": epochs,
        "seconds": took,
    }


def epochs_of(entry: str, images: str, split: Split) -> int:
    """Return the epochs of an entry that take as long as those of `plain`.

    The two networks take turns, so that the load of the machine falls on both; the least of three counts.
    """
    if entry == "plain":
        return EPOCHS[images]
    some = split.subset(torch.arange(min(len(split), 192)))
    seconds: dict[str, list[float]] = {"plain": [], entry: []}
    networks = {name: (fresh_of(name, split, 0), replace(made(name, split.shape)[2], precise_bn=0)) for name in seconds}
    for _ in range(3):
        for name, (network, recipe) in networks.items():
            began = time.process_time()
            train(network, some, recipe, epochs=1, seed=0)
            seconds[name].append(time.process_time() - began)
    return max(1, round(EPOCHS[images] * min(seconds["plain"]) / min(seconds[entry])))


def fresh_of(entry: str, split: Split, seed: int) -> torch.nn.Module:
    space, point, _ = made(entry, split.shape)
    return fresh(space, point, seed, in_channels=split.shape[0], classes=split.classes)


def made(entry: str, shape: tuple[int, int, int]) -> tuple[SearchSpace, Architecture, Recipe]:
    """Return the space, the point and the recipe of an entry for images of this shape."""
    changes = dict(ENTRIES[entry])
    space = suited(load_space("photos"), shape)
    if "layout" in changes:
        space = replace(space, arguments={**space.arguments, **changes["layout"]})
        if len(space.arguments["strides"]) == 4 and "model.stage3.width" not in space.domains:
            four = suited(load_space("photos"), (shape[0], 128, 128))
            space = replace(four, arguments=space.arguments, defaults={**four.defaults, **space.defaults})
    values = {**changes.get("model", {}), **{f"train.{key}": value for key, value in changes.get("train", {}).items()}}
    point = space.decide(lambda key, domain: values.get(key, space.default_of(key)))
    return space, point, recipe_of(space, point, changes.get("fixed", {}))


def summary_of(rows: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return the mean accuracy and log loss of every entry on every set."""
    groups: dict[str, list[Mapping[str, float]]] = {}
    for key, row in rows.items():
        groups.setdefault(key.rpartition("/")[0], []).append(row)
    return {
        group: {
            "folds": len(rows_of_group),
            **{
                name: round(statistics.fmean(row[name] for row in rows_of_group), 4)
                for name in ("accuracy", "loss", "epochs")
            },
        }
        for group, rows_of_group in sorted(groups.items())
    }


def splits_of(images: str, fold: int) -> tuple[Split, Split]:
    """Return the training split of a fold, and the images that it is judged on."""
    data = Path(os.environ["NASFORGE_DATA"])
    if images in ("wbc", "digits"):
        pixels, labels = cells(data / "wbc") if images == "wbc" else digits()
        folds: Iterator[Any] = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(labels, labels)
        train_index, test_index = list(folds)[fold]
    else:
        name, _, count = images.partition("_")
        file = np.load(data / ("fashion_mnist.npz" if name == "fashion" else "cifar10_half.npz"))
        x, y = file["x_train"], file["y_train"].reshape(-1).astype(np.int64)
        chosen, _ = train_test_split(np.arange(len(y)), train_size=int(count), stratify=y, random_state=fold)
        x_test, y_test = file["x_test"][:2000], file["y_test"].reshape(-1)[:2000].astype(np.int64)
        pixels = channels_first(np.concatenate([x[chosen], x_test]))
        labels = np.concatenate([y[chosen], y_test])
        train_index, test_index = np.arange(len(chosen)), np.arange(len(chosen), len(labels))
    scaled = pixels[train_index] / 255.0
    mean, std = tuple(scaled.mean((0, 2, 3))), tuple(scaled.std((0, 2, 3)))
    classes = int(labels.max()) + 1
    made_splits = [
        Split(pixels, np.asarray(index), torch.from_numpy(labels[index]), classes, mean, std)
        for index in (train_index, test_index)
    ]
    return made_splits[0], made_splits[1]


def channels_first(images: np.ndarray) -> np.ndarray:
    """Return images N x C x H x W."""
    return np.ascontiguousarray(images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2))


def digits() -> tuple[np.ndarray, np.ndarray]:
    loaded = load_digits()
    return channels_first((loaded.images * 255 / 16).round().astype(np.uint8)), loaded.target.astype(np.int64)


def cells(folder: Path, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Return the photos of white blood cells without the one basophil: shorter side resized, then the centre."""
    pixels, labels = [], []
    with (folder / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            label = int(row["class label"]) - 1
            if label > 3:
                continue
            image = Image.open(folder / "images" / f"{int(row['image ID']):03d}.png").convert("RGB")
            ratio = side / min(image.size)
            image = image.resize((max(side, round(image.width * ratio)), max(side, round(image.height * ratio))))
            left, top = (image.width - side) // 2, (image.height - side) // 2
            pixels.append(np.asarray(image.crop((left, top, left + side, top + side))))
            labels.append(label)
    return channels_first(np.stack(pixels)), np.array(labels, dtype=np.int64)


if __name__ == "__main__":
    main()
