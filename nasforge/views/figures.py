"""Figures of a search, in Plotly: each takes a state and returns a figure that the dashboard shows or a file keeps."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from nasforge.core.metrics import title_of
from nasforge.experiment.state import State
from nasforge.views.charts import NOT_BEST, front_name
from nasforge.views.tables import best_so_far, failures, in_two_metrics, is_maximised, learning_curves, steps_of

# Okabe & Ito's colours, told apart by colour-blind readers too: https://jfly.uni-koeln.de/color/
_COLOURS = {
    "finished": "#0072B2",
    "pruned": "#E69F00",
    "failed": "#D55E00",
    "rejected": "#999999",
    "running": "#009E73",
}
_BEST = "#D55E00"


def best_so_far_figure(state: State) -> Any:
    """Return the first objective of every finished trial and the best until then."""
    rows = best_so_far(state)
    goal = state.objectives[0]
    figure = _figure("trial", title_of(goal.metric))
    if not rows:
        return _empty(figure, "No trial has finished yet")
    numbers = [row["number"] for row in rows]
    hover = f"trial %{{x}}<br>{title_of(goal.metric)} %{{y:.4g}}"
    figure.add_scatter(
        x=numbers,
        y=[row["value"] for row in rows],
        mode="markers",
        name="finished trial",
        marker={"color": _COLOURS["finished"], "size": 8, "opacity": 0.6},
        hovertemplate=hover,
    )
    figure.add_scatter(
        x=numbers,
        y=[row["best"] for row in rows],
        mode="lines",
        name="best so far",
        line={"color": _BEST, "shape": "hv", "width": 3},
        hovertemplate=hover,
    )
    return figure


def pareto_figure(state: State, x: str = "cost/flops", y: str = "val/accuracy") -> Any:
    """Finished trials in two metrics, with the line of those that no other beats in both.

    There is no front where the direction of an axis is unknown: it is no objective, and its name does not say it.

    Args:
        state: of the search.
        x: metric on the horizontal axis; a cost that spans more than a factor of 30 is shown in the logarithm.
        y: metric on the vertical axis.
    """
    figure = _figure(title_of(x), title_of(y))
    trials, best = in_two_metrics(state, x, y)
    if not trials:
        return _empty(figure, f"No finished trial with<br>{title_of(x)} and {title_of(y)} yet")
    comparable, front = best is not None, best or []
    on_front = {trial.number for trial in front}
    rest = [trial for trial in trials if trial.number not in on_front]
    for name, group, colour, mode in (
        (NOT_BEST if comparable else "finished trial", rest, _COLOURS["rejected"], "markers"),
        (front_name(state), front, _BEST, "lines+markers"),
    ):
        figure.add_scatter(
            x=[trial.metrics[x] for trial in group],
            y=[trial.metrics[y] for trial in group],
            mode=mode,
            name=name,
            line={"color": colour, "shape": "vh" if is_maximised(state, x) else "hv", "width": 2},
            marker={"color": colour, "size": 10},
            customdata=[trial.number for trial in group],
            hovertemplate=f"trial %{{customdata}}<br>{title_of(x)} %{{x:.4s}}<br>{title_of(y)} %{{y:.4g}}",
        )
    values = [trial.metrics[x] for trial in trials]
    if x.startswith("cost/"):
        figure.update_xaxes(exponentformat="SI", rangemode="tozero")
        if min(values) > 0 and max(values) / min(values) > 30:
            figure.update_xaxes(type="log", dtick=1)
    return figure


def learning_curves_figure(state: State, metric: str = "val/accuracy") -> Any:
    """One line per trial over its epochs (folds, repeats), coloured by how it ended; the best trial is thick."""
    counted = steps_of(state).removesuffix("s") or "step"
    figure = _figure(counted, title_of(metric))
    best = state.best
    lines: dict[int, list[dict[str, Any]]] = {}
    for point in learning_curves(state, metric):
        lines.setdefault(point["number"], []).append(point)
    if not lines:
        return _empty(figure, f"No trial has reported {title_of(metric)} yet")
    named: set[str] = set()
    for number, points in sorted(lines.items(), key=lambda item: best is not None and item[0] == best.number):
        is_best = best is not None and number == best.number
        name = f"best: trial {number}" if is_best else points[0]["status"]
        figure.add_scatter(
            x=[point["epoch"] for point in points],
            y=[point["value"] for point in points],
            mode="lines+markers",
            name=name,
            legendgroup=name,
            showlegend=name not in named,
            opacity=1.0 if is_best else 0.55,
            line={"color": _BEST if is_best else _COLOURS[points[0]["status"]], "width": 4 if is_best else 1.5},
            marker={"size": 8 if is_best else 5},
            hovertemplate=f"trial {number}, {counted} %{{x}}<br>{title_of(metric)} %{{y:.4g}}<extra></extra>",
        )
        named.add(name)
    longest = max(point["epoch"] for points in lines.values() for point in points)
    figure.update_xaxes(dtick=1 if longest <= 20 else None)
    return figure


def failures_figure(state: State) -> Any:
    """Draw the number of failed trials by cause."""
    rows = failures(state)
    figure = _figure("trials", "")
    if not rows:
        return _empty(figure, "No trial has failed")
    figure.add_bar(
        x=[row["count"] for row in rows],
        y=[row["cause"] for row in rows],
        orientation="h",
        marker={"color": _COLOURS["failed"]},
        hovertext=[row["message"] for row in rows],
    )
    figure.update_yaxes(autorange="reversed")
    return figure


def _figure(x: str, y: str) -> Any:
    figure = go.Figure()
    figure.update_layout(
        template="plotly_white",
        xaxis_title=x,
        yaxis_title=y,
        margin={"l": 60, "r": 20, "t": 30, "b": 50},
        height=360,
        font={"size": 13},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "xanchor": "left", "x": 0},
    )
    return figure


def _empty(figure: Any, text: str) -> Any:
    figure.add_annotation(text=text, showarrow=False, font={"size": 15, "color": "#666666"}, xref="paper", yref="paper")
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure
