"""A folder of images: one folder per class, either directly or inside `train/`, `val/` and `test/`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from nasforge.core.architecture import digest
from nasforge.core.command_line import command_line
from nasforge.core.errors import DataError, did_you_mean
from nasforge.data.decoded import SPLITS, Allocate, Decoded, Source, classes_have
from nasforge.data.image_file import SUFFIXES, read_header, read_image, shown
from nasforge.data.input_rule import InputRule
from nasforge.experiment.journal import experiments_in, fits_in
from nasforge.settings.experiment import DataConfig

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Split -> names of its folder, in any case."""
_SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
# What systems put into folders: archives of macOS, network storage with its thumbnails, Windows, disks.
_SYSTEM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}
)
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
NO_FILE = "is a link to nothing, or not a file"
_MOST_ENDINGS = 5
_MOST_NAMES = 5

Files: TypeAlias = dict[str, list[tuple[Path, str]]]
"""Split -> (file, class name)."""

_Seen: TypeAlias = frozenset[tuple[int, int]]
"""Device and inode of the folders on the way down."""


def find(config: DataConfig, folder: Path) -> Source:
    """Find the images below `folder`.

    Raises:
        DataError: there are none, or the folder does not say clearly which classes and splits they belong to.
    """
    files, notes = listing(folder)
    try:
        stamps = [[split, name, str(file), *_stamp(file)] for split, rows in files.items() for file, name in rows]
    except DataError as error:
        raise _with_hint(error, folder) from None
    key = ["image_folder", str(folder), digest(stamps), config.resolution]

    def read(allocate: Allocate) -> Decoded:
        try:
            return _read(folder, files, config.resolution, allocate)
        except DataError as error:
            if error.kind not in ("unreadable", "unsupported"):
                raise
            raise _with_hint(error, folder) from None

    return Source(key, read, notes)


def _with_hint(error: DataError, folder: Path) -> DataError:
    """Return an error about one image with the command that lists all such images."""
    hint = f"List all such files: {command_line('inspect', folder)}"
    return DataError(f"{error}. {hint}", kind=error.kind, key=error.key)


def _stamp(file: Path) -> tuple[int, int]:
    try:
        if not file.is_file():
            raise DataError(f"image {shown(file)} {NO_FILE}; repair or remove it", kind="missing")
        status = file.stat()
    except OSError as error:
        raise DataError(
            f"image {shown(file)} cannot be read ({error.strerror}); repair or remove it", kind="unreadable"
        ) from error
    return status.st_size, status.st_mtime_ns


def images_below(folder: Path) -> list[Path]:
    """Return all files with the ending of an image below a folder, sorted, without what is hidden or the system's."""
    return _class(folder, frozenset()).images


# --- which files, in which class and split ----------------------------------------------------------------------------


@dataclass
class _Level:
    """The content of one folder, without what is hidden, the system's, or a folder of experiments.

    Attributes:
        path: the folder.
        seen: this folder and those above it.
        images: files with the ending of an image, sorted.
        others: other files.
        folders: names of the folders in it.
        loops: symbolic links to a folder above.
    """

    path: Path
    seen: _Seen
    images: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    loops: list[Path] = field(default_factory=list)


@dataclass
class _Class:
    """All files below the folder of a class.

    Attributes:
        path: the folder.
        images: sorted.
        others: files that are not images.
        loops: symbolic links to a folder above.
        nested: names of the folders directly in it that have images; empty where images lie directly in it as well.
    """

    path: Path
    images: list[Path]
    others: list[Path]
    loops: list[Path]
    nested: tuple[str, ...]


@dataclass
class _Split:
    """A folder with a folder per class."""

    level: _Level
    classes: dict[str, _Class]

    @property
    def path(self) -> Path:
        """The folder."""
        return self.level.path

    @property
    def images(self) -> int:
        """Number of images in the folders of classes."""
        return sum(len(one.images) for one in self.classes.values())


def _level(path: Path, above: _Seen = frozenset()) -> _Level:
    """Read one folder; `above` are those on the way to it."""
    try:
        status = path.stat()
        with os.scandir(path) as entries:
            sorted_entries = sorted(entries, key=lambda entry: entry.name)
        level = _Level(path, above | {(status.st_dev, status.st_ino)})
        for entry in sorted_entries:
            _put(level, entry)
    except OSError as error:
        where = shown(os.fsdecode(error.filename) if error.filename else path)
        raise DataError(
            f"{where} cannot be read ({error.strerror}); allow to read it, or remove it", kind="unreadable"
        ) from error
    return level


