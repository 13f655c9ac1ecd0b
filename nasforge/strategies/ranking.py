"""Comparison of results: the only place that decides which of two trials is better.

Results of equal `steps_done` are compared by their values; a trial that was trained further ranks above one that was
not, and every trial that was not pruned above every pruned one. Failures and rejections have no merit at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from nasforge.core.pareto import dominates
from nasforge.core.trial import Result


class Merit(NamedTuple):
    """Comparable value of a result; see `beats`.

    Attributes:
        finished: False for a pruned trial.
        steps_done: fidelity reached.
        values: to maximise.
    """

    finished: bool
    steps_done: int
    values: tuple[float, ...]


def merit(result: Result) -> Merit | None:
    """Return the merit of a result; None if it cannot be compared (failed, rejected, pruned before a report, NaN)."""
    if result.status not in ("finished", "pruned") or result.values is None or not result.usable:
        return None
    return Merit(result.status == "finished", result.steps_done, result.values)


def beats(a: Merit, b: Merit) -> bool:
    """Return whether `a` is better: finished, or trained further, or dominating at the same fidelity."""
    if a[:2] != b[:2] or len(a.values) == 1:
        return a > b
    return dominates(a.values, b.values)


def fronts(merits: Sequence[Merit]) -> list[list[int]]:
    """Sort into non-dominated fronts of indices: a point is beaten by none of its front or of a later one.

    Zhang et al., "An Efficient Approach to Nondominated Sorting for Evolutionary Multiobjective Optimization"
    (https://doi.org/10.1109/TEVC.2014.2308305): in descending order a point can be beaten by earlier ones only, so
    its front is found by bisection.
    """
    fronts: list[list[int]] = []
    for index in sorted(range(len(merits)), key=lambda i: merits[i], reverse=True):
        point = merits[index]
        # With up to two objectives the last of a front is the best in the second one: if it does not beat the
        # point, none does.
        look = 1 if len(point.values) <= 2 else len(merits)
        low, high = 0, len(fronts)
        while low < high:
            middle = (low + high) // 2
            if any(beats(merits[other], point) for other in fronts[middle][: -look - 1 : -1]):
                low = middle + 1
            else:
                high = middle
        if low == len(fronts):
            fronts.append([])
        fronts[low].append(index)
    return fronts


def crowding(values: Sequence[Sequence[float]]) -> list[float]:
    """Return the crowding distance of every point of a front: its neighbours' distances, summed over objectives.

    Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II" (https://doi.org/10.1109/4235.996017).
    The ends of every objective are infinitely far.
    """
    distances = [0.0] * len(values)
    for objective in range(len(values[0]) if values else 0):
        column = [row[objective] for row in values]
        order = sorted(range(len(values)), key=column.__getitem__)
        span = column[order[-1]] - column[order[0]]
        distances[order[0]] = distances[order[-1]] = math.inf
        if 0 < span < math.inf:
            for before, index, after in zip(order, order[1:], order[2:], strict=False):
                distances[index] += (column[after] - column[before]) / span
    return distances


def ranked(merits: Sequence[Merit]) -> list[int]:
    """Return indices best first: by front, then the least crowded, then the earlier ones.

    The first and the last of equal values count as the ends of their front, so they come before those between them.
    """
    order: list[int] = []
    for front in fronts(merits):
        if len(front) == 1:
            order += front
            continue
        front = sorted(front)
        distance = dict(zip(front, crowding([merits[index].values for index in front]), strict=True))
        order += sorted(front, key=lambda index: -distance[index])
    return order
