"""A Keras-style `.npz` file: `x_train`, `y_train`, and where there are any `x_val`, `x_test`, `class_names`."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from nasforge.core.errors import DataError, one_line
from nasforge.data.decoded import Allocate, Decoded, Source, number_classes, resized
from nasforge.data.input_rule import CENTRE_CROP, InputRule
from nasforge.settings.experiment import DataConfig

_LAYOUT = "N x H x W, or N x H x W x C with 1 to 4 channels"
_SUFFIXES = {"train": ("train",), "validation": ("val", "validation", "valid", "dev"), "test": ("test",)}
"""Split -> how the names of its two arrays may end."""
_NAMES, _GROUPS, _INPUT = "class_names", "groups", "input"
_FILES = "files"
"""Names of the images, for people: the pages name an image by it."""
_READ = "x_train, y_train, x_val, y_val, x_test, y_test, class_names, groups and input"
_OVERSHOOT = 1e-3
"""Tolerance for reals outside of their range, relative to its end: resizing and rounding cause it."""
_DIM = 64
"""Least brightest pixel of 0..255; below it the user probably meant another range."""


def write_npz(file: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write arrays to a file that has its name only when it is complete and on the disk; returns it.

    Raises:
        DataError: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(file)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"{file} cannot be written: {reason}. Make room, or choose another folder", kind="failed"
        ) from error
    return file


def find(config: DataConfig, path: Path) -> Source:
    """Find the NPZ file at `path`; images are N x H x W or N x H x W x C, labels whole numbers or strings."""
    status = path.stat()
    key = ["npz", str(path), status.st_size, status.st_mtime_ns, config.resolution]
    return Source(key, lambda allocate: _read(path, config.resolution, allocate))


def image_names(path: Path) -> list[str] | None:
    """Return the array `files` of an NPZ file; None where it has none, or none of one text per image."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names = file[_FILES]
            images = sum(len(file[name]) for name in file.files if name.startswith("y_"))
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, TypeError):
        return None
    return [str(name) for name in names] if names.shape == (images,) and names.dtype.kind == "U" else None


def _read(path: Path, resolution: int | None, allocate: Allocate) -> Decoded:
    arrays, unread = _arrays(path)
    suffixes = _splits(path, arrays, unread)
    pixels = {f"x_{suffix}": arrays[f"x_{suffix}"] for suffix in suffixes.values()}
    for name, array in pixels.items():
        _check_images(path, name, array)
    scales = _scales(path, pixels)
    images = [resized(_as_bytes(array, scales[name]), resolution) for name, array in pixels.items()]
    labels = [
        _labels(path, f"y_{suffix}", arrays[f"y_{suffix}"], len(piece))
        for suffix, piece in zip(suffixes.values(), images, strict=True)
    ]
    for name, piece in zip(pixels, images, strict=True):
        if piece.shape[1:] != images[0].shape[1:]:
            raise DataError(
                f"{path}: x_train and {name} have images of different shapes, expected equal ones, {_LAYOUT}",
                kind="conflict",
                key=name,
            )
    names = _names(path, arrays[_NAMES]) if _NAMES in arrays else None
    numbered, class_names, notes = number_classes(labels, names, str(path))
    whole = allocate((sum(map(len, images)), *images[0].shape[1:]))
    np.concatenate(images, out=whole)
    sizes = {split: len(piece) for split, piece in zip(suffixes, images, strict=True)}
    notes = (*_notes_on(path, pixels, scales, unread), *notes)
    groups = _groups(path, arrays[_GROUPS], sizes) if _GROUPS in arrays else None
    rule = _input(path, arrays[_INPUT], whole.shape[1:]) if _INPUT in arrays else None
    return Decoded(whole, np.concatenate(numbered), sizes, class_names, notes, groups, rule)


def _groups(path: Path, array: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
    """Return the group of each training and validation image as a number."""
    expected = sizes["train"] + sizes.get("validation", 0)
    if array.shape != (expected,) or array.dtype.kind not in "iuSU":
        raise DataError(
            f"{path}: groups has shape {array.shape} and type {array.dtype}, expected ({expected},) whole numbers or "
            "texts, one per training image, then one per validation image. Save it so, or rename the array",
            kind="type",
            key="groups",
        )
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


def _input(path: Path, array: np.ndarray, shape: tuple[int, ...]) -> InputRule:
    """Return the rule that the images, of this shape (channels, height, width), were prepared by."""
    channels, height, width = shape
    try:
        rule = InputRule.from_text(str(_texts(path, _INPUT, array.reshape(-1))[0]))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"{path}: input is not the rule that images were prepared by ({one_line(error)}). Prepare the file again, "
            "or rename the array",
            kind="unreadable",
            key="input",
        ) from error
    if rule.channels != channels:
        raise DataError(
            f"{path}: input says {rule.channels} channel(s), the images have {channels}. Prepare it again",
            kind="conflict",
            key="input",
        )
    if rule.resize == CENTRE_CROP and height != width:
        raise DataError(
            f"{path}: input says that a square was cut out of each image, and the images have {height} x {width} "
            "pixels. Prepare the file again, or rename the array",
            kind="conflict",
            key="input",
        )
    return rule