def _put(level: _Level, entry: os.DirEntry[str]) -> None:
    """Put an entry of a folder where it belongs."""
    place, name = level.path / entry.name, entry.name.casefold()
    if name.startswith("."):
        return
    if place.is_dir():
        status = place.stat()
        if (status.st_dev, status.st_ino) in level.seen:
            level.loops.append(place)
        elif name not in _SYSTEM_FOLDERS and not _holds_runs(place):
            level.folders.append(entry.name)
    elif place.suffix.lower() in SUFFIXES:
        level.images.append(place)
    elif name not in _SYSTEM_FILES:
        level.others.append(place)


def _holds_runs(folder: Path) -> bool:
    """Tell whether a folder is `runs`, which lies among the images if a command was typed in their folder."""
    return bool(experiments_in(folder) or fits_in(folder, searching=False))


def _class(path: Path, above: _Seen) -> _Class:
    """Gather all files below a folder."""
    level = _level(path, above)
    inner = {name: _class(path / name, level.seen) for name in level.folders}
    below = inner.values()
    return _Class(
        path,
        sorted([*level.images, *(file for one in below for file in one.images)]),
        [*level.others, *(file for one in below for file in one.others)],
        [*level.loops, *(link for one in below for link in one.loops)],
        () if level.images else tuple(name for name, one in inner.items() if one.images),
    )


def _split(level: _Level, names: Iterable[str] | None = None) -> _Split:
    """Gather the classes in a folder: all folders in it, or those of `names`."""
    chosen = level.folders if names is None else names
    return _Split(level, {name: _class(level.path / name, level.seen) for name in chosen})


def listing(folder: Path) -> tuple[Files, tuple[str, ...]]:
    """Return the files with an image's ending in each split, and notes for the user about the others.

    Raises:
        DataError: there are none, or the folder does not say clearly which classes and splits they belong to.
    """
    root = _level(folder)
    splits = _splits(root)
    notes: list[str] = []
    if splits:
        aside = [name for name in root.folders if name.casefold() not in _SPLIT_OF]
        if aside:
            notes.append(
                f"data {shown(folder)}: only the folders {_some(one.path.name for one in splits.values())} are read, "
                f"as splits; what lies next to them is left out: {_some(aside)}"
            )
    else:
        splits = {"train": _split(root)}
        notes += _doubtful_classes(folder, splits["train"])
    for split in splits.values():
        if not split.images:
            raise DataError(f"{shown(split.path)}: no images; {_why_none(split)}", kind="empty")
    _check_names(folder, splits)
    notes += _left_out(folder, root, splits)
    files = {
        name: [(file, label) for label, one in splits[name].classes.items() for file in one.images]
        for name in SPLITS
        if name in splits
    }
    if len({label for _, label in files["train"]}) < 2:
        raise DataError(_only_one_class(splits["train"], notes), kind="empty")
    return files, tuple(notes)


def _splits(root: _Level) -> dict[str, _Split]:
    """Return the splits that a folder is divided into; empty if its folders are classes.

    A folder called `train` is a split only if it has folders with images in it; else it is a class of this name.

    Raises:
        DataError: it is ambiguous which folders are splits.
    """
    where = shown(root.path)
    named = [name for name in root.folders if name.casefold() in _SPLIT_OF]
    splits_by_name = {name: _split(_level(root.path / name, root.seen)) for name in named}
    divided = [name for name, split in splits_by_name.items() if split.images]
    if not divided:
        with_images = [name for name in splits_by_name if splits_by_name[name].level.images]
        others = [name for name in root.folders if name not in named]
        if with_images and not any(_class(root.path / name, root.seen).images for name in others):
            raise DataError(
                f"{where}: no folder is a class: images lie directly in {_some(with_images)}; "
                "put them into a folder per class",
                kind="missing",
            )
        return {}
    splits: dict[str, _Split] = {}
    for name, split in splits_by_name.items():
        kind = _SPLIT_OF[name.casefold()]
        if kind in splits:
            raise DataError(
                f"{where}: both {splits[kind].path.name} and {name} are the {kind} split; keep one of them",
                kind="duplicate",
            )
        splits[kind] = split
    if "train" not in splits:
        raise DataError(
            f"{where}: there is no folder train, but {_some(divided)} with folders of images inside, as splits have; "
            "add the folder train, or rename what is a class",
            kind="missing",
        )
    aside = [name for name in root.folders if name not in named]
    alone = len(splits) == 1 and splits["train"].level.images
    if alone and any(_class(root.path / name, root.seen).images for name in aside):
        raise DataError(
            f"{where}: {divided[0]} has images and also folders with images, and lies next to {_some(aside)}, so it "
            "may be a split or a class; move its images into folders of classes, or rename it if it is a class",
            kind="conflict",
        )
    return splits


