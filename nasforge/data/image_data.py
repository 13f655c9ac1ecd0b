"""A data set divided into train, validation and a sealed test part."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from nasforge.core.architecture import digest
from nasforge.core.errors import DataError
from nasforge.data import cache, groups, sources
from nasforge.data.decoded import classes_have
from nasforge.data.input_rule import InputRule
from nasforge.data.part import Part
from nasforge.settings.experiment import DataConfig

STATISTICS_IMAGES = 100_000
"""Most training images that mean and standard deviation are taken from."""


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set as a search sees it.

    Attributes:
        shape: channels, height, width.
        class_names: one per class.
        train: to train on.
        validation: to compare candidates on.
        mean: of the training part per channel, images scaled to 0..1.
        std: likewise.
        fingerprint: hash of the images, labels and their division; equal data, equal figures.
        notes: sentences for the user about what of the source is read and how, without a full stop.
        groups: of all training and validation images of the source, by their row in `Part.pixels`; each group is on
            one side of every split. None: images are independent.
        input: how an image file becomes an input; None: squashed to height and width, as `InputRule` has it.
    """

    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    train: Part
    validation: Part
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    notes: tuple[str, ...]
    groups: np.ndarray | None
    input: InputRule | None
    _test: Part = field(repr=False)
    _shares: dict[float, Part] = field(default_factory=dict, repr=False)

    @property
    def test_images(self) -> int:
        """Number of images of the sealed test split."""
        return len(self._test)

    def open_test(self) -> Part:
        """Return the sealed test split. Only retraining a finalist opens it, once per network; the journal says so."""
        return self._test

    def share_of_train(self, share: float) -> Part:
        """Return a share of the training split, equal for every class; a smaller share is a subset of a larger one."""
        if share == 1.0:
            return self.train
        if share not in self._shares:
            rng = np.random.default_rng(0)  # the same images for every trial
            rows = stratified(self.train.labels.numpy(), share, len(self.class_names), rng)
            self._shares[share] = self.train.subset(torch.from_numpy(np.sort(rows)))
        return self._shares[share]

    def groups_of(self, part: Part) -> np.ndarray | None:
        """Return the group of each image of a part of training and validation images; None: independent images."""
        return None if self.groups is None else self.groups[part.index]

    def train_and_validation(self) -> Part:
        """Return both splits together, for retraining; normalised as the training split is."""
        index = np.concatenate([self.train.index, self.validation.index])
        labels = torch.cat([self.train.labels, self.validation.labels])
        return replace(self.train, index=index, labels=labels, _resident={})


@lru_cache(maxsize=4)  # a ladder may hold the images at several resolutions
def load_data(config: DataConfig) -> ImageData:
    """Load the data set of `config`, decoded and split; this process caches it from trial to trial.

    The division is stratified and depends on `config.seed` alone. A source's own validation and test parts are used as
    they are; otherwise `config.test` of all images is sealed away first, then `config.validation` of the rest.

    Raises:
        DataError: the source is missing or malformed, or has too few images of a class.
    """
    source = sources.find(config)
    decoded, content_hash = cache.decoded(source)
    classes = len(decoded.class_names)
    if classes < 2:
        raise DataError(
            f"data {config.source}: only one class, '{decoded.class_names[0]}', expected at least two; "
            "add images of another class",
            kind="empty",
            key="data.source",
        )
    bounds = np.cumsum([0, *decoded.sizes.values()])
    index = {part: np.arange(bounds[i], bounds[i + 1]) for i, part in enumerate(decoded.sizes)}
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
        for part in ("train", "validation"):
            if part in index and config.images < available:
                index[part] = division.thin(index[part], config.images / available)
    if "validation" not in index:
        index["train"], index["validation"] = division.cut(index["train"], config.validation, "validation")
    mean, std = _statistics(decoded.images, index["train"], config.seed)
    parts = {
        name: Part(decoded.images, np.sort(rows), torch.from_numpy(decoded.labels[np.sort(rows)]), classes, mean, std)
        for name, rows in index.items()
    }
    notes = [*source.notes, *decoded.notes]
    if parts["test"].absent:
        absent = classes_have([decoded.class_names[number] for number in parts["test"].absent])
        notes.append(f"data {config.source}: {absent} no test images, so metrics of the test part leave them out")
    split = [content_hash, config.validation, config.test, config.images, config.seed]
    return ImageData(
        shape=parts["train"].shape,
        class_names=decoded.class_names,
        train=parts["train"],
        validation=parts["validation"],
        mean=mean,
        std=std,
        fingerprint=digest(split),
        notes=tuple(notes),
        groups=decoded.groups,
        input=decoded.input,
        _test=parts["test"],
    )


