"""A first look at a data set, before anything is trained: what it holds, and what will not be used."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nasforge import registry
from nasforge.core.architecture import digest
from nasforge.core.errors import DataError
from nasforge.data import cache, image_folder, label_table, sources
from nasforge.data.decoded import SPLITS, classes_have
from nasforge.data.groups import chains, joined
from nasforge.data.image_file import in_threads, shown
from nasforge.data.looks import Look, exact_duplicates, look_at_arrays, look_at_file, near_duplicates
from nasforge.settings.experiment import DataConfig
from nasforge.views.rounding import percent

MOST_UNREADABLE = 0.05
"""Share of the images that may be unreadable."""
LEAST_OF_A_CLASS = 5
"""Images that a class needs to be used."""
LEAST_IMAGES = 20
"""Images that a data set needs."""
_ALWAYS = 5000
"""Least images of a share; every class has at least `_LEAST_OF_SHARE` of its images in it."""
_LEAST_OF_SHARE = 20
_TIMED = 200
"""Images whose look is timed."""
_LEAST_GROUPS = 3
"""Groups of a class: one to train, one to validate, one to test."""
_MOST_ALIKE = 0.1
"""Share of all images in one set of near duplicates above which they say nothing: all images look alike."""


@dataclass(frozen=True)
class Row:
    """An image that will be used.

    Attributes:
        name: path inside the folder, or the split and row of an array.
        file: where it is; empty for an array.
        row: of the array; -1 for a file.
        label: its class.
        split: train, validation or test, as the source has it.
        group: number of its group: images of a patient or video, and near duplicates.
    """

    name: str
    file: str
    row: int
    label: str
    split: str
    group: int


@dataclass(frozen=True)
class Inspection:
    """Content of a data set, with the images and classes that are left out.

    Attributes:
        source: name, file or folder.
        labels: the table of labels; None: folders or arrays say the classes.
        data_dir: folder of torchvision's downloads; None: its usual place.
        classes: class -> images that will be used, in the order of the classes.
        images: number of images that will be used.
        channels: 1 where all of them are grey, else 3; an array's own number where it has 2 or 4.
        shorter_side: smallest, median and largest shorter side in pixels.
        parts: split -> images, of the splits that the source has.
        groups: number of groups; None where there is neither a column of groups nor a near duplicate.
        imbalance: images of the largest class, divided by those of the smallest.
        unreadable: image -> reason.
        left_out: class -> reason.
        duplicates: sets of images with equal content.
        near_duplicates: sets of images that nearly repeat each other, without the sets above.
        two_labels: sets of images with equal content and different classes, each as `image: class`.
        notes: sentences for the user, without a full stop.
        data_hash: of the images that will be used, their classes, splits and groups.
        rows: the images that will be used; not part of `to_json`.
    """

    source: str
    labels: str | None
    data_dir: str | None
    classes: Mapping[str, int]
    images: int
    channels: int
    shorter_side: tuple[int, int, int]
    parts: Mapping[str, int]
    groups: int | None
    imbalance: float
    unreadable: Mapping[str, str]
    left_out: Mapping[str, str]
    duplicates: tuple[tuple[str, ...], ...]
    near_duplicates: tuple[tuple[str, ...], ...]
    two_labels: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    data_hash: str
    rows: tuple[Row, ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form, without the rows."""
        return asdict(replace(self, rows=())) | {"rows": len(self.rows)}


@dataclass(frozen=True)
class _Image:
    """An image of the source, before the look at it."""

    name: str
    label: str
    split: str
    file: Path | None = None
    row: int = -1
    group: str | None = None


@dataclass
class _Listing:
    """Images and classes that a source lists, before any image is read."""

    images: list[_Image]
    order: Sequence[str]
    look: Callable[[Sequence[_Image]], Iterable[Look | str]]
    notes: list[str]
    channels: int | None = None
    """Of an array; None for files."""


