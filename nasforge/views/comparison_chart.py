"""Curves of a comparison as SVG: strategies over one budget axis, each with its band."""

from __future__ import annotations

import math

from nasforge.views.comparison_page import axis_title, quantity_title, window
from nasforge.views.comparison_records import Comparison
from nasforge.views.groups import BASELINE
from nasforge.views.svg import Axis, Plot, cut, missing

_COLOURS = 8


def comparison_chart(comparison: Comparison, quantity: str) -> str:
    """Draw the mean over the seeds with its 95 % band, one line a strategy.

    Args:
        comparison: with at least one curve of the quantity.
        quantity: `signal`, `final` or `hypervolume`.
    """
    curves = [curve for curve in comparison.curves if curve.quantity == quantity]
    points = [
        (curve, [i for i, value in enumerate(curve.mean) if math.isfinite(value)])
        for curve in curves
        if any(map(math.isfinite, curve.mean))
    ]
    if not points:
        return missing("No strategy has a curve yet.")
    ends = [value for curve in curves for value in (*curve.low, *curve.high)]
    low, high = window(curves) or (lambda axis: (axis.low, axis.high))(Axis.of("", ends))
    charges = [0.0, *(curve.x[i] for curve, known in points for i in known)]
    plot = Plot(
        f"{quantity_title(comparison, quantity)}, over {axis_title(comparison)}",
        Axis.of(axis_title(comparison), charges, zero=True, whole=comparison.axis == "trials"),
        Axis(quantity_title(comparison, quantity).partition(",")[0].partition(" (")[0], low, high),
        height=380,
    )
    kinds = _kinds(comparison)
    for curve, known in points:
        kind = kinds[curve.label]
        if any(curve.low[i] < curve.high[i] for i in known):
            x = [curve.x[i] for i in known]
            plot.band(kind, _steps(x, [curve.low[i] for i in known]), _steps(x, [curve.high[i] for i in known]))
    for curve, known in points:
        last = known[-1]
        title = f"{curve.label}: {curve.mean[last]:.4g} ({curve.low[last]:.4g} to {curve.high[last]:.4g}) at the end"
        line = [(curve.x[i], curve.mean[i]) for i in known]
        plot.line(f"{kinds[curve.label]} thick", line, step=True, name=cut(curve.label, 60), title=title)
    return plot.svg()


def _kinds(comparison: Comparison) -> dict[str, str]:
    """Return the class of each strategy's line: the same in every figure, grey for random search."""
    kinds: dict[str, str] = {}
    rank = 0
    for label, about in comparison.strategies.items():
        if about["name"] == BASELINE:
            kinds[label] = "other"
            continue
        kinds[label] = f"s{rank % _COLOURS}" + (" dashed" if rank >= _COLOURS else "")
        rank += 1
    return kinds


def _steps(x: list[float], y: list[float]) -> list[tuple[float, float]]:
    """Return the corners of a line in which a value stays until the next one."""
    corners = [(x[0], y[0])]
    for before, place, value in zip(y, x[1:], y[1:], strict=False):
        corners += [(place, before), (place, value)]
    return corners
