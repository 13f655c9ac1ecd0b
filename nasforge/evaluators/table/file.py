"""A table on disk as columns of texts and numbers: CSV, JSON, NPZ, or an NPZ grid with a JSON file of its axes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nasforge.core.errors import ConfigError, DataError, did_you_mean
from nasforge.evaluators.table.formats import FORMATS, is_npz
from nasforge.evaluators.table.json_file import looks_like_json, read_json

EMPTY = frozenset({"", "nan", "na", "n/a", "null", "none", "-"})
"""Cells without a value, in lower case."""

_SCALED = re.compile(r"(?P<column>.+?)\s*(?P<operator>[*/])\s*(?P<factor>[0-9.]+(?:[eE][+-]?\d+)?)\s*")
_PICKED = re.compile(r"(?P<array>.+)\[(?P<place>mean|[1-9][0-9]*)\]")
PATTERN = "{epochs}"
"""Stands for the fidelity in the name of a column."""


class TableFile:
    """The columns of one file; what it is asked for is read once.

    Attributes:
        path: absolute.
        key: the column with the keys of a JSON file `{key: {column: value}}`; None for other files.
    """

    def __init__(self, path: Path, axes: Path | None = None) -> None:
        """Read the names of the columns (of a CSV or JSON the cells too).

        Args:
            path: an NPZ or JSON file, or a text file with one header line; its separator is a comma, semicolon or tab.
            axes: a JSON file `{name: [values]}`, the axes of the NPZ's arrays in their order. Axes beyond those
                (seeds) are averaged over.

        Raises:
            DataError: no such file, or not a table.
        """
        self.path = path
        self._axes: dict[str, list[Any]] | None = None if axes is None else _read_axes(axes)
        self._rows: list[list[str]] = []
        self._places: list[str] = []
        self.key: str | None = None
        self._last: dict[str, Any] = {}
        if not path.is_file():
            raise DataError(f"table {path}: " + ("is a folder; needed is a file" if path.is_dir() else "no such file"))
        if is_npz(path):
            with _opened(path) as content:
                names = list(content.files)
        else:
            if axes is not None:
                raise DataError(f"table {path}: axes are for arrays in a .npz file; a text has one row per point")
            names = self._read_text()
        self.names: tuple[str, ...] = tuple(names) + (tuple(self._axes) if self._axes else ())

    # --- what it is asked for ---------------------------------------------------------------------------------------

    def texts(self, name: str) -> list[str]:
        """A column as texts, float32 numbers in their shortest form.

        Raises:
            ConfigError: no such column, or not one value per row.
        """
        if self._axes is not None and name in self._axes:
            return self._axis(name)
        if self._rows:
            column = self._index(name)
            return [row[column] for row in self._rows]
        return _as_texts(self._flat(name))

    def blocks(self, name: str) -> list[list[str]] | None:
        """The columns of a two-dimensional array as texts; None where it has another shape."""
        if self._rows or self._axes is not None:
            return None
        array = self.array(name)
        return [_as_texts(array[:, column]) for column in range(array.shape[1])] if array.ndim == 2 else None

    def numbers(self, expression: str) -> list[float]:
        """A column as numbers, NaN where a cell is empty; `params_M*1e6` and `time_ms/1000` scale it.

        Raises:
            ConfigError: no such column, or a cell that is no number (with its place).
        """
        name, factor = self.scaled(expression)
        if self._rows or name in (self._axes or ()):
            found = self._parsed(name)
        else:
            array = self._flat(name)
            if array.dtype.kind not in "fiub":
                found = self._parsed(name)
            elif array.dtype == np.float32:  # 84.892 and not 84.89199829101562
                found = [float(text) for text in array.astype(str).tolist()]
            else:
                found = array.astype(np.float64).tolist()
        return found if factor == 1.0 else [value * factor for value in found]

    def scaled(self, expression: str) -> tuple[str, float]:
        """The column of an expression, and what its numbers are to be multiplied with."""
        if expression not in self.names and (parts := _SCALED.fullmatch(expression)):
            factor = float(parts["factor"])
            if factor > 0:
                return parts["column"], factor if parts["operator"] == "*" else 1 / factor
        return expression, 1.0

    def fidelities(self, pattern: str) -> dict[int, str]:
        """Epochs -> column for a pattern such as `val_e{epochs}`, or `val[{epochs}]` of an array of learning curves.

        Raises:
            ConfigError: no column fits it.
        """
        name, _ = self.scaled(pattern)
        scale = pattern[len(name) :]
        before, _, after = name.partition(PATTERN)
        if before.endswith("[") and after == "]" and not self._rows:
            array = before.removesuffix("[")
            count = max((1, *self._by_row(array).shape[1:2]))  # without any, the first says what is wrong
            return {place: f"{array}[{place}]{scale}" for place in range(1, 1 + count)}
        form = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
        found = {int(match[1]): match[0] + scale for column in self.names if (match := form.fullmatch(column))}
        if not found:
            raise ConfigError(f"table {self.path}: no column looks like '{name}'; {did_you_mean(before, self.names)}")
        return dict(sorted(found.items()))

    def place(self, row: int) -> str:
        """Where a row stands, for messages."""
        return self._places[row] if self._places else f"row {row}"

    def array(self, name: str) -> Any:
        """An array of the NPZ as it is. Raises ConfigError: there is none, or it holds Python objects."""
        if name in self._last:
            return self._last[name]
        with _opened(self.path) as content:
            if name not in content.files:
                raise self._unknown(name)
            try:
                self._last = {name: content[name]}  # of a learning curve every epoch is asked for
                return self._last[name]
            except ValueError:
                raise ConfigError(
                    f"table {self.path}: array '{name}' holds Python objects, which are not loaded from foreign "
                    "files; save it as an array of numbers or texts: np.array(list_of_texts)"
                ) from None
            except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise DataError(f"table {self.path}: array '{name}' cannot be read: {error}") from None

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the file's content, and of its axes."""
        return hashlib.sha256(self.path.read_bytes() + repr(self._axes).encode()).hexdigest()[:12]

    # --- reading ----------------------------------------------------------------------------------------------------

    def _read_text(self) -> list[str]:
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"table {self.path}: cannot be read as text (UTF-8): {error}. {FORMATS}") from None
        if not looks_like_json(self.path, text):
            return self._read_csv(text)
        found = read_json(self.path, text)
        self._rows, self.key = found.rows, found.key
        if found.key is not None:
            self._places = [f"key '{row[0]}'" for row in found.rows]
        return found.names

    def _read_csv(self, text: str) -> list[str]:
        head = next((line for line in text.splitlines() if line.strip()), "")
        separator = max(",;\t", key=lambda mark: _columns(head, mark))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
        names: list[str] = []
        try:
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if not names:
                    names = [cell.strip() for cell in cells]
                    continue
                if len(cells) != len(names):
                    raise DataError(
                        f"table {self.path}: line {reader.line_num} has {len(cells)} cells, the header {len(names)}; "
                        "put cells that hold the separator in double quotes"
                    )
                self._rows.append([cell.strip() for cell in cells])
                self._places.append(f"line {reader.line_num}")
        except csv.Error as error:
            raise DataError(f"table {self.path}: line {reader.line_num}: {error}. {FORMATS}") from None
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(f"table {self.path}: column '{twice[0]}' is there twice; rename one")
        if not self._rows:
            raise DataError(f"table {self.path}: needs a header line with the columns' names and one row per point")
        return names

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise self._unknown(name)
        return self.names.index(name)

    def _unknown(self, name: str) -> ConfigError:
        return ConfigError(f"table {self.path}: no column '{name}'; {did_you_mean(name, self.names)}")

    def _axis(self, name: str) -> list[str]:
        assert self._axes is not None  # noqa: S101  (the caller asked, for the type checker)
        sizes = [len(values) for values in self._axes.values()]
        position = list(self._axes).index(name)
        inner, outer = math.prod(sizes[position + 1 :]), math.prod(sizes[:position])
        column = [str(value) for value in self._axes[name] for _ in range(inner)]
        return column * outer

    def _flat(self, name: str) -> Any:
        """One value per row: of `curve[12]` the twelfth of each row, of `runs[mean]` their mean."""
        parts = None if name in self.names else _PICKED.fullmatch(name)
        array = self._by_row(parts["array"] if parts else name)
        if parts and array.ndim == 1:
            raise ConfigError(f"table {self.path}: '{name}': the array has one value per row; leave the brackets out")
        if parts and parts["place"] != "mean":
            place = int(parts["place"])
            if place > array.shape[1]:
                raise ConfigError(f"table {self.path}: '{name}': the array has {array.shape[1]} values per row")
            array = array[:, place - 1]
        elif array.ndim > 1 and not parts and self._axes is None:
            raise ConfigError(
                f"table {self.path}: array '{name}' is {array.shape}; needed is one value per row: '{name}[3]' is the "
                f"third of each, '{name}[{PATTERN}]' a learning curve, '{name}[mean]' the mean over seeds"
            )
        if array.ndim > 1 and array.dtype.kind not in "fiub":
            raise ConfigError(f"table {self.path}: '{name}' is a mean of texts; needed is one value per row")
        return array if array.ndim == 1 else array.astype(np.float64).mean(tuple(range(1, array.ndim)))

    def _by_row(self, name: str) -> Any:
        """An array whose first axis are the rows, those of a grid in the order of its axes."""
        array = self.array(name)
        if self._axes is not None:
            sizes = tuple(len(values) for values in self._axes.values())
            if array.shape[: len(sizes)] != sizes or array.dtype.kind not in "fiub":
                axes = ", ".join(f"{axis} {size}" for axis, size in zip(self._axes, sizes, strict=True))
                raise ConfigError(f"table {self.path}: array '{name}' is {array.shape}; the axes say {sizes} ({axes})")
            return array.reshape(-1, *array.shape[len(sizes) :])
        if array.ndim == 0:
            raise ConfigError(f"table {self.path}: '{name}' is one value, {array}; needed is one per row")
        return array

    def _parsed(self, name: str) -> list[float]:
        found = []
        for row, cell in enumerate(self.texts(name)):
            try:
                found.append(math.nan if cell.lower() in EMPTY else float(cell))
            except ValueError:
                comma = "; write it with a point" if re.fullmatch(r"[-+]?\d+,\d+", cell) else ""
                raise ConfigError(
                    f"table {self.path}: {self.place(row)}: column '{name}' needs a number, got '{cell}'{comma}"
                ) from None
        return found


