"""A Keras-style `.npz` file: `x_train`, `y_train`, and `x_test`, `y_test`, `class_names` where there are any."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from nasforge.config import DataConfig
from nasforge.core.errors import DataError
from nasforge.data.decoded import Allocate, Decoded, Source, number_classes, resized

_LAYOUT = "N x H x W, or N x H x W x C with 1 to 4 channels"


def find(config: DataConfig, path: Path) -> Source:
    """The file at `path`; images are grey (N x H x W) or coloured (N x H x W x C), labels whole numbers or strings."""
    status = path.stat()
    key = ["npz", str(path), status.st_size, status.st_mtime_ns, config.resolution]
    return Source(key, lambda allocate: _read(path, config.resolution, allocate))


def _read(path: Path, resolution: int | None, allocate: Allocate) -> Decoded:
    arrays = _arrays(path)
    parts = ["train", "test"] if "x_test" in arrays or "y_test" in arrays else ["train"]
    missing = [name for part in parts for name in (f"x_{part}", f"y_{part}") if name not in arrays]
    if missing:
        raise DataError(f"{path}: array {missing[0]} is missing; found {', '.join(sorted(arrays)) or 'none'}")
    images = [resized(_images(path, f"x_{part}", arrays[f"x_{part}"]), resolution) for part in parts]
    labels = [_labels(path, f"y_{part}", arrays[f"y_{part}"], len(images[i])) for i, part in enumerate(parts)]
    if len({piece.shape[1:] for piece in images}) > 1:
        raise DataError(f"{path}: x_train and x_test hold images of different shapes, {_LAYOUT}")
    names = _names(path, arrays["class_names"]) if "class_names" in arrays else None
    numbered, class_names = number_classes(labels, names, str(path))
    whole = allocate((sum(map(len, images)), *images[0].shape[1:]))
    np.concatenate(images, out=whole)
    sizes = {part: len(piece) for part, piece in zip(parts, images, strict=True)}
    return Decoded(whole, np.concatenate(numbered), sizes, class_names)


def _names(path: Path, array: np.ndarray) -> list[str]:
    names = [str(name) for name in array] if array.ndim == 1 else []
    if not names or len(set(names)) < len(names):
        raise DataError(f"{path}: class_names must be a list of different names, got {array.tolist()!r}")
    return names


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            wanted = ("x_train", "y_train", "x_test", "y_test", "class_names")
            arrays = {name: file[name] for name in file.files if name in wanted}
            return arrays or dict.fromkeys(file.files, np.empty(0))
    except ValueError as error:
        raise DataError(f"{path}: an array holds Python objects, not numbers; save plain arrays ({error})") from error
    except (zipfile.BadZipFile, EOFError, OSError, AttributeError, TypeError, MemoryError) as error:
        raise DataError(f"{path}: this is not a readable .npz file ({error}); write it with numpy.savez") from error


def _images(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """Any accepted array -> uint8, N x C x H x W."""
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] > 4 or 0 in array.shape:
        raise DataError(f"{path}: {name} has shape {array.shape}, allowed: {_LAYOUT}")
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
        raise DataError(
            f"{path}: {name} has type {array.dtype}, allowed: whole numbers 0..255, or reals 0..1 or 0..255"
        )
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise DataError(f"{path}: {name} contains NaN or infinite pixels; replace them before saving")
    low, high = array.min(), array.max()
    if low < 0 or high > 255:
        raise DataError(f"{path}: {name} has pixels from {low} to {high}, allowed: 0..255, or reals in 0..1")
    if np.issubdtype(array.dtype, np.floating):
        array = np.round(array * 255 if high <= 1 else array)
    return np.moveaxis(array.astype(np.uint8), -1, 1)


def _labels(path: Path, name: str, array: np.ndarray, expected: int) -> np.ndarray:
    labels = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if labels.ndim != 1:
        raise DataError(f"{path}: {name} has shape {array.shape}, allowed: one label per image, so ({expected},)")
    if len(labels) != expected:
        raise DataError(f"{path}: {name} has {len(labels)} labels for {expected} images")
    if np.issubdtype(labels.dtype, np.floating):
        if not (np.isfinite(labels).all() and (labels == np.round(labels)).all()):
            raise DataError(f"{path}: {name} holds fractions or NaN, allowed: whole numbers or strings")
        labels = labels.astype(np.int64)
    return labels
