"""A data set divided into train, validation and a sealed test split."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch

from nasforge.core.architecture import digest
from nasforge.core.image_counts import ImageCounts
from nasforge.data import cache, sources
from nasforge.data.decoded import classes_have
from nasforge.data.division import divided, stratified
from nasforge.data.input_rule import InputRule
from nasforge.data.split import Split
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
        mean: of the training split per channel, images scaled to 0..1.
        std: likewise.
        fingerprint: hash of the images, labels and their division; equal data, equal fingerprints.
        notes: sentences for the user about what of the source is read and how, without a full stop.
        groups: of all training and validation images of the source, by their row in `Split.pixels`; each group is on
            one side of every split. None: images are independent.
        input: how an image file becomes an input; None: squashed to height and width, as `InputRule` has it.
    """

    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    notes: tuple[str, ...]
    groups: np.ndarray | None
    input: InputRule | None
    _test: Split = field(repr=False)
    _shares: dict[float, Split] = field(default_factory=dict, repr=False)

    @property
    def test_images(self) -> int:
        """Number of images of the sealed test split."""
        return len(self._test)

    def open_test(self) -> Split:
        """Return the sealed test split. Only retraining a finalist opens it, once per network; the journal says so."""
        return self._test

    def counts(self, validated: Split) -> ImageCounts:
        """Return the numbers of images, where networks are validated on this split."""
        sizes = torch.bincount(validated.labels, minlength=validated.classes)
        images = len(validated)
        return ImageCounts(len(self.train), images, validated.classes, int(sizes.max()) / max(1, images))

    def share_of_train(self, share: float) -> Split:
        """Return a share of the training split, equal for every class; a smaller share is a subset of a larger one."""
        if share == 1.0:
            return self.train
        if share not in self._shares:
            rng = np.random.default_rng(0)  # the same images for every trial
            rows = stratified(self.train.labels.numpy(), share, len(self.class_names), rng)
            self._shares[share] = self.train.subset(torch.from_numpy(np.sort(rows)))
        return self._shares[share]

    def groups_of(self, split: Split) -> np.ndarray | None:
        """Return the group of each image of a split of training and validation images; None: independent images."""
        return None if self.groups is None else self.groups[split.index]

    def train_and_validation(self) -> Split:
        """Return both splits together, for retraining; normalised as the training split is."""
        index = np.concatenate([self.train.index, self.validation.index])
        labels = torch.cat([self.train.labels, self.validation.labels])
        return replace(self.train, index=index, labels=labels, _resident={})


@lru_cache(maxsize=4)  # a ladder may hold the images at several resolutions
def load_data(config: DataConfig) -> ImageData:
    """Load the data set of `config`, decoded and split; this process caches it from trial to trial.

    The division is stratified and depends on `config.seed` alone. A source's own validation and test splits are used as
    they are; otherwise `config.test` of all images is sealed away first, then `config.validation` of the rest.

    Raises:
        DataError: the source is missing or malformed, or has too few images of a class.
    """
    source = sources.find(config)
    decoded, content_hash = cache.decoded(source)
    classes = len(decoded.class_names)
    index = divided(config, decoded)
    mean, std = _statistics(decoded.images, index["train"], config.seed)
    splits = {
        name: Split(decoded.images, np.sort(rows), torch.from_numpy(decoded.labels[np.sort(rows)]), classes, mean, std)
        for name, rows in index.items()
    }
    notes = [*source.notes, *decoded.notes]
    if splits["test"].absent:
        absent = classes_have([decoded.class_names[number] for number in splits["test"].absent])
        notes.append(f"data {config.source}: {absent} no test images, so metrics of the test split leave them out")
    facts = [content_hash, config.validation, config.test, config.images, config.seed]
    return ImageData(
        shape=splits["train"].shape,
        class_names=decoded.class_names,
        train=splits["train"],
        validation=splits["validation"],
        mean=mean,
        std=std,
        fingerprint=digest(facts),
        notes=tuple(notes),
        groups=decoded.groups,
        input=decoded.input,
        _test=splits["test"],
    )


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
