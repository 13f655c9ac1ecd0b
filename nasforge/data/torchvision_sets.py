"""torchvision's data sets by name, downloaded where the network allows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nasforge.core.errors import DataError, one_line
from nasforge.data.cache import cache_folder
from nasforge.data.decoded import Allocate, Decoded, Source
from nasforge.settings.experiment import DataConfig


@dataclass(frozen=True)
class Splits:
    """Splits of a torchvision class: argument name, then its value for each split."""

    argument: str
    train: Any
    test: Any
    validation: Any = None


_FLAG = Splits("train", True, False)
_TRAIN_TEST = Splits("split", "train", "test")
_TRAIN_VAL_TEST = Splits("split", "train", "test", "val")

KNOWN: dict[str, Splits] = {
    "CIFAR10": _FLAG,
    "CIFAR100": _FLAG,
    "MNIST": _FLAG,
    "FashionMNIST": _FLAG,
    "KMNIST": _FLAG,
    "QMNIST": _FLAG,
    "USPS": _FLAG,
    "SVHN": _TRAIN_TEST,
    "STL10": _TRAIN_TEST,
    "GTSRB": _TRAIN_TEST,
    "Food101": _TRAIN_TEST,
    "StanfordCars": _TRAIN_TEST,
    "OxfordIIITPet": Splits("split", "trainval", "test"),
    "FGVCAircraft": _TRAIN_VAL_TEST,
    "Flowers102": _TRAIN_VAL_TEST,
    "DTD": _TRAIN_VAL_TEST,
    "PCAM": _TRAIN_VAL_TEST,
    "Country211": Splits("split", "train", "test", "valid"),
}


def find(config: DataConfig) -> Source:
    """Find torchvision's class `config.source` in `config.folder` (default: `torchvision/` in the cache folder)."""
    folder = Path(config.folder) if config.folder else cache_folder() / "torchvision"
    key = ["torchvision", config.source, str(folder), config.resolution]
    return Source(key, lambda allocate: _read(config.source, folder, config.resolution, allocate))


def _read(name: str, folder: Path, resolution: int | None, allocate: Allocate) -> Decoded:
    values = KNOWN[name]
    arguments = {"train": values.train, "validation": values.validation, "test": values.test}
    splits = {
        split: _open(name, folder, values.argument, value) for split, value in arguments.items() if value is not None
    }
    total = sum(len(split) for split in splits.values())
    images: np.ndarray | None = None
    labels: list[int] = []
    for split, dataset in splits.items():
        for picture, label in _pictures(name, folder, split, dataset):
            pixels = _pixels(picture, resolution)
            if images is None:
                images = allocate((total, *pixels.shape))
            if pixels.shape != images.shape[1:]:
                raise DataError(
                    f"data set {name}: images differ in size. Set --resolution 64 to resize all images",
                    kind="conflict",
                    key="data.resolution",
                )
            images[len(labels)] = pixels
            labels.append(int(label))
    if images is None:
        raise DataError(f"data set {name} in {folder} is empty; delete the folder and download it again", kind="empty")
    known = sorted(set(labels))
    names = getattr(splits["train"], "classes", None) or known
    names = names if len(names) == len(known) else known
    numbers = np.searchsorted(known, labels).astype(np.int64)
    sizes = {split: len(dataset) for split, dataset in splits.items()}
    return Decoded(images, numbers, sizes, tuple(str(name) for name in names))


def _open(name: str, folder: Path, argument: str, value: Any) -> Any:
    import torchvision.datasets

    make = getattr(torchvision.datasets, name)
    try:
        return make(str(folder), download=False, **{argument: value})
    except (RuntimeError, OSError):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return make(str(folder), download=True, **{argument: value})
        except (RuntimeError, OSError, ImportError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"data set {name} is not in {folder} and could not be downloaded ({reason}); "
                f"download it on a machine with a network, copy the folder and pass it with --data-dir, "
                "or use a .npz file or an image folder",
                kind="failed",
            ) from error


def _pictures(name: str, folder: Path, split: str, dataset: Any) -> Iterator[tuple[Any, Any]]:
    """Yield images and labels of a split, one after the other."""
    for number in range(len(dataset)):
        try:
            yield dataset[number]
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(
                f"data set {name}: image {number} of the {split} split in {folder} cannot be read ({one_line(error)}); "
                "delete the folder and download it again",
                kind="unreadable",
            ) from error


def _pixels(picture: Any, resolution: int | None) -> np.ndarray:
    image: Image.Image = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
    if resolution and image.size != (resolution, resolution):
        image = image.resize((resolution, resolution), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
