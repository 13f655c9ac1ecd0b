"""Decode a data set once: all images at one resolution, divided into train and test, in one `.npz` file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from nasforge.api.inspect import Inspection
from nasforge.core.errors import DataError
from nasforge.data import cache, groups, sources
from nasforge.data.image_file import fitted, in_threads, read_image, shown, why_unreadable
from nasforge.data.input_rule import InputRule, prepared
from nasforge.data.npz import write_npz
from nasforge.settings.experiment import DataConfig

FILE = "images.npz"
RESOLUTIONS = (28, 32, 48, 64, 96, 128)
"""Heights and widths that images of other sizes are brought to."""
_PIXELS_A_SECOND = 6e6
"""That a small ResNet trains on two CPU cores: 2,062 images of 48 x 48 pixels 40 times in 31 s."""
_TRAINING_IMAGES = 19_200
"""Images that a training sees at least: 600 steps of 32."""
_PASSES = 20
"""Times that a training sees each image, at least."""
_MOST_SEEN = 200_000
"""Images that a training need not see more of: of more images a share is enough to compare networks."""
_KEPT = 32
"""Images of one size up to this many pixels keep it: the next smaller size saves less than it loses."""
_SHARE = 0.08
"""Of the time, that one training may take."""


def suggested_resolution(inspection: Inspection, seconds: float) -> int:
    """Return the height and width at which the images can be trained in the time.

    The largest of `RESOLUTIONS` up to the median shorter side at which one training takes 8 % of the time. Images of
    one size up to 128 pixels may keep it; those up to 32 pixels, and smaller ones than the least of `RESOLUTIONS`,
    always do.

    Args:
        inspection: of the images.
        seconds: for everything, on two CPU cores.
    """
    smallest, median, largest = inspection.shorter_side
    sizes = {size for size in RESOLUTIONS if size <= median}
    if smallest == largest <= RESOLUTIONS[-1] or not sizes:
        sizes.add(median)
    if smallest == largest <= _KEPT:
        return median
    seen = max(_TRAINING_IMAGES, min(_MOST_SEEN, _PASSES * inspection.images))
    affordable = [size for size in sizes if seen * size**2 / _PIXELS_A_SECOND <= _SHARE * seconds]
    return max(affordable, default=min(sizes))


def prepare(
    inspection: Inspection,
    folder: Path,
    resolution: int,
    *,
    test: float = 0.2,
    validation: float | None = None,
    seed: int = 0,
) -> Path:
    """Decode the images of an inspection and write them as `images.npz`, which every `--data` takes.

    The file holds `x_train`, `y_train`, `x_test`, `y_test`, where there is a validation split `x_val` and `y_val`, and
    `class_names`. `groups` has the group of each training and then validation image, and is there only where two images
    share one. `files` has the images' names, in the order train, validation, test. `input` is the rule by which
    `nasforge predict` reads files; it is absent for arrays of 2 or 4 channels.

    A validation and a test split of the source are kept. Otherwise they are divided off, with the same share of each
    class and each group on one side.

    Args:
        inspection: says which images, and their groups.
        folder: where `images.npz` is written; made where it is missing.
        resolution: height and width; the shorter side is resized to it, and the centre cut out.
        test: share of all images, where the source has no test split.
        validation: share of the images that are left; None divides none off.
        seed: of the division.

    Returns:
        The file.

    Raises:
        DataError: an image has vanished since the inspection, or the file cannot be written.
    """
    index = {split: np.flatnonzero([row.split == split for row in inspection.rows]) for split in inspection.parts}
    names = tuple(inspection.classes)
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[row.label] for row in inspection.rows], np.int64)
    group = np.array([row.group for row in inspection.rows], np.int64)
    for split, share in (("test", test), ("validation", validation)):
        if split not in index and share is not None:
            first, second = groups.split(labels[index["train"]], group[index["train"]], share, seed)
            index["train"], index[split] = index["train"][first], index["train"][second]
    rule = prepared(inspection.channels) if inspection.channels in (1, 3) else None
    shape = (resolution, resolution, inspection.channels)
    pixels = {split: np.empty((len(rows), *shape), np.uint8) for split, rows in index.items()}
    place = {number: (split, at) for split, rows in index.items() for at, number in enumerate(rows.tolist())}
    for number, image in enumerate(_images(inspection, rule, resolution)):
        split, at = place[number]
        pixels[split][at] = np.moveaxis(image, 0, -1)
    order = [split for split in ("train", "validation", "test") if split in index]
    arrays = dict[str, np.ndarray]()
    for split in order:
        suffix = "val" if split == "validation" else split
        arrays[f"x_{suffix}"] = pixels[split]
        arrays[f"y_{suffix}"] = labels[index[split]]
    arrays["class_names"] = np.array(names, dtype=np.str_)
    learnt = np.concatenate([group[index[split]] for split in order if split != "test"])
    if len(np.unique(learnt)) < len(learnt):
        arrays["groups"] = learnt
    arrays["files"] = np.array([inspection.rows[number].name for split in order for number in index[split]], np.str_)
    if rule is not None:
        arrays["input"] = np.array(json.dumps(rule.to_json()))
    return write_npz(folder / FILE, arrays)


def _images(inspection: Inspection, rule: InputRule | None, resolution: int) -> Iterator[np.ndarray]:
    """Yield the pixels of each row, C x H x W, in their order."""
    size = (resolution, resolution)
    files = [Path(row.file) for row in inspection.rows if row.file]
    if files:
        assert rule is not None  # noqa: S101
        workers = len(os.sched_getaffinity(0))
        yield from in_threads(lambda file: _read_again(file, rule, size), files, workers)
        return
    folder = inspection.data_dir
    decoded, _ = cache.decoded(sources.find(DataConfig(inspection.source, folder=folder)))
    if decoded.images.shape[1:] == (inspection.channels, *size):
        yield from (decoded.images[row.row] for row in inspection.rows)
        return
    for row in inspection.rows:
        yield _fitted_array(np.asarray(decoded.images[row.row]), inspection.channels, size)


def _read_again(file: Path, rule: InputRule, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels of a file that the inspection has read."""
    try:
        return read_image(file, rule, size).pixels
    except DataError as error:
        raise DataError(
            f"image {shown(file)} has changed since the inspection ({why_unreadable(file, error)}). Leave the "
            "images as they are, and run the same command, which inspects them again",
            kind="changed",
        ) from error


def _fitted_array(pixels: np.ndarray, channels: int, size: tuple[int, int]) -> np.ndarray:
    """Return an image of an array at `size`, as the rule of files has it; a grey one of three channels as one."""
    if channels == 1 and len(pixels) == 3:
        pixels = np.asarray(Image.fromarray(np.moveaxis(pixels, 0, -1)).convert("L"))[None]
    rule = prepared(1)
    return np.stack([np.asarray(fitted(Image.fromarray(np.ascontiguousarray(band)), rule, size)) for band in pixels])