def stratified(labels: np.ndarray, share: float, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Return positions of a share of `labels`, equal for every class to the nearest image, at least one of each."""
    shuffled = rng.permutation(len(labels))
    # rank of every image among its class, as a share: taking the smallest ones takes equally from all classes
    ranks = np.zeros(len(labels))
    for number in range(classes):
        members = np.flatnonzero(labels[shuffled] == number)
        ranks[members] = np.arange(len(members)) / max(1, len(members))
    return shuffled[np.argsort(ranks, kind="stable")[: max(classes, round(len(labels) * share))]]


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
                f"for what it is taken from; every class needs at least one image in each split: {more}",
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
        rest, part = self._split(rows, taken)
        for piece in (rest, part):
            absent = np.setdiff1d(np.arange(classes), self.labels[piece])
            if len(absent):
                name = self.class_names[absent[0]]
                raise DataError(
                    f"{where}: class '{name}' has too few images ({counts[absent[0]]}) for a {what} share of "
                    f"{share:g}; {self._advice(rows, share, what)}",
                    kind="empty",
                )
        return rest, part

    def _split(self, rows: np.ndarray, taken: int) -> tuple[np.ndarray, np.ndarray]:
        """Split off this many of `rows`, stratified; groups stay whole, so their number may differ a bit."""
        labels = self.labels[rows]
        if self.groups is not None:
            first, second = groups.split(labels, self.groups[rows], taken / len(rows), self.config.seed)
            return rows[first], rows[second]
        rest, part = train_test_split(rows, test_size=taken, stratify=labels, random_state=self.config.seed)
        return rest, part

    def _advice(self, rows: np.ndarray, share: float, what: str) -> str:
        """Advise which share, nearest to `share` in hundredths, leaves every class in both pieces."""
        classes = len(self.class_names)
        fewest = int(np.bincount(self.labels[rows], minlength=classes).min())
        kept = 2 if what == "test" else 1  # of each class: the validation part is divided off the rest

        def works(taken: int) -> bool:
            rest, part = (np.bincount(self.labels[piece], minlength=classes) for piece in self._split(rows, taken))
            return bool(rest.min() >= kept and part.min() >= 1)

        for other in sorted((number / 100 for number in range(1, 100)), key=lambda other: abs(other - share)):
            taken = round(len(rows) * other)
            enough = min(other, 1 - other) * fewest >= 0.5 and classes <= taken <= len(rows) - classes
            if enough and works(taken):
                return f"use --set data.{what}={other:g}, or add images"
        return "add images"


def _statistics(images: np.ndarray, rows: np.ndarray, seed: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of the training split, pixels scaled to 0..1."""
    if len(rows) > STATISTICS_IMAGES:
        rows = np.sort(np.random.default_rng(seed).choice(rows, STATISTICS_IMAGES, replace=False))
    levels = np.arange(256) / 255
    counts = np.zeros((images.shape[1], 256))
    for start in range(0, len(rows), 4096):
        piece = images[rows[start : start + 4096]]
        for channel in range(images.shape[1]):
            counts[channel] += np.bincount(piece[:, channel].ravel(), minlength=256)
    shares = counts / counts.sum(1, keepdims=True)
    mean = shares @ levels
    std = np.sqrt((shares * (levels[None] - mean[:, None]) ** 2).sum(1))
    return tuple(mean.tolist()), tuple(np.maximum(std, 1e-3).tolist())
