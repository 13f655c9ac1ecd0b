"""Texts of a table that say all decisions of a point, taken apart into one column for each decision."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from nasforge.core.architecture import MODEL, TRAIN
from nasforge.core.errors import ConfigError, did_you_mean
from nasforge.core.space import SearchSpace
from nasforge.evaluators.table.file import TableFile

_NAMED = re.compile(r"\{([^{}]+)\}")


def short(name: str) -> str:
    """A decision's name without `model.` or `train.`."""
    return name.removeprefix(MODEL).removeprefix(TRAIN)


def named_in(space: SearchSpace, file: TableFile, texts: Sequence[str]) -> dict[str, list[str]]:
    """Columns from cells such as `{"width": 8, "op": "conv"}` or `width=8, op=conv`; names with prefix or without."""
    columns: dict[str, list[str]] = {name: [] for name, domain in space.domains.items() if domain.size != 1}
    full = _full_names(space)
    for row, text in enumerate(texts):
        values = {}
        for name, value in _pairs(file, row, text).items():
            if name not in full:
                raise ConfigError(
                    f"table {file.path}: {file.place(row)}: '{text}' names '{name}', which is no decision of space "
                    f"'{space.name}'; {did_you_mean(name, full)}"
                )
            values[full[name]] = value
        for name, cells in columns.items():
            cells.append(values.get(name, ""))
    return columns


def written_as(form: str, space: SearchSpace, file: TableFile, texts: Sequence[str]) -> dict[str, list[str]]:
    """Columns from cells that are written alike, such as `16:24:64` by the form `{width0}:{width1}:{width2}`.

    Args:
        form: with the name of every decision in braces, with `model.` and `train.` or without; those of one value may
            be left out.
        space: of the decisions.
        file: whose texts they are.
        texts: the cells.

    Raises:
        ConfigError: the form does not name every decision once, or a cell is not of this form.
    """
    parts = _NAMED.split(form)
    full = _full_names(space)
    unknown = next((name for name in parts[1::2] if name not in full), None)
    if unknown is not None:
        raise ConfigError(
            f"table {file.path}: key_form '{form}' names '{unknown}', which is no decision of space '{space.name}'; "
            f"{did_you_mean(unknown, full)}"
        )
    names = [full[name] for name in parts[1::2]]
    lacking = [name for name, domain in space.domains.items() if domain.size != 1 and name not in names]
    if lacking or len(set(names)) < len(names):
        wrong = f"does not name {', '.join(lacking)}" if lacking else "names a decision twice"
        raise ConfigError(f"table {file.path}: key_form '{form}' {wrong}; every decision stands there once")
    # A decision that is not active has an empty cell, but where nothing stands between two.
    cell = "(.+?)" if "}{" in form else "(.*?)"
    pattern = re.compile("".join(cell if place % 2 else re.escape(part) for place, part in enumerate(parts)))
    columns: dict[str, list[str]] = {name: [] for name in names}
    for row, text in enumerate(texts):
        found = pattern.fullmatch(text)
        if found is None:
            raise ConfigError(
                f"table {file.path}: {file.place(row)}: '{text}' is not written as key_form '{form}' says"
            )
        for name, value in zip(names, found.groups(), strict=True):
            columns[name].append(value.strip())
    return columns


def _full_names(space: SearchSpace) -> Mapping[str, str]:
    return {short(name): name for name in space.domains} | {name: name for name in space.domains}


def _pairs(file: TableFile, row: int, text: str) -> dict[str, str]:
    try:
        if text.startswith("{"):
            return {str(name): "" if value is None else str(value) for name, value in json.loads(text).items()}
        pairs = [pair.partition("=") for pair in text.replace(";", ",").split(",") if pair.strip()]
        if pairs and all(equals for _, equals, _ in pairs):
            return {name.strip(): value.strip() for name, _, value in pairs}
    except ValueError:
        pass
    raise ConfigError(
        f"table {file.path}: {file.place(row)}: '{text}' does not say the decisions as JSON or as name=value, "
        "name=value; say how it is written, as key_form: '{first}:{second}', or give a space that names its function "
        "`text` (docs/reference/tables.md)"
    )
