"""Which row of a table belongs to a point: by the point's text, or by one column for each decision."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from nasforge.core.architecture import MODEL, TRAIN, Architecture
from nasforge.core.errors import ConfigError, SpaceError, did_you_mean
from nasforge.core.space import Choice, Decision, Domain, SearchSpace
from nasforge.evaluators.table.canonical import EMPTY, Table
from nasforge.evaluators.table.conversion import GUIDE

FORMS = ("text", "canonical", "arch_id", "point_id")
_COMPARED = 3000
_NONE = "\0"
_WORDS = {"true": ("true", "True", "TRUE", "1", "yes"), "false": ("false", "False", "FALSE", "0", "no")}

Key: TypeAlias = str | tuple[str, ...]
"""Key that a point and its row share: a text, or a token for each decision."""


class Rows:
    """Point -> row.

    Attributes:
        numbers: of the rows that are points of the space.
        count: how many rows the key has, those outside the space too.
    """

    def __init__(
        self,
        file: Table,
        keys: Sequence[Key],
        numbers: Sequence[int],
        count: int,
        key_of: Callable[[Architecture], Key],
        shown: Callable[[Key], str],
    ) -> None:
        """Build an index of the rows.

        Args:
            file: whose rows they are.
            keys: of the rows.
            numbers: of the rows.
            count: of all rows of the table.
            key_of: the key of a point.
            shown: a key in words.

        Raises:
            ConfigError: two rows have the same key.
        """
        self._file = file
        self._key_of = key_of
        self._shown = shown
        self._index = dict(zip(keys, numbers, strict=True))
        self.numbers = numbers
        self.count = count
        if len(self._index) < len(numbers):
            first: dict[Key, int] = {}
            for key, row in zip(keys, numbers, strict=True):
                other = first.setdefault(key, row)
                if other != row:
                    raise ConfigError(
                        f"table {file.path}: {file.place(other)} and {file.place(row)} are the same point: "
                        f"{shown(key)}. A point needs one row: average them, or name another key",
                        kind="duplicate",
                    )

    def row_of(self, architecture: Architecture) -> int | None:
        """Return the row of a point; None if there is none."""
        return self._index.get(self._key_of(architecture))

    def missing(self, architecture: Architecture) -> str:
        """Return the message that a point has no row."""
        shown = self._shown(self._key_of(architecture))
        return f"table {self._file.path}: no row for this point: {shown} is not among its {len(self._index):,} keys"

    def nearest(self, architecture: Architecture) -> str:
        """Return the row most similar to a missing point; empty if there is none. Slow if keys are texts."""
        key = self._key_of(architecture)
        compared = list(self._index)[:: 1 + len(self._index) // _COMPARED]
        near: Key | None
        if isinstance(key, str):
            texts = [text for text in compared if isinstance(text, str)]
            near = next(iter(difflib.get_close_matches(key, texts, n=1)), None)
        else:
            near = max(compared, key=lambda other: sum(a == b for a, b in zip(key, other, strict=True)))
        return f"{self._shown(near)} ({self._file.place(self._index[near])})" if near else ""


def rows_of(space: SearchSpace, file: Table, key: str | None, form: str | None) -> Rows:
    """Return the rows of `file`, found by the points of `space`.

    Args:
        space: whose points they are.
        file: the table.
        key: the column with the text of a point; None: columns named like decisions, with or without `model.` and
            `train.`, or else the keys of a JSON file.
        form: what the text is, one of `FORMS`; None: the space's `text`, else its `canonical` form.

    Raises:
        ConfigError: columns are missing or ambiguous, two rows are the same point, or none is a point of the space.
    """
    if key is None and file.key is not None and (form is not None or _without_column(space, file)):
        key = file.key
    if key is None:
        if form is not None:
            raise ConfigError(
                f"table {file.path}: key_form describes one key column. Set key to its name",
                kind="conflict",
                key="evaluator.key_form",
            )
        return _by_decision(space, file, _named(space, file))
    if form is not None and form not in FORMS:
        raise ConfigError(
            f"table {file.path}: key_form is {', '.join(FORMS[:-1])} or {FORMS[-1]}, got '{form}'. If '{key}' lists "
            f"the decisions, write a column for each decision into the table instead; {GUIDE}",
            kind="unknown",
            key="evaluator.key_form",
        )
    texts = file.texts(key)
    form = form or ("text" if space.text else "canonical" if space.canonical else None)
    if form is None:
        raise ConfigError(
            f"table {file.path}: key '{key}' needs a function from a point to its text, and space '{space.name}' has "
            "no `text` or `canonical`. Give the space one, set key_form to arch_id or point_id, or write a column for "
            f"each decision into the table and leave key out; {GUIDE}",
            kind="missing",
            key="evaluator.key_form",
        )
    return Rows(file, texts, range(len(texts)), len(texts), _text_of(space, form), lambda text: f"{key} '{text}'")


# --- by text ---------------------------------------------------------------------------------------------------------


def _text_of(space: SearchSpace, form: str) -> Callable[[Architecture], Key]:
    if form in ("arch_id", "point_id"):
        return lambda architecture: str(getattr(architecture, form))
    if not getattr(space, form):
        raise ConfigError(
            f"space '{space.name}' has no function '{form}'; set key_form to {' or '.join(FORMS[2:])}",
            kind="missing",
            key="evaluator.key_form",
        )
    if form == "canonical":
        return lambda architecture: str(architecture.canonical)
    text = space.function("text")
    return lambda architecture: str(text(architecture.model))


# --- by decision -----------------------------------------------------------------------------------------------------


def token(value: object) -> str:
    """Return the form in which cells are compared: `1`, `1.0` and `"1"` are the same, to seven digits."""
    text = str(value).strip()
    if isinstance(value, bool):
        return text.lower()
    try:
        number = float(text)
    except ValueError:
        return text
    if not math.isfinite(number):
        return text
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else f"{number:.7g}"


def _token_of(domain: Domain) -> Callable[[object], str]:
    """Return the function that compares values of a domain: `token`, or texts if `token` confused `01` with `1`."""
    if isinstance(domain, Choice) and len(set(map(token, domain.options))) < len(domain.options):
        return lambda value: str(value).strip()
    return token


def _reader(domain: Domain) -> Callable[[str], str | None]:
    """Return the function from a cell to its value's token; `_NONE` for an empty cell, None for an unknown value."""
    if isinstance(domain, Choice):
        token_of = _token_of(domain)
        known = {token_of(option): token_of(option) for option in domain.options}
        for option in domain.options:
            if isinstance(option, bool):
                known = {word: token_of(option) for word in _WORDS[token(option)]} | known
        return lambda cell: known.get(token_of(cell), _NONE if cell.lower() in EMPTY else None)

    def read(cell: str) -> str | None:
        if cell.lower() in EMPTY:
            return _NONE
        try:
            return token(domain.check(float(cell)))
        except (SpaceError, ValueError):
            return None

    return read


