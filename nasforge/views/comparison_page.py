"""A comparison to look at: one self-contained page, and a picture of its curves taken by a headless Chromium."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from nasforge.core.goals import Objective
from nasforge.views import page
from nasforge.views.comparison_records import Comparison, Curve
from nasforge.views.groups import BASELINE
from nasforge.views.network_svg import network_svg
from nasforge.views.picture import HEIGHT, WIDTH, draw_page, write
from nasforge.views.rounding import fixed, percent, significant
from nasforge.views.svg import Axis, Plot, cut, missing, number_text

if TYPE_CHECKING:
    from nasforge.views.parts import Part

_KINDS = 8
"""Colours of strategies in the style sheet; random search is grey."""
AXIS_TITLES = {
    "trials": "charged trials",
    "worker_seconds": "charged worker time (s)",
    "multiply_adds": "charged multiply-adds",
}


def quantity_title(comparison: Comparison, quantity: str) -> str:
    """Return the title of a quantity with its direction, for an axis or a heading."""
    goal = Objective.parse(comparison.objectives[0])
    title = {
        "signal": f"{goal.metric} (the search's signal) of the best so far",
        "final": f"{comparison.final} of the best so far",
        "test": "best, retrained, on the sealed test split",
        "hypervolume": "hypervolume (share of the box)",
        "regret": "normalised regret of the best so far, 0: the table's best signal, 1: its worst",
    }[quantity]
    return f"{title} ({'higher' if _maximised(comparison, quantity) else 'lower'} is better)"


def _maximised(comparison: Comparison, quantity: str) -> bool:
    """Return whether more of a quantity is better."""
    goal = Objective.parse(comparison.objectives[0])
    return {"hypervolume": True, "regret": False, "final": comparison.final_maximised}.get(quantity, goal.maximise)


def axis_title(comparison: Comparison) -> str:
    """Return the title of the cost axis."""
    return AXIS_TITLES[comparison.axis]


def cost_text(comparison: Comparison, at: float) -> str:
    """Return a place on the cost axis with its unit: `100 charged trials`, `900 s of charged worker time`."""
    if comparison.axis == "worker_seconds":
        return f"{at:g} s of charged worker time"
    return f"{at:g} charged trials" if comparison.axis == "trials" else f"{number_text(at)} charged multiply-adds"


def write_page(comparison: Comparison, path: Path, networks: Mapping[str, Sequence[Part]] | None = None) -> None:
    """Write the whole comparison as one HTML file that needs no network.

    Args:
        comparison: what is written.
        path: of the file.
        networks: parts of the best network of each strategy, to be drawn; none where there is nothing to build.

    Raises:
        ExportError: the file cannot be written.
    """
    parts = [f"<h1>{html.escape(comparison.name)}</h1>", page.paragraph(_protocol(comparison))]
    parts += [
        page.section(quantity_title(comparison, quantity), comparison_chart(comparison, quantity))
        for quantity in quantities_drawn(comparison)
    ]
    parts += _tables(comparison)
    if networks:
        parts.append(page.section("The best network of each strategy, over all its seeds", network_svg(networks)))
    items = "".join(f"<li>{html.escape(note)}</li>" for note in note_sentences(comparison))
    parts.append(page.section("Notes", f"<ul>{items}</ul>" if items else ""))
    if comparison.failed:
        rows = [[name, why] for name, why in comparison.failed.items()]
        parts.append(page.section("Searches that failed", page.table(("search", "why"), rows, texts=("why",))))
    write(path, page.document(comparison.name, parts))


def write_picture(comparison: Comparison, path: Path) -> None:
    """Write the curves of the most telling quantity as a PNG.

    Raises:
        ExportError: there is no Chromium, or it failed.
    """
    quantity = next(q for q in ("hypervolume", "final", "signal") if q in quantities_drawn(comparison) or q == "signal")
    draw_page(page.picture(comparison_chart(comparison, quantity, WIDTH, HEIGHT - 40)), path)


def comparison_chart(comparison: Comparison, quantity: str, width: int = 640, height: int = 380) -> str:
    """Draw the mean over the seeds with its 95 % band, one line per strategy.

    Args:
        comparison: has the curves.
        quantity: `signal`, `final` or `hypervolume`.
        width: of the drawing in pixels.
        height: likewise.
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
        Axis(_short_title(comparison, quantity), low, high),
        width=width,
        height=height,
    )
    kinds = _kinds(comparison)
    for curve, known in points:
        if any(curve.low[i] < curve.high[i] for i in known):
            lower, upper = ([(curve.x[i], bound[i]) for i in known] for bound in (curve.low, curve.high))
            plot.band(kinds[curve.label], _stepped(lower), _stepped(upper))
    for curve, known in points:
        last = known[-1]
        bounds = f"{significant(curve.low[last], 4)} to {significant(curve.high[last], 4)}"
        title = f"{curve.label}: {significant(curve.mean[last], 4)} ({bounds}) at the end"
        line = [(curve.x[i], curve.mean[i]) for i in known]
        plot.line(f"{kinds[curve.label]} thick", line, step="after", name=cut(curve.label, 60), title=title)
    return plot.svg()


def _short_title(comparison: Comparison, quantity: str) -> str:
    goal = Objective.parse(comparison.objectives[0])
    metric = {"signal": goal.metric, "final": comparison.final}.get(quantity)
    return f"{metric} of the best so far" if metric else quantity


def note_sentences(comparison: Comparison) -> list[str]:
    """Return the notes of a comparison as whole sentences."""
    return [f"{note[:1].upper()}{note[1:].removesuffix('.')}." for note in comparison.notes]


