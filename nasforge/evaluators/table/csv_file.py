"""A table in a text file: one header line, then one row per line."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from nasforge.core.errors import DataError
from nasforge.evaluators.table.canonical import Table
from nasforge.evaluators.table.formats import FORMATS


def read_csv(path: Path, text: str) -> Table:
    """Return the table in a text whose separator is a comma, semicolon or tab.

    Raises:
        DataError: no header, no rows, or a row with more or fewer cells than the header.
    """
    head = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(",;\t", key=lambda mark: _columns(head, mark))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    names: list[str] = []
    rows: list[list[str]] = []
    places: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = [cell.strip() for cell in cells]
                continue
            if len(cells) != len(names):
                raise DataError(
                    f"table {path}: line {reader.line_num} has {len(cells)} cells, the header {len(names)}; "
                    "put cells that hold the separator in double quotes",
                    kind="unreadable",
                )
            rows.append([cell.strip() for cell in cells])
            places.append(f"line {reader.line_num}")
    except csv.Error as error:
        raise DataError(f"table {path}: line {reader.line_num}: {error}. {FORMATS}", kind="unreadable") from None
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"table {path}: column '{twice[0]}' appears twice; rename one", kind="duplicate", key=twice[0])
    if not rows:
        raise DataError(
            f"table {path}: has no rows, expected a header line with the columns' names and one row per point",
            kind="empty",
        )
    return Table(path, names, lambda name: [row[names.index(name)] for row in rows], places=places)


def _columns(head: str, separator: str) -> int:
    """Return how many columns a header line has; 0 where it is none."""
    try:
        return len(next(csv.reader([head], delimiter=separator), []))
    except csv.Error:
        return 0