def _why_none(split: _Split) -> str:
    """Explain what a split without images should have, and what it has."""
    expected = f"expected one folder per class with {', '.join(sorted(SUFFIXES))} files"
    if split.level.images:
        return (
            f"{expected}, got {len(split.level.images)} image(s) directly in it. Put them into a folder per class; "
            "`nasforge fit` and `nasforge inspect` also take their classes from a CSV file: --labels FILE"
        )
    others = [file for one in split.classes.values() for file in one.others]
    return f"{expected}, got {_endings(others)}" if others else expected


def _only_one_class(train: _Split, notes: Iterable[str]) -> str:
    (name,) = (name for name, one in train.classes.items() if one.images)
    text = f"{shown(train.path)}: only one class, '{name}', expected two or more. Make a folder for each class"
    nested = train.classes[name].nested
    if len(nested) > 1 or any(inner.casefold() in _SPLIT_OF for inner in nested):
        text += f". Use {shown(train.path / name)} as data if {_some(nested)} are its classes or splits"
    return "; ".join([text, *notes])


def _check_names(folder: Path, splits: Mapping[str, _Split]) -> None:
    """Refuse classes that cannot be named or learnt."""
    known = [name for name, one in splits["train"].classes.items() if one.images]
    for kind, split in splits.items():
        for name, one in split.classes.items():
            if not one.images:
                continue
            try:
                name.encode()
            except UnicodeEncodeError:
                raise DataError(
                    f"{shown(one.path)}: the folder's name is not UTF-8; rename it", kind="unreadable"
                ) from None
            if name not in known:
                raise DataError(
                    f"{shown(folder)}: class '{name}' of the {kind} split has no training images; "
                    f"{did_you_mean(name, known)}",
                    kind="missing",
                )


def _doubtful_classes(folder: Path, train: _Split) -> list[str]:
    """Return notes on folders that are read as classes and may be splits.

    Raises:
        DataError: the folders of classes are divided into splits each.
    """
    classes = {name: one for name, one in train.classes.items() if one.images}
    for name, one in classes.items() if len(classes) > 1 else ():
        inner = {_SPLIT_OF.get(inner.casefold()) for inner in one.nested} - {None}
        if "train" in inner and len(inner) > 1:
            raise DataError(
                f"{shown(folder)}: class '{name}' has folders for splits ({_some(one.nested)}); "
                f"put the splits first: train/{name} instead of {name}/train",
                kind="invalid",
            )
    notes = []
    called = [name for name in classes if name.casefold() in _SPLIT_OF]
    if len(called) > 1:
        notes.append(
            f"data {shown(folder)}: {_some(called)} have no folders of classes, so they are classes themselves"
        )
    kinds = {one.nested for one in classes.values()}
    if len(classes) > 1 and len(kinds) == 1 and len(next(iter(kinds))) > 1:
        notes.append(
            f"data {shown(folder)}: {_some(classes)} are the classes, and all have the folders {_some(kinds.pop())}; "
            "if they are splits, name them train, val and test"
        )
    return notes


