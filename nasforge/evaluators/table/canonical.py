"""The one form in which a search sees a table: named columns with one value per row, whatever file they come from."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nasforge.core.errors import ConfigError, did_you_mean
from nasforge.evaluators.table.conversion import not_a_column

EMPTY = frozenset({"", "nan", "na", "n/a", "null", "none", "-"})
"""Cells without a value, in lower case."""
PATTERN = "{epochs}"
"""Placeholder for the fidelity in the name of a column."""


class Table:
    """Named columns of one file; a reader (CSV, JSON, NPZ) makes it.

    Attributes:
        path: absolute path of the file.
        names: names of the columns.
        key: column with the keys of a JSON file `{key: {column: value}}`; None for other files.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        read: Callable[[str], Any],
        *,
        places: Sequence[str] = (),
        key: str | None = None,
        axes: object = None,
    ) -> None:
        """Keep the reader; it reads a column when the column is asked for.

        Args:
            path: absolute path of the file.
            names: names of the columns.
            read: name of a column -> its cells: a list of texts, or a one-dimensional array.
            places: where each row is, for messages; empty: its number.
            key: see `Table`.
            axes: content of the file of axes, for the fingerprint.
        """
        self.path = path
        self.names = tuple(names)
        self.key = key
        self._read = read
        self._places = places
        self._axes = axes

    def texts(self, name: str) -> list[str]:
        """Return a column as texts, float32 numbers in their shortest form. Raises ConfigError: no such column."""
        cells = self._cells(name)
        if isinstance(cells, list):
            return cells
        if cells.dtype.kind == "S":
            return [cell.decode("utf-8", "replace").strip() for cell in cells.tolist()]
        return [cell.strip() for cell in cells.astype(str).tolist()]

    def numbers(self, name: str) -> list[float]:
        """Return a column as numbers, NaN where a cell is empty.

        Raises:
            ConfigError: no such column, or a cell that is no number (with its place).
        """
        cells = self._cells(name)
        if isinstance(cells, list) or cells.dtype.kind not in "fiub":
            return self._parsed(name)
        if cells.dtype == np.float32:  # 84.892 and not 84.89199829101562
            return [float(text) for text in cells.astype(str).tolist()]
        return [float(value) for value in cells.astype(np.float64).tolist()]

    def fidelities(self, pattern: str) -> dict[int, str]:
        """Return epochs -> column for a pattern such as `val_e{epochs}` or `val[{epochs}]`.

        Raises:
            ConfigError: no column has such a name.
        """
        before, _, after = pattern.partition(PATTERN)
        form = re.compile(re.escape(before) + r"([0-9]+)" + re.escape(after))
        columns = {int(match[1]): match[0] for name in self.names if (match := form.fullmatch(name))}
        if not columns:
            hint = not_a_column(self.path, self.names, pattern) or did_you_mean(before, self.names)
            raise ConfigError(
                f"table {self.path}: no column looks like '{pattern}'; {hint}", kind="unknown", key=pattern
            )
        return dict(sorted(columns.items()))

    def place(self, row: int) -> str:
        """Return where a row is, for messages."""
        return self._places[row] if self._places else f"row {row}"

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the file's content, and of its axes."""
        return hashlib.sha256(self.path.read_bytes() + repr(self._axes).encode()).hexdigest()[:12]

    def _cells(self, name: str) -> Any:
        if name not in self.names:
            hint = not_a_column(self.path, self.names, name) or did_you_mean(name, self.names)
            raise ConfigError(f"table {self.path}: no column '{name}'; {hint}", kind="unknown", key=name)
        return self._read(name)

    def _parsed(self, name: str) -> list[float]:
        numbers = []
        for row, cell in enumerate(self.texts(name)):
            try:
                numbers.append(math.nan if cell.lower() in EMPTY else float(cell))
            except ValueError:
                comma = "; write it with a point" if re.fullmatch(r"[-+]?[0-9]+,[0-9]+", cell) else ""
                raise ConfigError(
                    f"table {self.path}: {self.place(row)}: column '{name}' needs a number, got '{cell}'{comma}",
                    kind="type",
                    key=name,
                ) from None
        return numbers
