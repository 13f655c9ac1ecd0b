"""Common form of every data source: one array of bytes, labels, and the number of images of each split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.nn.functional import interpolate

from nasforge.core.errors import DataError
from nasforge.data.input_rule import InputRule

Allocate: TypeAlias = Callable[[tuple[int, ...]], np.ndarray]
"""Gives a uint8 array of a shape to fill: in memory, or a file of the cache."""

SPLITS = ("train", "validation", "test")
_MOST_NAMES = 5


@dataclass(frozen=True)
class Decoded:
    """A source's images, decoded.

    Attributes:
        images: uint8, N x C x H x W: the training split, then validation and test where the source has them.
        labels: int64, class numbers from 0.
        sizes: split -> number of images, in the order of `SPLITS`.
        class_names: one per class.
        notes: sentences for the user about what decoding changed or left out; not part of the content.
        groups: int64, group of each training and validation image, in this order; groups stay on one side of every
            split. None: images are independent.
        input: how an image file becomes such pixels; None: by today's rule of `InputRule`.
    """

    images: np.ndarray
    labels: np.ndarray
    sizes: dict[str, int]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    input: InputRule | None = None

    def content_hash(self) -> str:
        """Return the SHA-256 of the images, the labels, the splits, the classes' names and the groups."""
        state = hashlib.sha256(repr((self.images.shape, self.sizes, self.class_names)).encode())
        for start in range(0, len(self.images), 4096):
            state.update(np.ascontiguousarray(self.images[start : start + 4096]).data)
        state.update(np.ascontiguousarray(self.labels).data)
        if self.groups is not None:
            state.update(np.ascontiguousarray(self.groups).data)
        return state.hexdigest()


@dataclass(frozen=True)
class Source:
    """A data set that was found but not read yet.

    Attributes:
        key: names its content for the cache (paths, sizes, times of change); None to read it again in every process.
        read: decodes it into an array that it asks `Allocate` for.
        notes: sentences for the user about what was found and is not read, without a full stop.
    """

    key: Any
    read: Callable[[Allocate], Decoded]
    notes: tuple[str, ...] = ()


def malformed(decoded: object) -> str:
    """Return why a plug-in's data set does not have the form of `Decoded`; empty if it has."""
    if not isinstance(decoded, Decoded):
        return f"its source read a {type(decoded).__name__}, expected a nasforge.data.decoded.Decoded"
    images, labels, names = decoded.images, decoded.labels, decoded.class_names
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        got = f"{images.dtype} of shape {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        return f"its images are {got}, expected uint8, N x C x H x W"
    if images.shape[3] <= 4 < min(images.shape[1:3]):
        return f"its images are {' x '.join(map(str, images.shape))}, expected N x C x H x W: the channels come second"
    if not isinstance(labels, np.ndarray) or labels.dtype != np.int64 or labels.shape != (len(images),):
        got = f"{labels.dtype} of shape {labels.shape}" if isinstance(labels, np.ndarray) else type(labels).__name__
        return f"its labels are {got}, expected int64 of shape ({len(images)},)"
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
        return (
            f"its labels go from {labels.min()} to {labels.max()}, expected 0 to {len(names) - 1}, one for each class"
        )
    if not {*decoded.sizes} <= {*SPLITS} or sum(decoded.sizes.values()) != len(images):
        return f"its sizes are {decoded.sizes}, expected numbers for {', '.join(SPLITS)} that add up to {len(images)}"
    return ""


def classes_have(names: Sequence[str]) -> str:
    """Begin a sentence about classes, as in `class 'a' has` or `classes 'a', 'b' and 3 more have`."""
    some = ", ".join(map(repr, names[:_MOST_NAMES]))
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"class {some} has" if len(names) == 1 else f"classes {some}{more} have"


def number_classes(
    labels: Sequence[np.ndarray], names: Sequence[str] | None, where: str
) -> tuple[list[np.ndarray], tuple[str, ...], tuple[str, ...]]:
    """Turn labels of any kind into class numbers 0..K-1.

    Without names the classes are called by their labels, in sorted order. With names, labels that are texts are looked
    up among them, and whole numbers are their indices; classes keep the order of the names. Other numbers, such as
    1..K, are named in sorted order.

    Args:
        labels: one array per split, the training split first.
        names: of the classes.
        where: the source, for messages.

    Returns:
        Class numbers per split, the classes' names, and notes for the user.

    Raises:
        DataError: labels and names do not fit, or a class has no training images.
    """
    kinds = {array.dtype.kind == "U" for array in labels}
    if len(kinds) > 1:
        raise DataError(
            f"{where}: the labels of one split are texts and those of another numbers; save them alike", kind="type"
        )
    known = np.unique(labels[0])
    for other in labels[1:]:
        strange = np.setdiff1d(other, known)
        if len(strange):
            raise DataError(
                f"{where}: label {strange[0]!s} is not among the training labels; every class needs training images",
                kind="unknown",
            )
    chosen, notes = [str(label) for label in known], list[str]()
    if names is not None:
        known, chosen, notes = _named(known, names, where)
    order = np.argsort(known, kind="stable")
    numbered = [order[np.searchsorted(known, split, sorter=order)].astype(np.int64) for split in labels]
    return numbered, tuple(chosen), tuple(notes)


def _named(known: np.ndarray, names: Sequence[str], where: str) -> tuple[np.ndarray, list[str], list[str]]:
    """Return the labels in the order of their classes, the class names, and notes; `known`: sorted, each once."""
    if known.dtype.kind == "U":
        nameless = [str(label) for label in known if label not in names]
        if nameless:
            raise DataError(
                f"{where}: label '{nameless[0]}' is not among the class_names {_listed(names)}; name it there, or save "
                "labels as indices into class_names",
                kind="unknown",
            )
        used = [name for name in names if name in known]
        return np.array(used), used, _unused(names, used, where)
    if known.dtype.kind in "iu" and known.min() >= 0 and known.max() < len(names):
        used = [names[int(label)] for label in known]
        return known, used, _unused(names, used, where)
    if len(names) != len(known):
        raise DataError(
            f"{where}: {len(names)} class_names for {len(known)} different labels; give one name per class",
            kind="conflict",
        )
    pairs = ", ".join(f"{label} is '{name}'" for label, name in zip(known[:8], names, strict=False))
    more = " ..." if len(known) > 8 else ""
    note = f"{where}: labels are not indices into class_names, so they are named in sorted order: {pairs}{more}"
    return known, list(names), [note]


def _unused(names: Sequence[str], used: Sequence[str], where: str) -> list[str]:
    left = [name for name in names if name not in used]
    return [f"{where}: class {_listed(left)} has no training images and is left out"] if left else []


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:8]) + (" ..." if len(names) > 8 else "")


def resized(images: np.ndarray, resolution: int | None) -> np.ndarray:
    """Resize uint8 images N x C x H x W to `resolution` x `resolution` pixels, bilinear with anti-aliasing."""
    if resolution is None or images.shape[2:] == (resolution, resolution):
        return images
    pieces = []
    for start in range(0, len(images), 4096):
        piece = torch.from_numpy(np.ascontiguousarray(images[start : start + 4096])).float()
        scaled = interpolate(piece, (resolution, resolution), mode="bilinear", antialias=True)
        pieces.append(scaled.round().clamp(0, 255).to(torch.uint8).numpy())
    return np.concatenate(pieces)
