"""Pareto dominance: which of several points no other point beats."""

from __future__ import annotations

import math
from collections.abc import Sequence


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Return whether `a` is at least as good as `b` everywhere and better somewhere (values to maximise)."""
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))


def front(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the points that no other dominates (values to maximise), the first of equal points.

    Source: the simple sweep of Kung et al. 1975, "On Finding the Maxima of a Set of Vectors".
    """
    indices: list[int] = []
    order = sorted(range(len(points)), key=lambda i: (tuple(-value for value in points[i]), i))
    if all(len(point) == 2 and not any(map(math.isnan, point)) for point in points):
        highest = -math.inf
        for index in order:  # none of those before has a lower first value, so the second one decides
            if points[index][1] > highest or not indices:
                highest = points[index][1]
                indices.append(index)
        return sorted(indices)
    for index in order:
        point = points[index]
        if not any(tuple(points[kept]) == tuple(point) or dominates(points[kept], point) for kept in indices):
            indices.append(index)
    return sorted(indices)
