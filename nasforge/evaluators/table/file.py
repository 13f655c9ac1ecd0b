"""Open a table's file with the reader of its format."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from nasforge.core.errors import DataError
from nasforge.evaluators.table.canonical import Table
from nasforge.evaluators.table.csv_file import read_csv
from nasforge.evaluators.table.formats import FORMATS, is_npz
from nasforge.evaluators.table.json_file import looks_like_json, read_json
from nasforge.evaluators.table.npz_file import read_grid, read_npz


def open_table(path: Path, axes: Path | None = None) -> Table:
    """Return the table in a file; the process keeps it as long as the file does not change.

    Args:
        path: an NPZ or JSON file, or a text file with one header line.
        axes: a JSON file `{name: [values]}` for an NPZ that is a grid, see `read_grid`.

    Raises:
        DataError: no such file, or not a table.
    """
    stamps = [file.stat() for file in (path, axes) if file is not None and file.is_file()]
    return _opened(path, axes, tuple(n for stamp in stamps for n in (stamp.st_mtime_ns, stamp.st_size)))


@lru_cache(maxsize=8)
def _opened(path: Path, axes: Path | None, stamp: tuple[int, ...]) -> Table:
    if not path.is_file():
        raise DataError(
            f"table {path}: " + ("is a folder, expected a file" if path.is_dir() else "no such file"), kind="missing"
        )
    if is_npz(path):
        return read_npz(path) if axes is None else read_grid(path, axes)
    if axes is not None:
        raise DataError(
            f"table {path}: axes belong to arrays in a .npz file, but this is a text; leave axes out",
            kind="conflict",
            key="evaluator.axes",
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"table {path}: cannot be read as text (UTF-8): {error}. {FORMATS}", kind="unreadable"
        ) from None
    return read_json(path, text) if looks_like_json(path, text) else read_csv(path, text)
