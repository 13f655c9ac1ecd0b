"""A table in a JSON file: records, `{key: {column: value}}`, or what pandas writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nasforge.core.errors import DataError
from nasforge.evaluators.table.canonical import Table
from nasforge.evaluators.table.formats import FORMATS

SUFFIXES = (".json", ".jsonl", ".ndjson")
_KEYS = ("key", "index", "row_key")


def looks_like_json(path: Path, text: str) -> bool:
    """Return whether to read a text as JSON; a header line of a CSV may begin with a bracket too."""
    if path.suffix.lower() in SUFFIXES:
        return True
    if text.lstrip()[:1] not in ("{", "["):
        return False
    try:
        _parsed(text)
    except (ValueError, RecursionError):
        return False
    return True


def read_json(path: Path, text: str) -> Table:
    """Return the table in a text.

    Nested values become columns: `val.accuracy`, and `curve[1]`, `curve[2]`, ... of a list.

    Raises:
        DataError: no JSON, or no table.
    """
    try:
        content = _parsed(text)
    except RecursionError:
        raise DataError(f"table {path}: its JSON is nested too deeply. {FORMATS}", kind="unreadable") from None
    except ValueError as error:
        raise DataError(f"table {path}: cannot be read as JSON: {error}. {FORMATS}", kind="unreadable") from None
    keys, records = _records(path, content)
    flat = [dict(_cells("", record)) for record in records]
    names = list(dict.fromkeys(name for record in flat for name in record))
    if keys is None:
        return Table(path, names, lambda name: [record.get(name, "") for record in flat])
    key = next((name for name in _KEYS if name not in names), _KEYS[0] * 2)
    for record, text_of in zip(flat, keys, strict=True):
        record[key] = text_of
    places = [f"key '{text_of}'" for text_of in keys]
    return Table(path, [key, *names], lambda name: [record.get(name, "") for record in flat], places=places, key=key)


def _parsed(text: str) -> Any:
    """Parse one JSON document, or one per line."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        return [json.loads(line, object_pairs_hook=_unique) for line in text.splitlines() if line.strip()]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{next(name for name in names if names.count(name) > 1)}' is there twice")
    return content


def _records(path: Path, content: Any) -> tuple[list[str] | None, Sequence[Mapping[str, Any]]]:
    """Return the keys of the rows, if they have any, and the rows."""
    if isinstance(content, Mapping) and isinstance(content.get("data"), list) and {"columns", "schema"} & {*content}:
        content = _of_pandas(path, content)  # orient="split" and "table"
    if isinstance(content, list) and content and all(isinstance(record, Mapping) for record in content):
        return None, content
    if isinstance(content, Mapping) and content:
        values = list(content.values())
        if all(isinstance(value, Mapping) for value in values):
            inner = values[0].keys()
            numbered = bool(inner) and list(inner) == [str(place) for place in range(len(inner))]
            if numbered and all(value.keys() == inner for value in values) and not all(map(str.isdecimal, content)):
                return None, [{name: column[place] for name, column in content.items()} for place in inner]
            return list(content), values
        if all(isinstance(value, list) for value in values):
            lengths = {name: len(column) for name, column in content.items()}
            if len(set(lengths.values())) != 1:
                raise DataError(
                    f"table {path}: its columns differ in length: {lengths}. A table has one value per row",
                    kind="unreadable",
                )
            if values[0]:
                return None, [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]
    kinds = {"dict": "an object of other values", "list": "a list of other values or an empty one"}
    kind = kinds.get(type(content).__name__, f"one {type(content).__name__}")
    raise DataError(f"table {path}: its JSON is {kind}, not rows with named columns. {FORMATS}", kind="unreadable")


def _of_pandas(path: Path, content: Mapping[str, Any]) -> Any:
    rows, names = content["data"], content.get("columns")
    if not isinstance(names, list):
        return rows
    if not all(isinstance(row, list) and len(row) == len(names) for row in rows):
        raise DataError(
            f"table {path}: the rows of 'data' do not have one value for each of the {len(names)} columns",
            kind="unreadable",
            key="data",
        )
    return [dict(zip(map(str, names), row, strict=True)) for row in rows]


def _cells(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Name and text of every cell that a value fills."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _cells(f"{name}.{key}" if name else str(key), inner)
    elif isinstance(value, list):
        for place, inner in enumerate(value, 1):
            yield from _cells(f"{name}[{place}]", inner)
    else:
        yield name, "" if value is None else str(value).lower() if isinstance(value, bool) else str(value).strip()
