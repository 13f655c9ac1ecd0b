"""A folder of images: one folder per class, either directly or inside `train/`, `val/` and `test/`."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from nasforge.config import DataConfig
from nasforge.core.architecture import digest
from nasforge.core.errors import DataError
from nasforge.data.decoded import PARTS, Allocate, Decoded, Source

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_FOLDERS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}
_EIGHT_BIT = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})

Listing: TypeAlias = dict[str, list[tuple[Path, str]]]
"""Part -> (file, class name)."""


def find(config: DataConfig, folder: Path) -> Source:
    """The images below `folder`.

    Raises:
        DataError: it is empty, or a part lacks a class.
    """
    listing = _list(folder)
    stamps = [
        [part, name, str(file), (status := file.stat()).st_size, status.st_mtime_ns]
        for part, files in listing.items()
        for file, name in files
    ]
    key = ["image_folder", str(folder), digest(stamps), config.resolution]
    return Source(key, lambda allocate: _read(folder, listing, config.resolution, allocate))


def _list(folder: Path) -> Listing:
    roots = {part: [folder / n for n in names if (folder / n).is_dir()] for part, names in _FOLDERS.items()}
    roots = roots if roots["train"] else {"train": [folder], "validation": [], "test": []}
    listing: Listing = {}
    for part in PARTS:
        for root in roots[part][:1]:
            classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
            listing[part] = [
                (file, place.name)
                for place in classes
                for file in sorted(place.rglob("*"))
                if file.suffix.lower() in SUFFIXES and file.is_file()
            ]
            if not listing[part]:
                raise DataError(
                    f"{root}: no images; expected one folder per class with {', '.join(sorted(SUFFIXES))} files"
                )
    known = {name for _, name in listing["train"]}
    for part, files in listing.items():
        strange = sorted({name for _, name in files} - known)
        if strange:
            raise DataError(f"{folder}: class '{strange[0]}' of the {part} part has no training images")
    return listing


def _read(folder: Path, listing: Listing, resolution: int | None, allocate: Allocate) -> Decoded:
    files = [file for part in listing.values() for file, _ in part]
    size, channels = _common_form(folder, files, resolution)
    images = allocate((len(files), channels, size[1], size[0]))
    for row, file in enumerate(files):
        images[row] = _decode(file, size, channels)
    class_names = tuple(sorted({name for _, name in listing["train"]}))
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = np.array([numbers[name] for part in listing.values() for _, name in part], np.int64)
    return Decoded(images, labels, {part: len(rows) for part, rows in listing.items()}, class_names)


def _common_form(folder: Path, files: list[Path], resolution: int | None) -> tuple[tuple[int, int], int]:
    """(width, height) and channels that all images get; grey only if every image is grey. Reads headers alone."""
    first: tuple[Path, tuple[int, int]] | None = None
    channels = 1
    for file in files:
        try:
            with Image.open(file) as image:
                size, mode = image.size, image.mode
        except (OSError, UnidentifiedImageError, ValueError) as error:
            raise DataError(f"image {file} cannot be read ({error}); repair or remove it") from error
        if mode not in _EIGHT_BIT:
            raise DataError(f"image {file} has pixels of mode {mode}, allowed: 8 bits per channel; convert it")
        channels = channels if mode in ("1", "L") else 3
        first = first or (file, size)
        if resolution is None and size != first[1]:
            raise DataError(
                f"{folder}: images differ in size, {first[0].name} is {first[1][0]} x {first[1][1]} pixels and "
                f"{file.name} {size[0]} x {size[1]}; set `resolution` to resize them all"
            )
    if first is None:
        raise DataError(f"{folder}: no images")
    return ((resolution, resolution) if resolution else first[1]), channels


def _decode(file: Path, size: tuple[int, int], channels: int) -> np.ndarray:
    try:
        with Image.open(file) as opened:
            image = opened.convert("L" if channels == 1 else "RGB")
            if image.size != size:
                image = image.resize(size, Image.Resampling.BILINEAR)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise DataError(f"image {file} is corrupt ({error}); repair or remove it") from error
    pixels = np.asarray(image, np.uint8)
    return pixels[None] if channels == 1 else np.moveaxis(pixels, -1, 0)