def inspect(
    source: str | Path,
    *,
    labels: str | Path | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    data_dir: str | Path | None = None,
    strict: bool = False,
    seconds: float | None = None,
) -> Inspection:
    """Look at every image of a data set.

    Unreadable images, and classes with fewer than 5 images, are left out and listed.

    Args:
        source: a folder of classes, a folder with train, val and test, a `.npz` file, or a registered name.
        labels: a CSV file with a line per image of the folder `source`.
        image_column: title of its column of images; None finds it by its title.
        label_column: likewise of the classes.
        group_column: likewise of groups that stay on one side of every split, such as patients or videos.
        data_dir: where torchvision keeps its downloads.
        seconds: that the look may take, about; of more images than can be looked at in this time a share of every class
            is used. None: all images are.
        strict: True refuses a data set of which anything would be left out, or where an image has two classes.

    Raises:
        DataError: the source is missing; more than 5 % of the images are unreadable; fewer than two classes or fewer
            than 20 images remain.
    """
    columns = {"--image-column": image_column, "--label-column": label_column, "--group-column": group_column}
    if labels is None and (table_options := [option for option, title in columns.items() if title is not None]):
        raise DataError(
            f"{table_options[0]} names a column of a table of labels; give the table with --labels",
            kind="missing",
            key="labels",
        )
    if labels is None:
        images = _of_source(str(source), data_dir)
    else:
        images = _of_table(Path(source), Path(labels), image_column, label_column, group_column)
    if seconds is not None:
        images = _share(str(source), images, seconds)
    return _inspected(str(source), labels, data_dir, images, strict)


def _of_source(source: str, data_dir: str | Path | None) -> _Listing:
    """Find the images of a folder, or of arrays."""
    folder = Path(source)
    config = DataConfig(source, folder=str(data_dir) if data_dir else None)
    if folder.is_dir() and source not in registry.names("data"):
        listed, notes = image_folder.listing(folder)
        images = [
            _Image(str(file.relative_to(folder)), label, split, file)
            for split, files in listed.items()
            for file, label in files
        ]
        return _Listing(images, sorted({image.label for image in images}), _look_at_files, list(notes))
    there = sources.find(config)
    decoded, _ = cache.decoded(there)
    for number, name in enumerate(decoded.class_names):
        if not name.strip():
            raise DataError(
                f"data {source}: {int((decoded.labels == number).sum())} image(s) have the empty label '{name}' in "
                "y_train, y_val or y_test. Give every image a label, or leave these images out",
                kind="missing",
                key="y_train",
            )
    parts = [split for split, count in decoded.sizes.items() for _ in range(count)]
    rows = [row for count in decoded.sizes.values() for row in range(count)]
    groups: list[str | None] = [] if decoded.groups is None else [str(group) for group in decoded.groups]
    images = [
        _Image(
            f"{split}/{row}", decoded.class_names[label], split, row=at, group=groups[at] if at < len(groups) else None
        )
        for at, (split, row, label) in enumerate(zip(parts, rows, decoded.labels.tolist(), strict=True))
    ]

    def look(chosen: Sequence[_Image]) -> Iterable[Look | str]:
        return look_at_arrays(decoded.images, [image.row for image in chosen])

    return _Listing(images, decoded.class_names, look, [*there.notes, *decoded.notes], decoded.images.shape[1])


def _of_table(
    folder: Path, table: Path, image_column: str | None, label_column: str | None, group_column: str | None
) -> _Listing:
    """Find the images that a table of labels names."""
    if not folder.is_dir():
        raise DataError(
            f"data {shown(folder)}: --labels needs a folder of images, and there is none. Check the path",
            kind="missing",
            key="labels",
        )
    rows, notes = label_table.read_table(table, folder, image_column, label_column, group_column)
    images = list(
        dict.fromkeys(
            _Image(row.name, row.label, row.split or "train", row.file or folder / row.name, group=row.group)
            for row in rows
        )
    )
    if len(images) < len(rows):
        notes.append(f"{shown(table)}: {len(rows) - len(images)} line(s) repeat an earlier one, left out")
    names = {image.label for image in images}
    numeric = all(name.removeprefix("-").isdecimal() for name in names)
    return _Listing(images, sorted(names, key=int if numeric else str), _look_at_files, notes)


