"""Points of any search space as rows of numbers, for strategies that learn from numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nasforge.core.architecture import Architecture
from nasforge.core.space import Choice, Domain, SearchSpace
from nasforge.strategies.choosers import position

Rows = NDArray[np.float64]

_APART = 0.5**0.5
_UNLIKE = 0.1**0.5


class _Columns(NamedTuple):
    """Columns of a decision in a row, and the numbers that its values write there.

    Attributes:
        domain: of the decision.
        entries: of a choice: for every option, by its place, the columns it writes, and what.
        scale: of a range: the column of its position; -1 for a choice.
        absent: the column that says that the decision is not active; -1 where it always is.
    """

    domain: Domain
    entries: list[tuple[tuple[int, float], ...]]
    scale: int
    absent: int


class Encoding:
    """One row per point, made so that the squared distance of two rows is a sum over decisions.

    Options of a choice are 1 apart (one column each). Options that are all numbers are ordered as well, 1.1 apart at
    the ends and nearer in between. A range counts by the square of the difference on its (logarithmic) scale of 0..1.
    A decision that is active in one of two points only sets them 0.5 apart or more.

    Attributes:
        decision: for every column the decision it belongs to, counted over the open ones.
        decisions: how many decisions are open, that is, have more than one value.
    """

    def __init__(self, space: SearchSpace) -> None:
        always = {decision.key for decision in space.decisions}
        owners: list[int] = []
        self._columns: dict[str, _Columns] = {}

        def column() -> int:
            owners.append(len(self._columns))
            return len(owners) - 1

        for key, domain in space.domains.items():
            if domain.size == 1 and key in always:
                continue
            entries: list[tuple[tuple[int, float], ...]] = []
            scale = -1
            if not isinstance(domain, Choice):
                scale = column() if domain.size > 1 else -1
            elif domain.ordered:
                scale_of_options = column()
                for option in domain.options:
                    place = domain.ranks[option] / (len(domain.options) - 1)
                    entries.append(((scale_of_options, place), (column(), _APART * _UNLIKE)))
            else:
                entries = [((column(), _APART),) for _ in domain.options]
            absent = -1 if key in always else column()
            self._columns[key] = _Columns(domain, entries, scale, absent)
        self.decision: NDArray[np.intp] = np.array(owners, dtype=np.intp)
        self.decisions = len(self._columns)

    def __call__(self, points: Sequence[Architecture]) -> Rows:
        """Return the rows of points: points x columns."""
        rows: list[int] = []
        columns: list[int] = []
        values: list[float] = []

        def write(row: int, column: int, value: float) -> None:
            rows.append(row)
            columns.append(column)
            values.append(value)

        for row, point in enumerate(points):
            for key, (domain, entries, scale, absent) in self._columns.items():
                if key not in point.values:
                    write(row, absent, _APART)
                    if scale >= 0:
                        write(row, scale, 0.5)
                elif isinstance(domain, Choice):
                    for column, value in entries[domain.place(point.values[key])]:
                        write(row, column, value)
                elif scale >= 0:
                    write(row, scale, position(domain, float(point.values[key])))
        encoded = np.zeros((len(points), len(self.decision)))
        encoded[rows, columns] = values
        return encoded
