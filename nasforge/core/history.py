"""The reports of all trials, as pruners see them, with an index by step so that no question walks over all trials."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

Values: TypeAlias = tuple[float, ...]
"""One number per objective, to maximise."""


class History(Mapping[int, Mapping[int, Values]]):
    """Trial -> step -> values. It only grows.

    Attributes:
        revision: changes when a report comes that is not a trial's latest step; whatever was derived from the
            history before is then out of date.
        derived: what readers have computed from it, kept so that they need only look at what is new.
    """

    def __init__(self) -> None:
        self._trials: dict[int, dict[int, Values]] = {}
        self._steps: dict[int, list[int]] = {}
        self.revision = 0
        self.derived: dict[Hashable, Any] = {}

    def add(self, number: int, step: int, values: Values) -> None:
        """Add a report."""
        reports = self._trials.setdefault(number, {})
        if reports and step <= next(reversed(reports)):
            self.revision += 1
        if step not in reports:
            self._steps.setdefault(step, []).append(number)
        reports[step] = values

    def at(self, step: int) -> Sequence[int]:
        """Return the trials that have reported at `step`, in the order of their reports."""
        return self._steps.get(step, ())

    def with_report(self, number: int, step: int, values: Values) -> Pending:
        """Return the history with one more report; the history itself does not change."""
        return Pending(self, number, step, values)

    def __getitem__(self, number: int) -> Mapping[int, Values]:
        return self._trials[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._trials)

    def __len__(self) -> int:
        return len(self._trials)


class Pending(Mapping[int, Mapping[int, Values]]):
    """A history and one report that is not in it yet.

    Attributes:
        history: without the report.
    """

    def __init__(self, history: History, number: int, step: int, values: Values) -> None:
        self.history = history
        self._number = number
        self._reports = {**history.get(number, {}), step: values}

    def __getitem__(self, number: int) -> Mapping[int, Values]:
        return self._reports if number == self._number else self.history[number]

    def __iter__(self) -> Iterator[int]:
        yield from self.history
        if self._number not in self.history:
            yield self._number

    def __len__(self) -> int:
        return len(self.history) + (self._number not in self.history)