def _stepped(values: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the corners of a line that keeps a value until the next one."""
    corners = list(values[:1])
    for (_, before), (x, y) in pairwise(values):
        corners += [(x, before), (x, y)] if y != before else []
    return [*corners, values[-1]] if values else []


def window(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """Return the range of the vertical axis without the first tenth of the searches, in which all improve."""
    values: list[float] = []
    for curve in curves:
        begin = len(curve.x) // 10
        values += [v for end in (curve.low, curve.high) for v in end[begin:] if not math.isnan(v)]
    if not values or min(values) == max(values):
        return None
    edge = 0.06 * (max(values) - min(values))
    return min(values) - edge, max(values) + edge


def _kinds(comparison: Comparison) -> dict[str, str]:
    """Return the class of each strategy's line: the same in every figure, and grey for random search."""
    kinds: dict[str, str] = {}
    others = [label for label, about in comparison.strategies.items() if about["name"] != BASELINE]
    for label in comparison.strategies:
        rank = others.index(label) if label in others else None
        kinds[label] = "other" if rank is None else f"s{rank % _KINDS}" + (" dashed" if rank >= _KINDS else "")
    return kinds


def quantities_drawn(comparison: Comparison) -> list[str]:
    """Quantities with curves, in the order of the page."""
    there = {curve.quantity for curve in comparison.curves}
    return [quantity for quantity in ("final", "signal", "hypervolume") if quantity in there]


def _protocol(comparison: Comparison) -> str:
    trials = {label: len(about["seeds"]) for label, about in comparison.strategies.items()}
    seeds = ", ".join(f"{label} {count}" for label, count in trials.items())
    objectives = ", ".join(comparison.objectives)
    return (
        f"Searches per strategy: {seeds}. Objectives: {objectives}. Up to "
        f"{cost_text(comparison, comparison.end)}: trainings of supernets, pruned and failed trials are "
        "charged too, rejected ones not. "
        "The best so far is chosen by the search's own signal; final figures are looked up afterwards. Lines: mean of "
        "the seeds; bands: 95 % bootstrap interval of the mean. Tests: paired with random over common seeds, Holm's "
        "correction over the strategies of a table."
    )


def table_columns(comparison: Comparison, quantity: str) -> tuple[str, ...]:
    """Return the header of a table of rows."""
    bound = "mean − 2 SE" if _maximised(comparison, quantity) else "mean + 2 SE"
    tests = ("n pairs", "− random", "95 % interval", "p Wilcoxon (Holm)", "p permutation (Holm)")
    return ("strategy", "n", "mean", "std", "SE", bound, "median", "best", *tests)


def table_rows(comparison: Comparison, quantity: str, at: float) -> list[list[str]]:
    """Return the body of a table, for people; p values are Holm's."""
    body = []
    for row in comparison.rows:
        if row.quantity != quantity or row.at != at:
            continue
        s, test = row.summary, row.against_random
        cells = [
            row.label,
            str(s.n),
            *(number(v) for v in (s.mean, s.std, s.standard_error, s.bound, s.median, s.best)),
        ]
        if test is None:
            cells += ["-"] * 5
        else:
            interval = f"{number(test.low, '+')} to {number(test.high, '+')}"
            ps = [p_text(test.p_wilcoxon_holm), p_text(test.p_permutation_holm)]
            cells += [str(test.n), number(test.difference, "+"), interval, *ps]
        body.append(cells)
    return body


def optimum_table(comparison: Comparison) -> tuple[tuple[str, ...], list[list[str]]]:
    """Header and body of the evaluations to the optimum."""
    header = ("strategy", "n", "found", "mean", "median")
    ordered = sorted(comparison.to_optimum, key=lambda one: one.mean)
    return header, [[o.label, str(o.n), percent(o.found), f"{o.mean:.1f}", f"{o.median:g}"] for o in ordered]


def number(value: float | None, sign: str = "") -> str:
    """Four digits that matter, or a dash."""
    if value is None or not math.isfinite(value):
        return "-"
    digits = 2 if abs(value) >= 1000 else 3 if abs(value) >= 10 else 4
    if value != 0 and abs(value) < 1e-3:
        return f"{value:{sign}.2e}"
    return fixed(value, digits, sign)


def p_text(value: float) -> str:
    """Return a p value."""
    return "-" if math.isnan(value) else "<0.0001" if value < 1e-4 else fixed(value, 4)


def tables_at(comparison: Comparison) -> list[tuple[str, tuple[str, ...], list[list[str]]]]:
    """Return title, columns and rows of the table of each quantity at each checkpoint."""
    return [
        (
            f"{quantity_title(comparison, quantity)} at {cost_text(comparison, at)}",
            table_columns(comparison, quantity),
            table_rows(comparison, quantity, at),
        )
        for quantity in dict.fromkeys(row.quantity for row in comparison.rows)
        for at in sorted({row.at for row in comparison.rows if row.quantity == quantity})
    ]


def optimum_title(comparison: Comparison) -> str:
    """Return the title of `optimum_table`."""
    cap = comparison.to_optimum[0].cap
    return f"Charged trials to the optimum of the signal ({comparison.optimum:g}); a miss counts as {cap:g}"


def _tables(comparison: Comparison) -> list[str]:
    parts = [page.section(title, page.table(columns, body)) for title, columns, body in tables_at(comparison)]
    if comparison.to_optimum:
        parts.append(page.section(optimum_title(comparison), page.table(*optimum_table(comparison))))
    return parts
