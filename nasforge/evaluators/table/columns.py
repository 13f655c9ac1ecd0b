"""The columns of a table that a search needs, each checked once and kept in the process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from nasforge.core.errors import ConfigError
from nasforge.core.space import SearchSpace
from nasforge.evaluators.table.canonical import PATTERN, Table
from nasforge.evaluators.table.rows import Rows, rows_of


@dataclass(frozen=True)
class Columns:
    """Contents read from a table: the rows' keys, and the columns that the options name.

    Attributes:
        fidelities: epochs at which the signal is known, rising; empty where there is one number per point.
        signal: one column per fidelity, or one.
        seconds: virtual seconds until the end of each fidelity, as `signal`.
        multiply_adds: the same of multiply-adds.
        metrics: one column per fidelity, or one for the end.
        costs: `cost/*` -> column.
        proxies: name -> column.
        final: what no result has.
    """

    rows: Rows
    fidelities: tuple[int, ...]
    signal: tuple[list[float], ...]
    seconds: tuple[list[float], ...]
    multiply_adds: tuple[list[float], ...]
    metrics: Mapping[str, tuple[list[float], ...]]
    costs: Mapping[str, list[float]]
    proxies: Mapping[str, list[float]]
    final: list[float] | None


@dataclass(frozen=True)
class Asked:
    """The options that name columns, hashable."""

    key: str | None
    key_form: str | None
    signal: str | None
    fidelity: tuple[tuple[int, str], ...]
    final: str | None
    metrics: tuple[tuple[str, str], ...]
    costs: tuple[tuple[str, str], ...]
    proxies: tuple[tuple[str, str], ...]
    seconds: float | str
    multiply_adds: float | str


@lru_cache(maxsize=8)
def columns_of(space: SearchSpace, file: Table, asked: Asked) -> Columns:
    """Return the requested columns, each checked."""
    by_epochs = dict(sorted(asked.fidelity))
    if asked.signal is not None and PATTERN in asked.signal:
        by_epochs = file.fidelities(asked.signal)
    fidelities = tuple(by_epochs)
    signal = tuple(file.numbers(name) for name in by_epochs.values() or (str(asked.signal),))
    rows = rows_of(space, file, asked.key, asked.key_form)
    length = len(signal[0])

    def column(name: str) -> list[float]:
        numbers = file.numbers(name)
        if len(numbers) != length:
            raise ConfigError(
                f"table {file.path}: '{name}' has {len(numbers):,} values, the signal {length:,}; "
                "make them equally long",
                kind="invalid",
                key=name,
            )
        return numbers

    def several(name: str) -> tuple[list[float], ...]:
        """Return a column for each fidelity if the name is a pattern, else the one column."""
        if PATTERN not in name:
            return (column(name),)
        known = file.fidelities(name)
        missing = [epochs for epochs in fidelities if epochs not in known]
        if missing or not fidelities:
            of = f" for epochs {', '.join(map(str, missing))}" if missing else ", as the signal has no epochs"
            raise ConfigError(f"table {file.path}: '{name}' cannot be read{of}", kind="missing", key=name)
        return tuple(column(known[epochs]) for epochs in fidelities)

    def until(what: float | str, option: str) -> tuple[list[float], ...]:
        """Return for each fidelity the share of a whole evaluation, or its own column."""
        if isinstance(what, str) and PATTERN in what:
            pairs = zip(several(what), signal, strict=True)
            return tuple(_charges(file, option, charges, values) for charges, values in pairs)
        if isinstance(what, str):
            whole = _charges(file, option, column(what), signal[-1])
        elif isinstance(what, bool) or not what >= 0 or math.isinf(what):
            raise ConfigError(
                f"evaluator 'lookup_table': {option} must be a number of at least 0, got {what!r}",
                kind="range",
                key=f"evaluator.{option}",
            )
        else:
            whole = [float(what)] * length
        if not fidelities:
            return (whole,)
        return tuple([value * epochs / fidelities[-1] for value in whole] for epochs in fidelities)

    if rows.count != length:
        raise ConfigError(
            f"table {file.path}: the key has {rows.count:,} rows, the signal {length:,}; make them equally long",
            kind="invalid",
            key="evaluator.key",
        )
    return Columns(
        rows=rows,
        fidelities=fidelities,
        signal=signal,
        seconds=until(asked.seconds, "seconds"),
        multiply_adds=until(asked.multiply_adds, "multiply_adds"),
        metrics={name: several(name_of) for name, name_of in asked.metrics},
        costs={name: column(name_of) for name, name_of in asked.costs},
        proxies={name: column(name_of) for name, name_of in asked.proxies},
        final=None if asked.final is None else column(asked.final),
    )


def _charges(file: Table, option: str, charges: list[float], signal: list[float]) -> list[float]:
    """Check numbers that a budget adds up; a row without a signal needs none."""
    for row, value in enumerate(charges):
        if not 0 <= value < math.inf and not (math.isnan(value) and math.isnan(signal[row])):
            raise ConfigError(
                f"table {file.path}: {file.place(row)}: {option} must be at least 0, got {value}",
                kind="range",
                key=f"evaluator.{option}",
            )
    return [0.0 if math.isnan(value) else value for value in charges]
