"""A table in an NPZ file: an array per column, or arrays over a grid whose axes a JSON file names."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nasforge.core.errors import ConfigError, DataError
from nasforge.evaluators.table.canonical import Table
from nasforge.evaluators.table.conversion import GUIDE


def read_npz(path: Path) -> Table:
    """Return the table of an NPZ with an array per column.

    An array of shape (rows, n) is read as n columns: `val[1]`, `val[2]`, ... Raises DataError: not a file of numpy's.
    """
    arrays = _Arrays(path)
    places: dict[str, tuple[str, int | None]] = {}
    for name, shape in arrays.shapes.items():
        if len(shape) == 2:
            places |= {f"{name}[{index + 1}]": (name, index) for index in range(shape[1])}
        else:
            places[name] = (name, None)

    def read(column: str) -> Any:
        name, index = places[column]
        array = arrays.read(name)
        if array.ndim == 0:
            raise ConfigError(
                f"table {path}: '{name}' is one value, {array}, expected one per row", kind="type", key=name
            )
        if array.ndim > 2:
            raise ConfigError(
                f"table {path}: array '{name}' has shape {array.shape}, expected one value per row, or several (rows, "
                "n). "
                f"Average over the other axes, such as seeds, in the table; {GUIDE}",
                kind="type",
                key=name,
            )
        return array if index is None else array[:, index]

    return Table(path, tuple(places), read)


def read_grid(path: Path, axes_path: Path) -> Table:
    """Return the table of an NPZ whose arrays have one axis per decision; values are averaged over further axes.

    Args:
        path: of the NPZ.
        axes_path: JSON file `{name: [values]}`, the axes of the arrays in their order.

    Raises:
        DataError: one of the files cannot be read.
    """
    axes = _read_axes(axes_path)
    sizes = tuple(map(len, axes.values()))
    arrays = _Arrays(path)

    def read(column: str) -> Any:
        if column in axes:
            position = list(axes).index(column)
            inner, outer = math.prod(sizes[position + 1 :]), math.prod(sizes[:position])
            return [str(value) for value in axes[column] for _ in range(inner)] * outer
        array = arrays.read(column)
        if array.shape[: len(sizes)] != sizes or array.dtype.kind not in "fiub":
            shown = ", ".join(f"{axis} {size}" for axis, size in zip(axes, sizes, strict=True))
            raise ConfigError(
                f"table {path}: array '{column}' is {array.shape}; the axes say {sizes} ({shown})",
                kind="conflict",
                key="evaluator.axes",
            )
        array = array.reshape(-1, *array.shape[len(sizes) :])
        return array if array.ndim == 1 else array.astype(np.float64).mean(tuple(range(1, array.ndim)))

    return Table(path, (*arrays.shapes, *axes), read, axes=axes)


class _Arrays:
    """The arrays of an NPZ file, read when they are asked for; the last one is kept, for the columns of a curve.

    Attributes:
        shapes: name of an array -> its shape.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: dict[str, Any] = {}
        with self._opened() as content:
            self.shapes: dict[str, tuple[int, ...]] = {name: self._shape(content, name) for name in content.files}

    def read(self, name: str) -> Any:
        if name not in self._last:
            with self._opened() as content:
                try:
                    self._last = {name: content[name]}
                except ValueError:
                    raise ConfigError(
                        f"table {self._path}: array '{name}' holds Python objects, which are never loaded from "
                        "files; save it as an array of numbers or texts: np.array(list_of_texts)",
                        kind="untrusted",
                        key=name,
                    ) from None
                except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                    raise self._unreadable(name, error) from None
        return self._last[name]

    def _shape(self, content: Any, name: str) -> tuple[int, ...]:
        """Return the shape of an array by its header."""
        try:
            with content.zip.open(f"{name}.npy") as member:
                version = np.lib.format.read_magic(member)
                read_header = np.lib.format.read_array_header_1_0
                if version > (1, 0):
                    read_header = np.lib.format.read_array_header_2_0
                return tuple(read_header(member)[0])
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise self._unreadable(name, error) from None

    def _unreadable(self, name: str, error: Exception) -> DataError:
        return DataError(f"table {self._path}: array '{name}' cannot be read: {error}", kind="unreadable", key=name)

    def _opened(self) -> Any:
        """Return the NPZ file, to be closed by `with`."""
        path = self._path
        try:
            content = np.load(path, allow_pickle=False)
        except ValueError:  # numpy takes whatever it does not know for a pickle, and advises to trust it
            raise DataError(f"table {path}: cannot be read as NPZ: not a file of numpy's", kind="unreadable") from None
        except (OSError, zipfile.BadZipFile, EOFError) as error:
            raise DataError(f"table {path}: cannot be read as NPZ: {error}", kind="unreadable") from None
        if not hasattr(content, "files"):
            raise DataError(
                f"table {path}: holds one array without a name; save it with np.savez(path, column=array, ...)",
                kind="unreadable",
            )
        return content


def _read_axes(path: Path) -> dict[str, list[Any]]:
    try:
        axes = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"axes {path}: no such file", kind="missing", key="evaluator.axes") from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"axes {path}: cannot be read as JSON: {error}", kind="unreadable", key="evaluator.axes"
        ) from None
    if not isinstance(axes, Mapping) or not axes or not all(isinstance(v, list) and v for v in axes.values()):
        raise DataError(
            f"axes {path}: expected a mapping from the name of each axis to its list of values",
            kind="type",
            key="evaluator.axes",
        )
    return dict(axes)
