"""Advice on converting a table to the canonical form: options of version 0.1.0 computed columns themselves."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

GUIDE = "docs/howto/tables.md, 'Convert a table', has examples"

_SCALED = re.compile(r"(?P<column>.+?)\s*(?P<factor>[*/]\s*[0-9.]+(?:[eE][+-]?\d+)?)\s*")
_MEAN = re.compile(r"(?P<array>.+)\[mean\]")


def not_a_column(path: Path, names: Collection[str], name: str) -> str:
    """Return how to write into the table what `name` stands for.

    Args:
        path: of the table.
        names: of its columns.
        name: what an option has instead of a column's name: an expression (`params_M*1e6`, `test[mean]`), or an array
            with several values per row.

    Returns:
        The advice; empty if `name` is none of these.
    """
    if scaled := _SCALED.fullmatch(name):
        column, factor = scaled["column"], " ".join((scaled["factor"][0], scaled["factor"][1:].strip()))
        if column in names:
            return _advice(path, "columns are not scaled", f"{column}_scaled", f"t['{column}'] {factor}")
        return f"columns are not scaled. Write scaled columns into the table; {GUIDE}"
    mean = _MEAN.fullmatch(name)
    array = mean["array"] if mean else name
    if f"{array}[1]" in names:
        if mean and path.suffix.lower() == ".npz":
            return _advice(path, "columns are not averaged", f"{array}_mean", f"t['{array}'].mean(1)")
        return (
            f"'{array}' has several values per row, which are the columns '{array}[1]', '{array}[2]', ... A learning "
            f"curve is '{array}[{{epochs}}]'. Write anything else, such as a mean, into the table; {GUIDE}"
        )
    return ""


def _advice(path: Path, what: str, column: str, value: str) -> str:
    kind = path.suffix.lower()
    target = path.with_name(f"{path.stem}_converted{kind}")
    if kind == ".npz":
        code = f"import numpy; t = dict(numpy.load('{path}')); t['{column}'] = {value}; numpy.savez('{target}', **t)"
    else:
        read, write = ("json", "orient='records'") if kind == ".json" else ("csv", "index=False")
        how = "" if kind == ".json" else ", sep=None, engine='python'"
        code = (
            f"import pandas; t = pandas.read_{read}('{path}'{how}); t['{column}'] = {value}; "
            f"t.to_{read}('{target}', {write})"
        )
    return f'{what}. Write the column into the table: python -c "{code}". Then set path to {target} and name {column}'