def _arrays(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays with names that are read, and the names of the others."""
    known = {
        _NAMES,
        _GROUPS,
        _INPUT,
        *(f"{axis}_{suffix}" for suffixes in _SUFFIXES.values() for suffix in suffixes for axis in "xy"),
    }
    name = ""
    try:
        opened = np.load(path, allow_pickle=False)
        if isinstance(opened, np.ndarray):  # `.npy`, whatever the file's name
            raise TypeError("it holds one array without a name")
        with opened as file:
            arrays = {}
            for name in file.files:
                if name in known:
                    arrays[name] = file[name]
                    if not isinstance(arrays[name], np.ndarray):  # numpy returns the bytes of what is no array
                        raise ValueError("not an array of numpy")
            return arrays, [name for name in file.files if name not in {*known, _FILES}]
    except ValueError as error:
        if not name:  # numpy takes it for a pickle, and says how to load that
            raise DataError(
                f"{path}: this is not a readable .npz file; write it with numpy.savez", kind="unreadable"
            ) from error
        raise DataError(
            f"{path}: {name} holds Python objects or is damaged ({error}); save plain arrays of numbers "
            "or of texts, such as np.array(names, dtype=str)",
            kind="unreadable",
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, AttributeError, TypeError, MemoryError) as error:
        raise DataError(
            f"{path}: this is not a readable .npz file ({error}); write it with numpy.savez", kind="unreadable"
        ) from error


def _splits(path: Path, arrays: Mapping[str, np.ndarray], unread: Iterable[str]) -> dict[str, str]:
    """Map each split that the file has to the end of its arrays' names."""
    suffix_of = {}
    for split, suffixes in _SUFFIXES.items():
        there = [suffix for suffix in suffixes if f"x_{suffix}" in arrays or f"y_{suffix}" in arrays]
        if len(there) > 1:
            raise DataError(
                f"{path}: the {split} split appears as {' and as '.join(there)}; keep one of them",
                kind="duplicate",
                key=split,
            )
        suffix = there[0] if there else "train"
        if split == "train" or there:
            for name in (f"x_{suffix}", f"y_{suffix}"):
                if name not in arrays:
                    others = ", ".join(sorted([*arrays, *unread])) or "none"
                    raise DataError(
                        f"{path}: array {name} is missing, got {others}. Rename yours to {_READ}",
                        kind="missing",
                        key=name,
                    )
            suffix_of[split] = suffix
    return suffix_of


def _check_images(path: Path, name: str, array: np.ndarray) -> None:
    if array.ndim == 4 and array.shape[-1] > 4 and array.shape[1] <= 4:
        raise DataError(
            f"{path}: {name} has shape {array.shape}, which looks like N x C x H x W with 1 to 4 channels; allowed: "
            f"{_LAYOUT}. Save it with the channels last: np.moveaxis({name}, 1, -1)",
            kind="type",
            key=name,
        )
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[-1] > 4) or 0 in array.shape:
        raise DataError(f"{path}: {name} has shape {array.shape}, allowed: {_LAYOUT}", kind="type", key=name)
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{path}: {name} has type {array.dtype}, allowed: whole numbers 0..255, or reals 0..1 or 0..255",
            kind="type",
            key=name,
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(
            f"{path}: {name} contains NaN or infinite pixels; replace them before saving", kind="range", key=name
        )
    low, high = array.min(), array.max()
    real = array.dtype.kind == "f"
    if low < -_OVERSHOOT * real or high > 255 * (1 + _OVERSHOOT * real):
        scaled = "(x - x.min()) / (x.max() - x.min())" if low < 0 else f"x / {high}"
        raise DataError(
            f"{path}: {name} has pixels from {low} to {high}, allowed: 0..255, or reals in 0..1. "
            f"Scale all splits in the same way, for example {scaled}, with the numbers of x_train",
            kind="range",
            key=name,
        )


