"""Data sets made of another one, that no network was designed for: `addnist:digits`, `tile:digits`.

Geada et al., "Insights from the Use of Previously Unseen Neural Architecture Search Datasets",
https://arxiv.org/abs/2404.02189, make AddNIST of MNIST and CIFARTile of CIFAR-10; here any data set will do. Its splits
stay apart: training images are made of its training split alone, and so on. So a picture of its test split is never
seen before the test. The classes of each split have equally many images. A split has as many images as that of the
data set, or `FEWEST`, since pictures can be combined in many ways. The data's seed decides what is combined with what.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import TypeAlias

import numpy as np

from nasforge.core.errors import DataError
from nasforge.data import cache
from nasforge.data.decoded import SPLITS, Allocate, Decoded, Source
from nasforge.data.division import divided
from nasforge.settings.experiment import DataConfig

FindInner: TypeAlias = Callable[[int | None], Source]
"""Gives the data set that another one is made of, its images resized to a height and width."""

FEWEST = {"train": 5000, "validation": 1000, "test": 1000}
"""Images of a split, at least."""

_TRIES = 100
_LUMA = (0.299, 0.587, 0.114)


def addnist(config: DataConfig, find_inner: FindInner) -> Source:
    """Return a source of images with three pictures as channels, whose class is the sum of the pictures' class numbers.

    As in the paper, for ten classes: the sums 1 to 20, each equally often, all combinations of a sum too. For K classes
    the sums are 1 to 2 K, or to 3 (K - 1) where that is less. Pictures in colour become grey.
    """
    inner = find_inner(config.resolution)

    def read(allocate: Allocate) -> Decoded:
        decoded, _ = cache.decoded(inner)
        count = len(decoded.class_names)
        sums = range(1, min(2 * count, 3 * (count - 1)) + 1)
        combinations = [[d for d in product(range(count), repeat=3) if sum(d) == total] for total in sums]
        rows, labels, sizes = _composed(config, decoded, combinations)
        images = allocate((len(rows), 3, *decoded.images.shape[2:]))
        for start in range(0, len(rows), 4096):
            for channel in range(3):
                pictures = decoded.images[rows[start : start + 4096, channel]]
                images[start : start + 4096, channel] = _grey(pictures)
        return Decoded(images, labels, sizes, tuple(map(str, sums)), (*decoded.notes, _note(config, sizes)))

    return Source(_key("addnist", config, inner), read, inner.notes)


def tile(config: DataConfig, find_inner: FindInner) -> Source:
    """Return a source of images made of four pictures, 2 x 2, whose class says how many classes the pictures have.

    As in the paper: 1 to 4 different classes, each number equally often. Which classes, and which pictures share one,
    is drawn with equal chances. No picture is twice in an image, unless its class has fewer than four.

    Raises:
        DataError: `config.resolution` is odd.
    """
    if config.resolution is not None and config.resolution % 2:
        raise DataError(
            f"data {config.source}: images are made of 2 x 2 pictures, but the resolution is {config.resolution}. Set "
            "an even --resolution",
            kind="range",
            key="data.resolution",
        )
    inner = find_inner(None if config.resolution is None else config.resolution // 2)

    def read(allocate: Allocate) -> Decoded:
        decoded, _ = cache.decoded(inner)
        count = len(decoded.class_names)
        numbers = range(1, min(4, count) + 1)
        # Which of the pictures have the same class: 0, 0, 1, 0 has two classes. Names stand for classes drawn later.
        combinations = [[d for d in product(range(k), repeat=4) if len(set(d)) == k] for k in numbers]
        rows, labels, sizes = _composed(config, decoded, combinations, named=False)
        channels, height, width = decoded.images.shape[1:]
        images = allocate((len(rows), channels, 2 * height, 2 * width))
        for start in range(0, len(rows), 4096):
            for place, (down, right) in enumerate(product((0, 1), repeat=2)):
                across = slice(down * height, (down + 1) * height), slice(right * width, (right + 1) * width)
                images[start : start + 4096, :, *across] = decoded.images[rows[start : start + 4096, place]]
        names = tuple(f"{k} class{'es' if k > 1 else ''}" for k in numbers)
        return Decoded(images, labels, sizes, names, (*decoded.notes, _note(config, sizes)))

    return Source(_key("tile", config, inner), read, inner.notes)


def _key(name: str, config: DataConfig, inner: Source) -> object:
    """Return the key of the cache: all that the images depend on; None if the data set has none."""
    if inner.key is None:
        return None
    return ["composed", 1, name, inner.key, config.validation, config.test, config.seed, FEWEST]


def _composed(
    config: DataConfig, decoded: Decoded, combinations: Sequence[Sequence[Sequence[int]]], *, named: bool = True
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Draw the pictures of all images, split by split.

    Args:
        config: shares and seed of the division.
        decoded: the pictures.
        combinations: of each class, what its images may consist of: a class number for each picture.
        named: False if the numbers stand for any different classes, drawn again for each image.

    Returns:
        Rows of the pictures, images x pictures of an image; the images' labels; split -> number of images.
    """
    splits = divided(replace(config, images=None), decoded)
    classes = len(decoded.class_names)
    rows: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    sizes: dict[str, int] = {}
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng([config.seed, number])
        of_class = [splits[split][decoded.labels[splits[split]] == label] for label in range(classes)]
        present = np.flatnonzero([len(pictures) for pictures in of_class])
        each = max(1, round(max(len(splits[split]), FEWEST[split]) / len(combinations)))
        for label, allowed in enumerate(combinations):
            possible = np.array(allowed)
            if named:
                possible = possible[np.isin(possible, present).all(1)]
            if not len(possible) or (not named and len(present) <= possible.max()):
                continue
            drawn = possible[rng.integers(len(possible), size=each)]
            if not named:
                order = rng.permuted(np.tile(present, (each, 1)), axis=1)
                drawn = np.take_along_axis(order, drawn, axis=1)
            rows.append(_pictures(drawn, of_class, rng))
            labels.append(np.full(each, label))
        sizes[split] = sum(map(len, labels)) - sum(sizes.values())
    return np.concatenate(rows), np.concatenate(labels).astype(np.int64), sizes


def _pictures(drawn: np.ndarray, of_class: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Draw a picture for every class number; those of an image are different where the classes have enough."""
    numbers = np.array([len(pictures) for pictures in of_class])
    longest = max(numbers)
    table = np.stack([np.resize(pictures, longest) if len(pictures) else np.zeros(longest) for pictures in of_class])
    rows: np.ndarray = table[drawn, rng.integers(numbers[drawn])].astype(np.int64)
    for _ in range(_TRIES):
        ordered = np.sort(rows, axis=1)
        again = (ordered[:, 1:] == ordered[:, :-1]).any(1)
        if not again.any():
            break
        rows[again] = table[drawn[again], rng.integers(numbers[drawn[again]])]
    return rows


def _grey(pictures: np.ndarray) -> np.ndarray:
    """Return pictures N x C x H x W as N x H x W."""
    if pictures.shape[1] == 1:
        return pictures[:, 0]
    weights = np.array(_LUMA) if pictures.shape[1] == 3 else np.full(pictures.shape[1], 1 / pictures.shape[1])
    grey: np.ndarray = np.tensordot(weights, pictures, (0, 1)).round().astype(np.uint8)
    return grey


def _note(config: DataConfig, sizes: dict[str, int]) -> str:
    counts = ", ".join(f"{count:,} for {split}" for split, count in sizes.items())
    return f"data {config.source}: images are made of several pictures, {counts}; each split of its own pictures"
