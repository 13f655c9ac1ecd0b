"""Ranks of newcomers among many trials, with sorted structures that make each question cheap.

With one objective a trial ranks behind all that are better. With several it ranks behind all of the earlier
non-dominated fronts.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from nasforge.core.history import Pending, Values

if TYPE_CHECKING:
    import numpy as np


class Standing(Protocol):
    """A crowd of values to maximise."""

    def add(self, values: Values) -> None:
        """Let them join the crowd."""
        ...

    def ahead(self, values: Values, enough: float) -> int:
        """Return how many of the crowd rank before a newcomer; above `enough` any larger number."""
        ...

    def __len__(self) -> int:
        """Return how many joined."""
        ...


def standing_of(crowd: Sequence[Values], objectives: int) -> Standing:
    """Make a crowd for this number of objectives; NaN counts as the worst value."""
    made: Standing = Line() if objectives == 1 else Staircases() if objectives == 2 else Fronts(objectives)
    for values in crowd:
        made.add(_ordered(values))
    return made


class Crowds:
    """The crowds at every step of a history, cached with the history.

    Args:
        entry: of the reports of a trial, those values with which it takes part in the crowd at a step.
    """

    def __init__(self, entry: Callable[[Mapping[int, Values], int], Values]) -> None:
        self._entry = entry

    def others(self, history: Mapping[int, Mapping[int, Values]], number: int, step: int) -> Standing:
        """Return the crowd of all trials but `number` that have reported at `step`."""
        objectives = len(history[number][step])
        if not isinstance(history, Pending) or step in history.history.get(number, ()):
            trials = [trial for trial, reports in history.items() if trial != number and step in reports]
            return standing_of([self._entry(history[trial], step) for trial in trials], objectives)
        known = history.history
        crowd = known.derived.get((self, step))
        if crowd is None or crowd[0] != known.revision:
            crowd = known.derived[self, step] = (known.revision, standing_of((), objectives))
        standing: Standing = crowd[1]
        for trial in known.at(step)[len(standing) :]:
            standing.add(_ordered(self._entry(known[trial], step)))
        return standing


def _ordered(values: Values) -> Values:
    return tuple(-math.inf if math.isnan(value) else value for value in values)


class Line:
    """One objective: a sorted list."""

    def __init__(self) -> None:
        self._values: list[float] = []

    def add(self, values: Values) -> None:
        """Insert a point by bisection."""
        insort(self._values, values[0])

    def ahead(self, values: Values, enough: float) -> int:
        """Count the points that are strictly better."""
        return len(self._values) - bisect_right(self._values, _ordered(values)[0])

    def __len__(self) -> int:
        return len(self._values)


class Staircases:
    """Two objectives: the first fronts, each a staircase, and the rest behind them.

    Yakupov and Buzdalov, "Incremental Non-dominated Sorting with O(N) Insertion for the Two-dimensional Case"
    (https://doi.org/10.1109/CEC.2015.7257111): a newcomer pushes a connected piece of its front into the next one,
    which pushes a connected piece out in turn. Only as many fronts are kept as questions have asked for.
    """

    def __init__(self) -> None:
        # By falling first objective and rising second one; the first one is negated, for bisection.
        self._fronts: list[tuple[list[float], list[float]]] = []
        self._sizes: list[int] = []
        self._rest: list[tuple[float, float]] = []  # both negated, sorted: the best in the first objective come first

    def add(self, values: Values) -> None:
        """Add a point to its front; points that it dominates there move to the next front."""
        first, second = -values[0], values[1]
        place = self._front_of(first, second)
        firsts, seconds = [first], [second]
        while firsts and place < len(self._fronts):
            front_firsts, front_seconds = self._fronts[place]
            begin = bisect_left(front_firsts, firsts[0])
            end = max(begin, bisect_right(front_seconds, seconds[-1]))
            pushed = front_firsts[begin:end], front_seconds[begin:end]
            if pushed[0] and pushed[0][0] == firsts[0] and pushed[1][0] == seconds[0]:
                pushed, end = ([], []), begin  # equals share a front
            front_firsts[begin:end], front_seconds[begin:end] = firsts, seconds
            self._sizes[place] = len(front_firsts)
            firsts, seconds = pushed
            place += 1
        for point in zip(firsts, seconds, strict=True):
            insort(self._rest, (point[0], -point[1]))

    def ahead(self, values: Values, enough: float) -> int:
        """Return the total size of the fronts before the point's own."""
        first, second = _ordered(values)
        first = -first
        while True:
            place = self._front_of(first, second)
            count = sum(self._sizes[:place])
            if place < len(self._fronts) or count > enough or not self._rest:
                return count
            self._extend(enough)

    def __len__(self) -> int:
        return sum(self._sizes) + len(self._rest)

    def _front_of(self, first: float, second: float) -> int:
        """Return the first front that does not dominate the point; by bisection, since all fronts before do."""
        low, high = 0, len(self._fronts)
        while low < high:
            middle = (low + high) // 2
            if self._dominated(middle, first, second):
                low = middle + 1
            else:
                high = middle
        return low

    def _dominated(self, place: int, first: float, second: float) -> bool:
        firsts, seconds = self._fronts[place]
        last = bisect_right(firsts, first) - 1  # the best in the second objective of those as good in the first
        if last < 0:
            return False
        return seconds[last] > second or (seconds[last] == second and firsts[last] != first)

    def _extend(self, enough: float) -> None:
        """Sort the rest into fronts; keep half as many again as were asked for, so that it is seldom done."""
        fronts: list[tuple[list[float], list[float]]] = []
        tails: list[float] = []  # of each front the best second objective so far, negated; they rise
        places: list[int] = []
        before: tuple[float, float] | None = None
        for point in self._rest:
            if point != before:
                before = point
                place = bisect_right(tails, point[1])
                if place == len(fronts):
                    fronts.append(([], []))
                    tails.append(point[1])
                tails[place] = point[1]
            fronts[place][0].append(point[0])
            fronts[place][1].append(-point[1])
            places.append(place)
        count, kept = sum(self._sizes), 0
        while kept < len(fronts) and count <= 1.5 * enough:
            count += len(fronts[kept][0])
            kept += 1
        self._fronts += fronts[:kept]
        self._sizes += [len(firsts) for firsts, _ in fronts[:kept]]
        self._rest = [point for point, place in zip(self._rest, places, strict=True) if place >= kept]


class Fronts:
    """Three objectives and more: all fronts, each an array; what a newcomer pushes out of one moves to the next.

    Adding to 10,000 takes below a millisecond.
    """

    def __init__(self, objectives: int) -> None:
        self._objectives = objectives
        self._fronts: list[np.ndarray[Any, Any]] = []

    def add(self, values: Values) -> None:
        """Add a point to its front."""
        import numpy as np

        moving = np.asarray([values])
        place = self._front_of(moving[0])
        while len(moving):
            if place == len(self._fronts):
                self._fronts.append(np.empty((0, self._objectives)))
            front = self._fronts[place]
            weak = (moving[:, None] >= front).all(2) & (moving[:, None] > front).any(2)
            pushed = weak.any(0)
            self._fronts[place] = np.concatenate([front[~pushed], moving])
            moving = front[pushed]
            place += 1

    def ahead(self, values: Values, enough: float) -> int:
        """Return the total size of the fronts before the point's own."""
        import numpy as np

        return sum(map(len, self._fronts[: self._front_of(np.asarray(_ordered(values)))]))

    def __len__(self) -> int:
        return sum(map(len, self._fronts))

    def _front_of(self, point: np.ndarray[Any, Any]) -> int:
        low, high = 0, len(self._fronts)
        while low < high:
            middle = (low + high) // 2
            front = self._fronts[middle]
            if bool(((front >= point).all(1) & (front > point).any(1)).any()):
                low = middle + 1
            else:
                high = middle
        return low