def _columns(head: str, separator: str) -> int:
    """How many columns a header line has; 0 where it is none."""
    try:
        return len(next(csv.reader([head], delimiter=separator), []))
    except csv.Error:
        return 0


@lru_cache(maxsize=8)
def _known(path: Path, axes: Path | None, stamp: tuple[int, ...]) -> TableFile:
    return TableFile(path, axes)


def open_table(path: Path, axes: Path | None = None) -> TableFile:
    """The table in a file, kept in the process as long as the file does not change. Raises as `TableFile`."""
    stamps = [found.stat() for found in (path, axes) if found is not None and found.is_file()]
    return _known(path, axes, tuple(n for stamp in stamps for n in (stamp.st_mtime_ns, stamp.st_size)))


def _as_texts(array: Any) -> list[str]:
    if array.dtype.kind == "S":
        return [cell.decode("utf-8", "replace").strip() for cell in array.tolist()]
    return [cell.strip() for cell in array.astype(str).tolist()]


def _opened(path: Path) -> Any:
    """The NPZ file, to be closed by `with`."""
    try:
        content = np.load(path, allow_pickle=False)
    except ValueError:  # numpy takes whatever it does not know for a pickle, and advises to trust it
        raise DataError(f"table {path}: cannot be read as NPZ: not a file of numpy's") from None
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"table {path}: cannot be read as NPZ: {error}") from None
    if not hasattr(content, "files"):
        raise DataError(f"table {path}: holds one array without a name; save it with np.savez(path, column=array, ...)")
    return content


def _read_axes(path: Path) -> dict[str, list[Any]]:
    try:
        axes = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"axes {path}: no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"axes {path}: cannot be read as JSON: {error}") from None
    if not isinstance(axes, Mapping) or not axes or not all(isinstance(v, list) and v for v in axes.values()):
        raise DataError(f"axes {path}: needs a mapping from the name of each axis to its list of values")
    return dict(axes)
