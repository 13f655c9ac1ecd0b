"""A calibration to look at: correlation, noise and cost of every rung, as one page and a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from nasforge.views.calibration import RULE, Calibration
from nasforge.views.picture import draw, graph_objects

_BLUE, _ORANGE = "#0072B2", "#D55E00"  # Okabe & Ito


def calibration_figure(calibration: Calibration) -> Any:
    """Rank correlation of every rung with full training, with its interval; below, what it costs and the seeds' noise.

    Raises:
        ExportError: Plotly is not installed.
    """
    go = graph_objects()
    places = range(len(calibration.rungs))
    hover_texts = [
        f"epoch {rung.rung}, {100 * rung.cost:.0f}% of the cost<br>"
        f"seed noise {rung.noise:.2g}, spread {rung.spread:.2g}"
        for rung in calibration.rungs
    ]
    figure = go.Figure()
    for name, colour, beside in (("spearman", _BLUE, 0.0), ("kendall", _ORANGE, 0.03)):
        facts = [getattr(rung, name) for rung in calibration.rungs]
        figure.add_scatter(
            x=[place + beside for place in places],
            y=[fact.value for fact in facts],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [fact.high - fact.value for fact in facts],
                "arrayminus": [fact.value - fact.low for fact in facts],
            },
            text=[f"epoch {rung.rung}" for rung in calibration.rungs],
            mode="lines+markers",
            name={"spearman": "Spearman", "kendall": "Kendall"}[name],
            line={"color": colour, "width": 2.5},
            hovertemplate="%{text}: %{y:.2f}",
        )
    seeds = "other seeds" if calibration.seeds > 1 else "the same run"
    lows = [fact.low for rung in calibration.rungs for fact in (rung.spearman, rung.kendall)]
    lowest = min(math.floor(4 * low) / 4 for low in [0.0, *lows] if not math.isnan(low))
    figure.update_layout(
        template="plotly_white",
        xaxis={"tickvals": list(places), "ticktext": hover_texts, "range": [-0.4, len(calibration.rungs) - 0.6]},
        yaxis_title=f"rank correlation with full training ({seeds})",
        yaxis_range=[lowest - 0.05, 1.05],
        height=480,
        margin={"l": 70, "r": 20, "t": 40, "b": 60},
        font={"size": 14},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "xanchor": "left", "x": 0},
    )
    return figure


def write_calibration(calibration: Calibration, folder: Path) -> Path:
    """`calibration.html` in `folder`, a file that needs no network."""
    path = folder / "calibration.html"
    figure = calibration_figure(calibration).to_html(
        full_html=False, include_plotlyjs=True, config={"displaylogo": False}
    )
    words = f"<p>{calibration.networks} networks, {calibration.seeds} seeds each. Recommended: {RULE}.</p>"
    path.write_text(f'<!doctype html><meta charset="utf-8"><title>calibration</title>{words}{figure}\n')
    return path


def draw_calibration(calibration: Calibration, path: Path) -> None:
    """Write the figure as a PNG.

    Raises:
        ExportError: there is no Chromium, or it failed.
    """
    draw(calibration_figure(calibration), path)
