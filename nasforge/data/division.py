"""The division of a source's images into training, validation and test splits, stratified by class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import train_test_split

from nasforge.core.errors import DataError
from nasforge.data import groups
from nasforge.data.decoded import Decoded
from nasforge.settings.experiment import DataConfig


def divided(config: DataConfig, decoded: Decoded) -> dict[str, np.ndarray]:
    """Map each split to the rows of its images. A split that the source lacks is cut off by `config`'s share.

    Raises:
        DataError: there are too few images or classes, or fewer than `config.images`.
    """
    if len(decoded.class_names) < 2:
        raise DataError(
            f"data {config.source}: only one class, '{decoded.class_names[0]}', expected at least two; "
            "add images of another class",
            kind="empty",
            key="data.source",
        )
    bounds = np.cumsum([0, *decoded.sizes.values()])
    index = {split: np.arange(bounds[i], bounds[i + 1]) for i, split in enumerate(decoded.sizes)}
    division = _Division(config, decoded.labels, decoded.class_names, decoded.groups)
    if "test" not in index:
        index["train"], index["test"] = division.cut(index["train"], config.test, "test")
    if config.images is not None:
        available = len(index["train"]) + len(index.get("validation", ()))
        if config.images > available:
            raise DataError(
                f"data {config.source}: data.images is {config.images}, but only {available} images train and "
                "validate; lower it",
                kind="range",
                key="data.images",
            )
        for split in ("train", "validation"):
            if split in index and config.images < available:
                index[split] = division.thin(index[split], config.images / available)
    if "validation" not in index:
        index["train"], index["validation"] = division.cut(index["train"], config.validation, "validation")
    return index


def stratified(labels: np.ndarray, share: float, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Return positions of a share of `labels`, equal for every class to the nearest image, at least one of each."""
    shuffled = rng.permutation(len(labels))
    # rank of every image among its class, as a share: taking the smallest ones takes equally from all classes
    ranks = np.zeros(len(labels))
    for number in range(classes):
        members = np.flatnonzero(labels[shuffled] == number)
        ranks[members] = np.arange(len(members)) / max(1, len(members))
    return shuffled[np.argsort(ranks, kind="stable")[: max(classes, round(len(labels) * share))]]


def at_most(labels: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return positions of `most` of `labels`, the same share of every class, in their order; all if they are fewer."""
    if len(labels) <= most:
        return np.arange(len(labels))
    rows = stratified(labels, most / len(labels), int(labels.max()) + 1, np.random.default_rng(seed))
    return np.sort(rows)


@dataclass(frozen=True)
class _Division:
    """Stratified cuts of one data set, with messages that name its classes."""

    config: DataConfig
    labels: np.ndarray
    class_names: tuple[str, ...]
    groups: np.ndarray | None

    def thin(self, rows: np.ndarray, share: float) -> np.ndarray:
        """Return a share of `rows`, equal for every class to the nearest image, at least one of each."""
        rng = np.random.default_rng(self.config.seed)
        taken: np.ndarray = rows[stratified(self.labels[rows], share, len(self.class_names), rng)]
        return taken

    def cut(self, rows: np.ndarray, share: float, what: str) -> tuple[np.ndarray, np.ndarray]:
        """Return `rows` without and with the share, every class in both."""
        where = f"data {self.config.source}"
        classes = len(self.class_names)
        counts = np.bincount(self.labels[rows], minlength=classes)
        scarce = int(counts.argmin())
        if counts[scarce] < 2:
            more = "raise data.images" if self.config.images is not None else "add images or remove the class"
            raise DataError(
                f"{where}: class '{self.class_names[scarce]}' has {counts[scarce]} image(s) for the {what} split and "
                f"the split that it is taken from. Every class needs an image in each split: {more}",
                kind="empty",
            )
        taken = round(len(rows) * share)
        if not classes <= taken <= len(rows) - classes:
            raise DataError(
                f"{where}: a share of {share:g} of {len(rows)} images gives the {what} split {taken}; "
                f"with {classes} classes it needs {classes} to {len(rows) - classes}; "
                f"{self._advice(rows, share, what)}",
                kind="range",
            )
        rest, split = self._split(rows, taken)
        for piece in (rest, split):
            absent = np.setdiff1d(np.arange(classes), self.labels[piece])
            if len(absent):
                name = self.class_names[absent[0]]
                raise DataError(
                    f"{where}: class '{name}' has too few images ({counts[absent[0]]}) for a {what} share of "
                    f"{share:g}; {self._advice(rows, share, what)}",
                    kind="empty",
                )
        return rest, split

    def _split(self, rows: np.ndarray, taken: int) -> tuple[np.ndarray, np.ndarray]:
        """Split off this many of `rows`, stratified; groups stay whole, so their number may differ a bit."""
        labels = self.labels[rows]
        if self.groups is not None:
            first, second = groups.split(labels, self.groups[rows], taken / len(rows), self.config.seed)
            return rows[first], rows[second]
        rest, split = train_test_split(rows, test_size=taken, stratify=labels, random_state=self.config.seed)
        return rest, split

    def _advice(self, rows: np.ndarray, share: float, what: str) -> str:
        """Advise which share, nearest to `share` in hundredths, leaves every class in both pieces."""
        classes = len(self.class_names)
        fewest = int(np.bincount(self.labels[rows], minlength=classes).min())
        kept = 2 if what == "test" else 1  # of each class: the validation split is divided off the rest

        def works(taken: int) -> bool:
            rest, split = (np.bincount(self.labels[piece], minlength=classes) for piece in self._split(rows, taken))
            return bool(rest.min() >= kept and split.min() >= 1)

        for other in sorted((number / 100 for number in range(1, 100)), key=lambda other: abs(other - share)):
            taken = round(len(rows) * other)
            enough = min(other, 1 - other) * fewest >= 0.5 and classes <= taken <= len(rows) - classes
            if enough and works(taken):
                return f"use --set data.{what}={other:g}, or add images"
        return "add images"