def _share(source: str, listing: _Listing, seconds: float) -> _Listing:
    """Keep as many images as can be looked at in this time, the same share of every class of every split."""
    total = len(listing.images)
    if total <= _ALWAYS:
        return listing
    began = time.monotonic()
    few = listing.images[:: total // _TIMED]
    list(listing.look(few))
    share = max(_ALWAYS, seconds / (time.monotonic() - began) * len(few)) / total
    if share >= 1:
        return listing
    members: dict[tuple[str, str], list[int]] = {}
    for number, image in enumerate(listing.images):
        members.setdefault((image.split, image.label), []).append(number)
    rng = np.random.default_rng(0)
    kept = sorted(
        number
        for numbers in members.values()
        for number in rng.permutation(numbers)[: max(_LEAST_OF_SHARE, math.ceil(share * len(numbers)))].tolist()
    )
    if len(kept) == total:
        return listing
    note = (
        f"data {shown(source)}: {len(kept):,} of {total:,} images are used, the same share of every class, because all "
        "would take too long to read; give more time to use more"
    )
    return replace(listing, images=[listing.images[number] for number in kept], notes=[*listing.notes, note])


def _look_at_files(images: Sequence[_Image]) -> Iterable[Look | str]:
    files = (image.file for image in images if image.file is not None)
    return in_threads(look_at_file, files, len(os.sched_getaffinity(0)))


def _inspected(
    source: str, labels: str | Path | None, data_dir: str | Path | None, listing: _Listing, strict: bool
) -> Inspection:
    where = f"data {shown(source)}"
    images, looks, unreadable = list[_Image](), list[Look](), dict[str, str]()
    for image, look in zip(listing.images, listing.look(listing.images), strict=True):
        if isinstance(look, str):
            unreadable[shown(image.name)] = look
        else:
            images.append(image)
            looks.append(look)
    _check_readable(where, unreadable, len(listing.images), strict)
    same = exact_duplicates(looks)
    two_labels = _with_two_labels(images, same)
    if strict and two_labels:
        raise DataError(
            f"{where}: {len(two_labels)} image(s) with two classes, such as {' and '.join(two_labels[0][:2])}; "
            "keep one of them, or leave --strict out",
            kind="conflict",
        )
    notes = list(listing.notes)
    near = _sets(len(looks), near_duplicates(looks))
    if near and len(max(near, key=len)) > max(_LEAST_GROUPS, _MOST_ALIKE * len(looks)):
        notes.append(
            f"{where}: {len(max(near, key=len))} of {len(looks)} images look alike, so near duplicates cannot be "
            "detected; only equal images are kept together. If images come from patients or videos, set --group-column"
        )
        near = []
    groups = _groups(images, same, near)
    left_out = _small_classes(images, groups)
    if strict and left_out:
        name, reason = next(iter(left_out.items()))
        raise DataError(f"{where}: class '{name}' has {reason}; add images, or leave --strict out", kind="range")
    kept = [number for number, image in enumerate(images) if image.label not in left_out]
    _check_enough(where, {images[number].label for number in kept}, len(kept), left_out)
    # groups keep their numbers when images are left out: a group is known by its first image
    rows = tuple(
        Row(
            image.name,
            "" if image.file is None else str(image.file),
            image.row,
            image.label,
            image.split,
            int(groups[number]),
        )
        for number, image in ((number, images[number]) for number in kept)
    )
    counts = Counter(row.label for row in rows)
    classes = {name: counts[name] for name in listing.order if name in counts}
    sides = sorted(looks[number].shorter_side for number in kept)
    sized = Counter(row.split for row in rows)
    parts = {split: sized[split] for split in SPLITS if split in sized}
    notes += _across_parts(where, rows, parts, classes)
    channels = 1 if all(looks[number].grey for number in kept) else 3
    content = [
        [row.name, row.label, row.split, row.group, looks[at].digest] for row, at in zip(rows, kept, strict=True)
    ]
    several = Counter(row.group for row in rows)
    return Inspection(
        source=source,
        labels=None if labels is None else str(labels),
        data_dir=None if data_dir is None else str(data_dir),
        classes=classes,
        images=len(rows),
        channels=channels if listing.channels in (None, 3) else int(listing.channels or 0),
        shorter_side=(sides[0], sides[len(sides) // 2], sides[-1]),
        parts=parts,
        groups=len(several) if len(several) < len(rows) else None,
        imbalance=max(classes.values()) / min(classes.values()),
        unreadable=unreadable,
        left_out=left_out,
        duplicates=_names_of(same, images, left_out),
        near_duplicates=_names_of(near, images, left_out),
        two_labels=two_labels,
        notes=tuple(notes),
        data_hash=digest(content),
        rows=rows,
    )


def _check_readable(where: str, unreadable: Mapping[str, str], total: int, strict: bool) -> None:
    """Refuse a source with many unreadable images, or with any where `strict`. Raises DataError."""
    if not unreadable or not (strict or len(unreadable) > MOST_UNREADABLE * total):
        return
    some = "; ".join(f"{name}: {reason}" for name, reason in list(unreadable.items())[:3])
    more = f"; and {len(unreadable) - 3} more" if len(unreadable) > 3 else ""
    allowed = "none" if strict else f"at most {percent(MOST_UNREADABLE)}"
    raise DataError(
        f"{where}: {len(unreadable)} of {total} images cannot be read, expected {allowed} ({some}{more}). "
        f"Repair or remove them{', or leave --strict out' if strict else ''}",
        kind="unreadable",
    )


def _check_enough(where: str, classes: set[str], images: int, left_out: Mapping[str, str]) -> None:
    """Refuse what is too little to learn from. Raises DataError."""
    without = "".join(f"; class '{name}' has {reason}" for name, reason in list(left_out.items())[:3])
    if len(classes) < 2:
        raise DataError(
            f"{where}: {len(classes)} class(es) with enough images, expected two or more{without}. Add images",
            kind="empty",
        )
    if images < LEAST_IMAGES:
        raise DataError(
            f"{where}: {images} images, expected at least {LEAST_IMAGES}{without}. Add images", kind="empty"
        )


def _with_two_labels(images: Sequence[_Image], same: Iterable[Sequence[int]]) -> tuple[tuple[str, ...], ...]:
    """Return the sets of equal images, numbers in `same`, that have more than one label."""
    return tuple(
        tuple(f"{shown(images[number].name)}: {images[number].label}" for number in numbers)
        for numbers in same
        if len({images[number].label for number in numbers}) > 1
    )


def _sets(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return the sets of two or more images that pairs join."""
    members: dict[int, list[int]] = {}
    for number, group in enumerate(joined(count, pairs).tolist()):
        members.setdefault(group, []).append(number)
    return [one for one in members.values() if len(one) > 1]


def _names_of(
    sets: Iterable[Sequence[int]], images: Sequence[_Image], left_out: Mapping[str, str]
) -> tuple[tuple[str, ...], ...]:
    """Return the names in each set of like images, without the classes left out; sets of one are dropped."""
    kept = (
        [shown(images[number].name) for number in numbers if images[number].label not in left_out] for numbers in sets
    )
    return tuple(tuple(names) for names in kept if len(names) > 1)


def _groups(images: Sequence[_Image], *together: Iterable[Sequence[int]]) -> np.ndarray:
    """Return the group of each image: those of the table's groups, and those of equal or nearly equal content."""
    named: dict[str, list[int]] = {}
    for number, image in enumerate(images):
        if image.group is not None:
            named.setdefault(image.group, []).append(number)
    return joined(len(images), (pair for sets in (named.values(), *together) for pair in chains(sets)))


def _small_classes(images: Sequence[_Image], groups: np.ndarray) -> dict[str, str]:
    """Return the classes that are left out, with the reason."""
    members: dict[str, list[int]] = {}
    for number, image in enumerate(images):
        members.setdefault(image.label, []).append(number)
    divided = len({image.split for image in images}) > 1
    reasons = {}
    for name, numbers in members.items():
        learnt = [number for number in numbers if images[number].split == "train"]
        many = len(set(groups[learnt].tolist()))
        if len(learnt) < LEAST_OF_A_CLASS:
            kind = "training image(s)" if divided else "image(s)"
            reasons[name] = f"{len(learnt)} {kind}, expected {LEAST_OF_A_CLASS} or more"
        elif many < _LEAST_GROUPS:
            reasons[name] = f"images of {many} group(s) (patients, videos, near duplicates), expected {_LEAST_GROUPS}"
    return dict(sorted(reasons.items()))


def _across_parts(
    where: str, rows: Sequence[Row], parts: Mapping[str, int], classes: Mapping[str, int]
) -> Iterable[str]:
    """Say which images of a given split are in the training split too, and which classes it lacks."""
    known = {row.group for row in rows if row.split == "train"}
    for split in parts:
        twice = [row for row in rows if row.split == split and row.group in known] if split != "train" else []
        if twice:
            yield (
                f"{where}: {len(twice)} image(s) of the {split} split repeat a training image, or share its group, so "
                f"metrics of that split are too good (the first is {shown(twice[0].name)})"
            )
        there = {row.label for row in rows if row.split == split}
        absent = [name for name in classes if name not in there]
        if absent and split != "train":
            yield f"{where}: {classes_have(absent)} no {split} images, so metrics of that split leave them out"