def _scales(path: Path, pixels: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return the number that stands for white, 1 or 255, for each array of pixels.

    Raises:
        DataError: arrays of reals, or arrays of whole numbers, differ in it; one that is all black goes with any.
    """
    scales: dict[str, int] = {}
    for kinds in ("f", "biu"):
        highest = {name: array.max() for name, array in pixels.items() if array.dtype.kind in kinds}
        whites = {name: 1 if high <= 1 + _OVERSHOOT * (kinds == "f") else 255 for name, high in highest.items()}
        of_lit_images = {name: white for name, white in whites.items() if highest[name] > 0}
        if len(set(of_lit_images.values())) > 1:
            ranges = " and ".join(f"{name} up to {highest[name]}" for name in of_lit_images)
            raise DataError(
                f"{path}: {ranges}: one is scaled to 0..1 and another to 0..255; scale them in the same way",
                kind="conflict",
            )
        scales |= {name: next(iter(of_lit_images.values()), white) for name, white in whites.items()}
    return scales


def _as_bytes(array: np.ndarray, white: int) -> np.ndarray:
    """Convert checked pixels to uint8, N x C x H x W."""
    array = array[..., None] if array.ndim == 3 else array
    if array.dtype.kind == "f":
        array = np.round(array * 255 if white == 1 else array).clip(0, 255)
    elif white == 1:
        array = array.astype(np.uint8) * np.uint8(255)
    return np.moveaxis(array.astype(np.uint8), -1, 1)


def _notes_on(
    path: Path, pixels: Mapping[str, np.ndarray], scales: Mapping[str, int], unread: Iterable[str]
) -> Iterable[str]:
    """Return notes on contents that are read otherwise than one might expect."""
    if binary := [name for name, array in pixels.items() if array.dtype.kind in "biu" and scales[name] == 1]:
        yield f"{path}: {', '.join(binary)} holds whole numbers 0 and 1 only; they are read as black and white"
    brightest = max((int(np.ceil(array.max())) for name, array in pixels.items() if scales[name] == 255), default=255)
    if brightest < _DIM:
        yield (
            f"{path}: no pixel is above {brightest}, and pixels are read as 0..255; if {brightest} is white, divide "
            f"all pixels by {brightest} before saving"
        )
    if unread := sorted(unread):
        yield f"{path}: not read: {', '.join(unread)}. Read are {_READ}"


def _names(path: Path, array: np.ndarray) -> list[str]:
    if array.ndim != 1 or not len(array):
        raise DataError(
            f"{path}: {_NAMES} must be a list of names, one per class, got an array of shape {array.shape}",
            kind="type",
            key=_NAMES,
        )
    names = [str(name) for name in _texts(path, _NAMES, array)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        wrong = f"'{twice[0]}' twice" if twice else "an empty one"
        raise DataError(
            f"{path}: {_NAMES} must be different names, got {wrong}; give every class another name",
            kind="duplicate",
            key=_NAMES,
        )
    return names


def _texts(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """Return an array unchanged, but bytes as the texts that they encode."""
    if array.dtype.kind != "S":
        return array
    try:
        return np.char.decode(array, "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: {name} holds bytes that are not UTF-8 ({error}). Save it as text (dtype=str)",
            kind="unreadable",
            key=name,
        ) from None


def _labels(path: Path, name: str, array: np.ndarray, expected: int) -> np.ndarray:
    """Return labels as whole numbers, truth values or texts."""
    labels = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if labels.ndim != 1:
        one_hot = ". For one-hot labels save the class numbers: y.argmax(1)" if labels.ndim == 2 else ""
        raise DataError(
            f"{path}: {name} has shape {array.shape}, allowed: one label per image, so ({expected},){one_hot}",
            kind="type",
            key=name,
        )
    if len(labels) != expected:
        raise DataError(
            f"{path}: {name} has {len(labels)} labels for {expected} images; save one per image",
            kind="conflict",
            key=name,
        )
    if labels.dtype.kind not in "biufSU":
        raise DataError(
            f"{path}: {name} has type {labels.dtype}, allowed: whole numbers or strings", kind="type", key=name
        )
    if labels.dtype.kind == "f":
        if not (np.isfinite(labels).all() and (labels == np.round(labels)).all()):
            raise DataError(
                f"{path}: {name} holds fractions or NaN, allowed: whole numbers or strings", kind="type", key=name
            )
        labels = labels.astype(np.int64)
    return _texts(path, name, labels)