def _by_decision(space: SearchSpace, file: Table, columns: Mapping[str, Sequence[str]]) -> Rows:
    """Map the points of the space to the rows whose cells name their values; other rows are left out."""
    lengths = {name: len(cells) for name, cells in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ConfigError(f"table {file.path}: columns of the decisions differ in length: {lengths}", kind="unreadable")
    if not max(lengths.values()):
        raise ConfigError(f"table {file.path}: has no rows: {' and '.join(columns)} are empty", kind="empty")
    tokens: dict[str, list[str | None]] = {}
    for name, domain in space.domains.items():
        if name in columns:
            read = _reader(domain)
            known = {cell: read(cell) for cell in set(columns[name])}
            tokens[name] = [known[cell] for cell in columns[name]]
        else:  # it has one value only
            tokens[name] = [token(domain.values[0])] * max(lengths.values())
    names = list(space.domains)
    token_of = {name: _token_of(domain) for name, domain in space.domains.items()}
    branches = {
        name: {token_of[name](value): domain.branch(value) for value in domain.values if domain.branch(value)}
        for name, domain in space.domains.items()
        if isinstance(domain, Choice)
    }

    def point(row: int, cells: Mapping[str, str | None]) -> tuple[str, ...] | None:
        """Return tokens of the active decisions, `_NONE` for the others; None if it is no point of the space."""
        tokens = dict.fromkeys(names, _NONE)
        waiting: list[Decision] = list(space.decisions)
        while waiting:
            name = waiting.pop().key
            cell = cells[name]
            if cell is None:
                return None
            if cell == _NONE:
                got = columns[name][row]
                if got and got.lower() != "nan":  # `none` may well be an option that this space has not
                    return None
                raise ConfigError(
                    f"table {file.path}: {file.place(row)} has no value for '{name}', got '{got}'",
                    kind="range",
                    key=name,
                )
            tokens[name] = cell
            waiting += branches.get(name, {}).get(cell, ())
        return tuple(tokens.values())

    keys: list[Key] = []
    numbers: list[int] = []
    flat = len(space.decisions) == len(names)
    for row, cells in enumerate(zip(*tokens.values(), strict=True)):
        plain = flat and None not in cells and _NONE not in cells
        key = tuple(map(str, cells)) if plain else point(row, dict(zip(names, cells, strict=True)))
        if key is not None:
            keys.append(key)
            numbers.append(row)
    if not keys:
        raise ConfigError(_outside(space, file, columns, tokens), kind="unknown")

    def key_of(architecture: Architecture) -> Key:
        values = architecture.values
        return tuple(token_of[name](values[name]) if name in values else _NONE for name in names)

    def shown(key: Key) -> str:
        return ", ".join(f"{name} {cell}" for name, cell in zip(names, key, strict=True) if cell != _NONE)

    return Rows(file, keys, numbers, max(lengths.values()), key_of, shown)


def short(name: str) -> str:
    """Return a decision's name without `model.` or `train.`."""
    return name.removeprefix(MODEL).removeprefix(TRAIN)


def _outside(
    space: SearchSpace,
    file: Table,
    columns: Mapping[str, Sequence[str]],
    tokens: Mapping[str, Sequence[str | None]],
) -> str:
    """Return the error if no row is a point of the space, by the first decision that the first row contradicts."""
    name = next(name for name in tokens if tokens[name][0] is None)
    domain = space.domains[name]
    allowed = did_you_mean(columns[name][0], map(str, domain.options)) if isinstance(domain, Choice) else repr(domain)
    return (
        f"table {file.path}: no row is a point of space '{space.name}': '{name}' cannot be '{columns[name][0]}' "
        f"({file.place(0)}); {allowed}. If numbers stand for texts, write the texts into the table; {GUIDE}"
    )


def _named(space: SearchSpace, file: Table) -> dict[str, list[str]]:
    """Return the columns that are named like decisions."""
    texts = {name: file.texts(column) for name, column in _columns_of(space, file).items()}
    missing = _without_column(space, file)
    if missing or not texts:
        first = next(iter(missing or space.domains))
        raise ConfigError(
            f"table {file.path}: no column for decision{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
            f"{did_you_mean(short(first), file.names)}. Name the columns like decisions, or set key to the column "
            "with the text of each point",
            kind="missing",
            key=first,
        )
    return texts


def _columns_of(space: SearchSpace, file: Table) -> dict[str, str]:
    """Map decisions to the columns that are named like them."""
    shared = Counter(map(short, space.domains))
    named = {name: short(name) for name in space.domains if short(name) in file.names and shared[short(name)] == 1}
    return {
        name: name if name in file.names else named[name] for name in space.domains if name in {*file.names, *named}
    }


def _without_column(space: SearchSpace, file: Table) -> list[str]:
    """Return the decisions of several values without a column of their name."""
    named = _columns_of(space, file)
    return [name for name, domain in space.domains.items() if domain.size != 1 and name not in named]