def _left_out(folder: Path, root: _Level, splits: Mapping[str, _Split]) -> list[str]:
    """Return notes on classes without images, and on files that are not read."""
    notes = []
    full = {name for split in splits.values() for name, one in split.classes.items() if one.images}
    empty = sorted({name for split in splits.values() for name in split.classes} - full)
    if empty:
        notes.append(f"data {shown(folder)}: {classes_have(empty)} no images, left out")
    every = [one for split in splits.values() for one in split.classes.values()]
    others = [file for one in every for file in one.others]
    if others:
        notes.append(
            f"data {shown(folder)}: {len(others)} file(s) that are not read, left out: {_endings(others)} "
            f"(the first is {shown(others[0].relative_to(folder))})"
        )
    levels = {level.path: level for level in (root, *(split.level for split in splits.values()))}.values()
    loose = [file for level in levels for file in level.images]
    if loose:
        notes.append(
            f"data {shown(folder)}: {len(loose)} image(s) outside the folders of classes, left out "
            f"(the first is {shown(loose[0].relative_to(folder))})"
        )
    loops = [*(link for level in levels for link in level.loops), *(link for one in every for link in one.loops)]
    if loops:
        notes.append(
            f"data {shown(folder)}: {len(loops)} link(s) to a folder above themselves, left out "
            f"(the first is {shown(loops[0].relative_to(folder))})"
        )
    return notes


def _endings(files: Iterable[Path]) -> str:
    """Count files by their ending, as in `4 .heic, 1 .txt, 2 without an ending`."""
    counts = Counter(file.suffix.lower() for file in files)
    common = [f"{count} {shown(ending) if ending else 'without an ending'}" for ending, count in counts.most_common()]
    rest = sum(count for _, count in counts.most_common()[_MOST_ENDINGS:])
    return ", ".join([*common[:_MOST_ENDINGS], *([f"{rest} others"] if rest else [])])


def _some(names: Iterable[str]) -> str:
    """Return some names for a message, and how many more there are."""
    every = [shown(name) for name in names]
    rest = len(every) - _MOST_NAMES
    return ", ".join(every[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")


# --- their pixels -----------------------------------------------------------------------------------------------------


def _read(folder: Path, files: Files, resolution: int | None, allocate: Allocate) -> Decoded:
    every = [file for rows in files.values() for file, _ in rows]
    channels = _common_channels(folder, every, resolution)
    rule, size = InputRule(channels), (resolution, resolution) if resolution else None
    images: np.ndarray | None = None
    remarks: dict[str, list[Path]] = {}
    for row, file in enumerate(every):
        picture = read_image(file, rule, size)
        if images is None:
            images = allocate((len(every), *picture.pixels.shape))
        if picture.pixels.shape != images.shape[1:]:
            raise _sizes_differ(folder, every[0], images.shape[:1:-1], file, picture.pixels.shape[:0:-1])
        images[row] = picture.pixels
        for remark in picture.remarks:
            remarks.setdefault(remark, []).append(file)
    if images is None:
        raise DataError(f"{shown(folder)}: no images; add some", kind="empty")
    class_names = tuple(sorted({name for _, name in files["train"]}))
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = np.array([numbers[name] for rows in files.values() for _, name in rows], np.int64)
    notes = tuple(
        f"data {shown(folder)}: {len(which)} image(s) {remark} (the first is {shown(which[0].relative_to(folder))})"
        for remark, which in remarks.items()
    )
    return Decoded(images, labels, {split: len(rows) for split, rows in files.items()}, class_names, notes)


def _common_channels(folder: Path, files: list[Path], resolution: int | None) -> int:
    """Return the channels of all images: grey only if every image is. Reads headers alone, to fail early."""
    first: tuple[Path, tuple[int, int]] | None = None
    channels = 1
    for file in files:
        size, mode = read_header(file)
        channels = channels if mode in ("1", "L") else 3
        first = first or (file, size)
        # height and width may change places when the image is turned upright
        if resolution is None and sorted(size) != sorted(first[1]):
            raise _sizes_differ(folder, first[0], first[1], file, size)
    return channels


def _sizes_differ(
    folder: Path, first: Path, size: tuple[int, ...], other: Path, other_size: tuple[int, ...]
) -> DataError:
    return DataError(
        f"{shown(folder)}: images differ in size, {shown(first.name)} is {size[0]} x {size[1]} pixels and "
        f"{shown(other.name)} {other_size[0]} x {other_size[1]}. Set --resolution 64 to resize all images",
        kind="conflict",
        key="data.resolution",
    )
