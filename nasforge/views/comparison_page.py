"""A comparison to look at: one self-contained page, and a picture of its curves taken by a headless Chromium."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasforge.core.goals import Objective
from nasforge.core.metrics import better
from nasforge.views.comparison_records import Comparison, Curve
from nasforge.views.drawing import network_figure
from nasforge.views.picture import HEIGHT, draw, graph_objects, write

if TYPE_CHECKING:
    from nasforge.views.parts import Part

# Okabe & Ito's colours, told apart by colour-blind readers too; random search is grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8B4513", "#000000", "#7F3FBF")
_GREY = "#777777"
_DASHES = ("solid", "dash", "dot")
AXIS_TITLES = {"trials": "charged trials", "worker_seconds": "worker seconds", "multiply_adds": "multiply-adds"}
_STYLE = """body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1200px; color: #222; }
table { border-collapse: collapse; margin: .5em 0 1.5em; font-size: 14px; } th, td { padding: .25em .5em; }
th, td { text-align: right; white-space: nowrap; } td:first-child, th:first-child { text-align: left; }
th { border-bottom: 2px solid #888; } tr:nth-child(even) td { background: #f4f4f4; }
.wide { overflow-x: auto; } li { margin: .2em 0; }"""


def quantity_title(comparison: Comparison, quantity: str) -> str:
    """Return the title of a quantity with its direction, for an axis or a heading."""
    goal = Objective.parse(comparison.objectives[0])
    title = {
        "signal": f"{goal.metric} (the search's signal) of the best so far",
        "final": f"{comparison.final} of the best so far",
        "test": "best, retrained, on the sealed test part",
        "hypervolume": "hypervolume (share of the box)",
        "regret": "normalised regret of the best so far (0: the table's best signal, 1: its worst)",
    }[quantity]
    return f"{title}, {better(_maximised(comparison, quantity))}"


def _maximised(comparison: Comparison, quantity: str) -> bool:
    """Return whether more of a quantity is better."""
    goal = Objective.parse(comparison.objectives[0])
    return {"hypervolume": True, "regret": False, "final": comparison.final_maximised}.get(quantity, goal.maximise)


def axis_title(comparison: Comparison) -> str:
    """Return the title of the cost axis."""
    return AXIS_TITLES[comparison.axis]


def write_page(comparison: Comparison, path: Path, networks: Mapping[str, Sequence[Part]] | None = None) -> None:
    """Write the whole comparison as one HTML file that needs no network.

    Args:
        comparison: what is written.
        path: of the file.
        networks: parts of the best network of each strategy, to be drawn; none where there is nothing to build.

    Raises:
        ExportError: Plotly is not installed, or the file cannot be written.
    """
    parts = [f"<h1>{html.escape(comparison.name)}</h1>", f"<p>{html.escape(_protocol(comparison))}</p>"]
    for index, quantity in enumerate(quantities_drawn(comparison)):
        figure = curves_figure(comparison, quantity)
        parts.append(figure.to_html(full_html=False, include_plotlyjs=index == 0, config={"displaylogo": False}))
    parts += _tables(comparison)
    if networks:
        parts.append("<h2>What each found: the best network of all its seeds</h2>")
        drawing, first = network_figure(networks), not quantities_drawn(comparison)
        parts.append(drawing.to_html(full_html=False, include_plotlyjs=first, config={"displaylogo": False}))
    if comparison.notes:
        parts.append(
            "<h2>Notes</h2><ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in comparison.notes) + "</ul>"
        )
    if comparison.failed:
        rows = [[name, why] for name, why in comparison.failed.items()]
        parts.append("<h2>Searches that failed</h2>" + _html_table(("search", "why"), rows))
    write(path, _document(comparison.name, parts))


def write_picture(comparison: Comparison, path: Path) -> None:
    """Write the curves of the most telling quantity as a PNG.

    Raises:
        ExportError: there is no Chromium, or it failed.
    """
    quantity = next(q for q in ("hypervolume", "final", "signal") if q in quantities_drawn(comparison) or q == "signal")
    draw(curves_figure(comparison, quantity), path)


def curves_figure(comparison: Comparison, quantity: str) -> Any:
    """Mean over the seeds with its band, one line per strategy.

    Raises:
        ExportError: Plotly is not installed.
    """
    go = graph_objects()
    figure = go.Figure()
    curves = [curve for curve in comparison.curves if curve.quantity == quantity]
    for curve, colour, dash in _styled(comparison, curves):
        known = [i for i, value in enumerate(curve.mean) if not math.isnan(value)]
        x = [curve.x[i] for i in known]
        low, high = [curve.low[i] for i in known], [curve.high[i] for i in known]
        band = {"mode": "lines", "line": {"width": 0, "shape": "hv"}, "legendgroup": curve.label, "hoverinfo": "skip"}
        figure.add_scatter(x=x, y=low, showlegend=False, **band)
        figure.add_scatter(x=x, y=high, showlegend=False, fill="tonexty", fillcolor=_faint(colour), **band)
        figure.add_scatter(
            x=x,
            y=[curve.mean[i] for i in known],
            mode="lines",
            name=curve.label,
            legendgroup=curve.label,
            line={"color": colour, "width": 2.5, "shape": "hv", "dash": dash},
            hovertemplate="%{y:.5g} at %{x:.5g}",
        )
    figure.update_layout(
        template="plotly_white",
        xaxis_title=axis_title(comparison),
        yaxis_title=quantity_title(comparison, quantity),
        height=HEIGHT,
        margin={"l": 70, "r": 20, "t": 40, "b": 50},
        font={"size": 14},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "xanchor": "left", "x": 0},
        hovermode="x unified",
    )
    shown = window(curves)
    if shown:
        figure.update_yaxes(range=shown)
    return figure


def window(curves: Sequence[Curve]) -> list[float] | None:
    """Return the range of the vertical axis without the first tenth of the searches, in which all improve."""
    values: list[float] = []
    for curve in curves:
        begin = len(curve.x) // 10
        values += [v for end in (curve.low, curve.high) for v in end[begin:] if not math.isnan(v)]
    if not values or min(values) == max(values):
        return None
    edge = 0.06 * (max(values) - min(values))
    return [min(values) - edge, max(values) + edge]


def _styled(comparison: Comparison, curves: Sequence[Curve]) -> Iterator[tuple[Curve, str, str]]:
    """Yield a strategy has the same colour in every figure."""
    rank = 0
    styles: dict[str, tuple[str, str]] = {}
    for label, about in comparison.strategies.items():
        if about["name"] == "random":
            styles[label] = (_GREY, "solid")
            continue
        styles[label] = (_COLOURS[rank % len(_COLOURS)], _DASHES[rank // len(_COLOURS) % len(_DASHES)])
        rank += 1
    for curve in curves:
        yield curve, *styles[curve.label]


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"


def quantities_drawn(comparison: Comparison) -> list[str]:
    """Quantities with curves, in the order of the page."""
    there = {curve.quantity for curve in comparison.curves}
    return [quantity for quantity in ("final", "signal", "hypervolume") if quantity in there]


def _protocol(comparison: Comparison) -> str:
    trials = {label: len(about["seeds"]) for label, about in comparison.strategies.items()}
    seeds = ", ".join(f"{label} {count}" for label, count in trials.items())
    objectives = ", ".join(comparison.objectives)
    return (
        f"Searches per strategy: {seeds}. Objectives: {objectives}. Charged up to {comparison.end:g} "
        f"{axis_title(comparison)}: trainings of supernets, pruned and failed trials are charged too, rejected ones "
        "not. "
        "The best so far is chosen by the search's own signal; final figures are looked up afterwards. Lines: mean of "
        "the seeds; bands: 95 % bootstrap interval of the mean. Tests: paired with random over common seeds, Holm's "
        "correction over the strategies of a table."
    )


def table_columns(comparison: Comparison, quantity: str) -> tuple[str, ...]:
    """Return the header of a table of rows."""
    bound = "mean − 2 SE" if _maximised(comparison, quantity) else "mean + 2 SE"
    tests = ("n pairs", "− random", "95 % interval", "p Wilcoxon", "p permutation")
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
            interval = f"{number(test.low, '+')} .. {number(test.high, '+')}"
            ps = [p_text(test.p_wilcoxon_holm), p_text(test.p_permutation_holm)]
            cells += [str(test.n), number(test.difference, "+"), interval, *ps]
        body.append(cells)
    return body


def optimum_table(comparison: Comparison) -> tuple[tuple[str, ...], list[list[str]]]:
    """Header and body of the evaluations to the optimum."""
    header = ("strategy", "n", "found", "mean", "median")
    ordered = sorted(comparison.to_optimum, key=lambda one: one.mean)
    return header, [[o.label, str(o.n), f"{o.found:.0%}", f"{o.mean:.1f}", f"{o.median:g}"] for o in ordered]


def number(value: float | None, sign: str = "") -> str:
    """Four digits that matter, or a dash."""
    if value is None or not math.isfinite(value):
        return "-"
    digits = 2 if abs(value) >= 1000 else 3 if abs(value) >= 10 else 4
    if value != 0 and abs(value) < 1e-3:
        return f"{value:{sign}.2e}"
    return f"{value:{sign}.{digits}f}"


def p_text(value: float) -> str:
    """Return a p value."""
    return "-" if math.isnan(value) else "<0.0001" if value < 1e-4 else f"{value:.4f}"


def _tables(comparison: Comparison) -> list[str]:
    parts = []
    for quantity in dict.fromkeys(row.quantity for row in comparison.rows):
        for at in sorted({row.at for row in comparison.rows if row.quantity == quantity}):
            body = table_rows(comparison, quantity, at)
            if body:
                heading = f"{quantity_title(comparison, quantity)} at {at:g} {axis_title(comparison)}"
                parts.append(f"<h2>{html.escape(heading)}</h2>")
                parts.append(_html_table(table_columns(comparison, quantity), body))
    if comparison.to_optimum:
        cap = comparison.to_optimum[0].cap
        heading = f"Charged trials to the optimum of the signal ({comparison.optimum:g}); a miss counts as {cap:g}"
        parts += [f"<h2>{html.escape(heading)}</h2>", _html_table(*optimum_table(comparison))]
    return parts


def _html_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
    return f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'


def _document(title: str, parts: Sequence[str]) -> str:
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{''.join(parts)}</body></html>"
