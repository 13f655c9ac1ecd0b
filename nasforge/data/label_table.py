"""A table of labels for a folder of images: a CSV file with one image a line."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nasforge.core.errors import DataError, did_you_mean
from nasforge.data.image_file import SUFFIXES, shown
from nasforge.data.image_folder import SPLIT_NAMES, images_below

IMAGE = (
    *("image", "file", "filename", "image_id", "image_name", "image_path", "imagepath", "filepath", "file_name"),
    *("file_path", "path", "img", "photo", "picture", "id", "name"),
)
LABEL = ("label", "class", "class_label", "class_name", "classname", "category", "target", "diagnosis", "dx", "species")
GROUP = ("group", "group_id", "patient", "patient_id", "video", "video_id", "subject", "subject_id", "lesion_id")
SPLIT = ("split", "subset", "part")
_SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}


@dataclass(frozen=True)
class Labelled:
    """One line of the table.

    Attributes:
        name: of the image, as the table has it.
        file: where it is; None where there is no such file.
        label: its class.
        group: patient, video or the like; None where the table has no such column.
        split: train, validation or test; None where the table has no such column.
        line: in the table, from 1.
    """

    name: str
    file: Path | None
    label: str
    group: str | None
    split: str | None
    line: int


def read_table(
    table: Path,
    folder: Path,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
) -> tuple[list[Labelled], list[str]]:
    """Return the lines of a table that have a label, and sentences for the user.

    Args:
        table: a CSV file with a line of titles; its separator is a comma, a semicolon or a tab.
        folder: of the images; names are relative to it or to the table's folder, with or without their ending.
        image_column: title of the column of image names; None finds it by its title.
        label_column: likewise of the classes.
        group_column: likewise of patients, videos or the like; None may find none.

    Raises:
        DataError: the table cannot be read, a column cannot be found, or a name fits several images.
    """
    titles, lines = _parsed(table)
    images = images_below(folder)
    if not images:
        raise DataError(
            f"{shown(folder)}: no images; expected files that end with {', '.join(sorted(SUFFIXES))}", kind="empty"
        )
    finder = _Finder(table, folder, images)
    label_at = _column(table, titles, label_column, LABEL, "label")
    image_at = _column(table, titles, image_column, IMAGE, "image")
    if image_at is None:
        image_at = _with_most_images(titles, lines, finder, {label_at})
    if label_at is None and len(titles) == 2 and image_at is not None:
        label_at = 1 - image_at
    for at, kind in ((image_at, "image"), (label_at, "label")):
        if at is None:
            known = ", ".join(f"'{title}'" for title in titles)
            raise DataError(
                f"{shown(table)}: no column is the {kind}'s, found {known}. Name it with --{kind}-column",
                kind="missing",
                key=f"{kind}_column",
            )
    assert image_at is not None and label_at is not None  # noqa: S101
    group_at = _column(table, titles, group_column, GROUP, "group")
    split_at = _split_column(titles, lines)
    rows, notes = list[Labelled](), list[str]()
    without = 0
    for number, line in lines:
        name, label = line[image_at].strip(), line[label_at].strip()
        if not name or not label:
            without += 1
            continue
        group = line[group_at].strip() or f"image {name}" if group_at is not None else None
        split = _SPLIT_OF[line[split_at].strip().casefold()] if split_at is not None else None
        rows.append(Labelled(name, finder.find(name), label, group, split, number))
    if not rows:
        raise DataError(
            f"{shown(table)}: no line has an image and a label; fill the table in", kind="empty", key="labels"
        )
    columns = [f"images in '{titles[image_at]}'", f"labels in '{titles[label_at]}'"]
    columns += [f"groups in '{titles[group_at]}'"] if group_at is not None else []
    columns += [f"splits in '{titles[split_at]}'"] if split_at is not None else []
    notes.append(f"{shown(table)}: {', '.join(columns)}")
    if split_at is None:
        notes += _unread_splits(table, titles, lines)
    if without:
        notes.append(f"{shown(table)}: {without} line(s) without an image or a label, left out")
    named = {row.file.resolve() for row in rows if row.file is not None}  # the table may have absolute paths
    unnamed = {file for file in images if file.resolve() not in named}
    if unnamed:
        first = shown(min(unnamed).relative_to(folder))
        notes.append(f"{shown(table)}: {len(unnamed)} image(s) in {shown(folder)} have no line (the first is {first})")
    return rows, notes


def _parsed(table: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the titles, and the number and cells of each line."""
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason, advice = "it is no UTF-8 text", "save the table as CSV in UTF-8"
        if isinstance(error, OSError):
            reason, advice = str(error.strerror), "choose a CSV file"
        raise DataError(
            f"labels {shown(table)} cannot be read ({reason}); {advice}", kind="unreadable", key="labels"
        ) from error
    head, _, rest = text.partition("\n")
    named = re.fullmatch(r"sep=(.)\r?", head)  # a line for Excel
    if named:
        text, separator = f"\n{rest}", named[1]
    else:
        separator = max(",;\t", key=head.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        titles = [title.strip() for title in next(filter(None, reader), [])]
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise DataError(
            f"labels {shown(table)} is not a CSV file ({error}); save it as one", kind="unreadable", key="labels"
        ) from error
    if len(titles) < 2 or not lines:
        raise DataError(
            f"labels {shown(table)}: expected a line of titles and a line for each image, with an image and a label, "
            f"got {len(titles)} column(s) and {len(lines)} line(s); save the table as CSV",
            kind="unreadable",
            key="labels",
        )
    for number, cells in lines:
        if len(cells) != len(titles):
            raise DataError(
                f"labels {shown(table)}, line {number}: {len(cells)} cells, but {len(titles)} titles; correct the line",
                kind="unreadable",
                key="labels",
            )
    return titles, lines


def _column(table: Path, titles: Sequence[str], title: str | None, names: Sequence[str], kind: str) -> int | None:
    """Return the place of a column: by the title that the user gives, else by the first usual name; None: no such."""
    if title is not None:
        if title not in titles:
            raise DataError(
                f"{shown(table)}: no column '{title}' for --{kind}-column; {did_you_mean(title, titles)}",
                kind="unknown",
                key=f"{kind}_column",
            )
        return list(titles).index(title)
    plain = [re.sub(r"[^a-z0-9]+", "_", one.casefold()).strip("_") for one in titles]
    return next((plain.index(name) for name in names if name in plain), None)


def _split_column(titles: Sequence[str], lines: Sequence[tuple[int, list[str]]]) -> int | None:
    """Return the place of a column that says train, val or test in every line, training images included."""
    for at, title in enumerate(titles):
        values = {line[at].strip().casefold() for _, line in lines}
        if title.casefold() in SPLIT and values <= _SPLIT_OF.keys() and "train" in {_SPLIT_OF[one] for one in values}:
            return at
    return None


def _unread_splits(table: Path, titles: Sequence[str], lines: Sequence[tuple[int, list[str]]]) -> Iterator[str]:
    """Yield a note on each column that has the title of splits and another text than theirs in some line."""
    for at, title in enumerate(titles):
        if title.casefold() not in SPLIT:
            continue
        number, line = next((pair for pair in lines if pair[1][at].strip().casefold() not in _SPLIT_OF), lines[0])
        yield (
            f"{shown(table)}: the column '{title}' is not read as splits, line {number} has '{line[at].strip()}'; use "
            "train, val and test to set the splits"
        )


def _with_most_images(
    titles: Sequence[str], lines: Sequence[tuple[int, list[str]]], finder: _Finder, taken: set[int | None]
) -> int | None:
    """Return the place of the column whose cells are images most often."""
    hits = {
        at: sum(finder.find(line[at].strip(), strict=False) is not None for _, line in lines[:200])
        for at in range(len(titles))
        if at not in taken
    }
    best = max(hits, key=hits.__getitem__, default=None)
    return best if best is not None and hits[best] else None


class _Finder:
    """Search for the file that a table calls by some name."""

    def __init__(self, table: Path, folder: Path, images: Sequence[Path]) -> None:
        self.table, self.folder = table, folder
        self.by_name: dict[str, list[Path]] = {}
        for file in images:
            inside = file.relative_to(folder)
            names = {str(inside), str(inside.with_suffix("")), file.name, file.stem}
            if file.stem.isdecimal():
                names.add(f"#{int(file.stem)}")  # a spreadsheet turns 001 into 1
            for name in names:
                self.by_name.setdefault(name, []).append(file)

    def find(self, name: str, *, strict: bool = True) -> Path | None:
        """Return the file; None where there is none. Raises DataError where `strict` and several have the name."""
        for place in (self.folder, self.table.parent):
            file = place / name
            if name and file.suffix.lower() in SUFFIXES and os.path.isfile(file):  # noqa: PTH113  (a Path raises at a long name)
                return file
        files = self.by_name.get(name) or (self.by_name.get(f"#{int(name)}") if name.isdecimal() else None) or []
        if len(files) > 1 and strict:
            some = " and ".join(shown(file.relative_to(self.folder)) for file in files[:2])
            raise DataError(
                f"{shown(self.table)}: '{name}' may be {some}; choose the folder with only the images of the table, "
                "or write paths into it",
                kind="conflict",
                key="labels",
            )
        if not files and "\\" in name:  # written on Windows
            return self.find(name.replace("\\", "/"), strict=strict)
        return files[0] if files else None
