"""Hypervolume: how much of the objectives' box a set of points dominates. Exact, for any number of objectives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nasforge.core.pareto import front

Point = Sequence[float]


def hypervolume(points: Iterable[Point], reference: Point) -> float:
    """Return the volume dominated by `points` above `reference`, all values to maximise.

    Two objectives: a sweep along the front. More: the exclusive volumes of While, Bradstreet and Barone, "A Fast Way of
    Calculating Exact Hypervolumes" (https://doi.org/10.1109/TEVC.2010.2077298).

    Example:
        >>> hypervolume([(2.0, 1.0), (1.0, 3.0)], (0.0, 0.0))
        4.0
    """
    above = [tuple(p) for p in points if all(x > low for x, low in zip(p, reference, strict=True))]
    return _volume([above[index] for index in front(above)], tuple(reference))


def _volume(points: list[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    """Of points that do not dominate each other."""
    if len(reference) <= 2:
        return _sweep(points, reference)
    # The worst in the last objective first, so that few points are left to limit the later ones.
    ordered = sorted(points, key=lambda p: p[-1])
    return sum(_exclusive(point, ordered[index + 1 :], reference) for index, point in enumerate(ordered))


def _exclusive(point: tuple[float, ...], others: list[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    """Return the volume that only `point` dominates."""
    volume = 1.0
    for x, low in zip(point, reference, strict=True):
        volume *= x - low
    limited = [tuple(map(min, point, other)) for other in others]
    limited = [p for p in limited if all(x > low for x, low in zip(p, reference, strict=True))]
    return volume - _volume([limited[index] for index in front(limited)], reference)


def _sweep(points: list[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    """One or two objectives: rectangles from the best in the first objective down."""
    if len(reference) == 1:
        return max((point[0] for point in points), default=reference[0]) - reference[0]
    area, height = 0.0, reference[1]
    for x, y in sorted(points, reverse=True):
        if y > height:
            area += (x - reference[0]) * (y - height)
            height = y
    return area


def hypervolume_curve(points: Sequence[Point | None], reference: Point) -> list[float]:
    """Return the hypervolume after each of `points`; None adds nothing."""
    kept: list[Point] = []
    curve: list[float] = []
    for point in points:
        if point is not None and not any(all(a >= b for a, b in zip(held, point, strict=True)) for held in kept):
            kept = [*(held for held in kept if not all(b >= a for a, b in zip(held, point, strict=True))), point]
            curve.append(hypervolume(kept, reference))
        else:
            curve.append(curve[-1] if curve else 0.0)
    return curve
