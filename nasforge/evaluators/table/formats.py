"""Which format a table's file has, by its first bytes; what cannot be read is refused with a way to convert it."""

from __future__ import annotations

import shlex
import zipfile
from pathlib import Path

from nasforge.core.errors import DataError

FORMATS = (
    "A table is a text file with a header line (separated by commas, semicolons or tabs), a JSON file (a list of "
    "records, or {key: {column: value}}), or an NPZ file with an array per column"
)
"""The sentence for every file that is none of them."""

_PANDAS = "Convert it: python -c \"import pandas; pandas.{reader}('{path}').to_csv('{stem}.csv', index=False)\""
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "compressed by gzip", "Decompress it: gunzip --keep {quoted}"),
    (b"BZh", "compressed by bzip2", "Decompress it: bunzip2 --keep {quoted}"),
    (b"\xfd7zXZ\x00", "compressed by xz", "Decompress it: unxz --keep {quoted}"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "Decompress it: unzstd {quoted}"),
    (b"PAR1", "a Parquet file", _PANDAS.replace("{reader}", "read_parquet")),
    (b"ARROW1", "a Feather file", _PANDAS.replace("{reader}", "read_feather")),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", _PANDAS.replace("{reader}", "read_hdf")),
    (b"\xd0\xcf\x11\xe0", "an Excel file", _PANDAS.replace("{reader}", "read_excel")),
    (b"SQLite format 3\x00", "an SQLite database", "Write one of its tables as CSV: sqlite3 -csv -header FILE QUERY"),
    (b"\x93NUMPY", "one array without a name", "Save it by np.savez(path, column=array, ...)"),
)
_PICKLE = (
    "a pickle, which may run any code when it is read",
    "If you trust it, convert it where it was made: pandas.DataFrame(...).to_csv('{stem}.csv')",
)


def is_npz(path: Path) -> bool:
    """Return whether a file is an NPZ; otherwise it is a text.

    Raises:
        DataError: it is neither.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise DataError(f"table {path}: cannot be read: {error.strerror}", kind="unreadable") from None
    for magic, what, advice in _FOREIGN:
        if head.startswith(magic):
            raise _refused(path, what, advice)
    if head.startswith(b"PK\x03\x04"):
        return _is_npz_archive(path)
    if (head[:1] == b"\x80" and head[1:2] <= b"\x05") or path.suffix.lower() in (".pkl", ".pickle"):
        raise _refused(path, *_PICKLE)
    return path.suffix.lower() == ".npz"


def _is_npz_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        names = []
    if path.suffix.lower() == ".npz" or (names and all(name.endswith(".npy") for name in names)):
        return True
    if any(name.startswith("xl/") for name in names):
        raise _refused(path, "an Excel file", _PANDAS.replace("{reader}", "read_excel"))
    if any(name.endswith("data.pkl") for name in names):
        raise _refused(path, "a file of torch.save", _PICKLE[1])
    raise _refused(path, "a ZIP archive", "Unpack it: unzip {quoted}")


def _refused(path: Path, what: str, advice: str) -> DataError:
    words = {"{path}": str(path), "{stem}": str(path.with_suffix("")), "{quoted}": shlex.quote(str(path))}
    for name, value in words.items():
        advice = advice.replace(name, value)
    return DataError(f"table {path}: is {what}. {FORMATS}. {advice}", kind="unreadable")
