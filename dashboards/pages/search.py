"""Progress of a search: best so far, front, curves, workers, failures."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from nasforge import registry
from nasforge.dashboards.library import View
from nasforge.dashboards.pages.base import Query, headline, metrics_of, trial_link
from nasforge.views import charts, tables
from nasforge.views.results import remarks


def search(view: View, query: Query) -> dict[str, Any]:
    """Progress of a search: best so far, front, curves, workers, failures."""
    state, link = view.state, trial_link(view)
    metrics = metrics_of(state)
    over = query.get("over", "trials")
    over = over if over in charts.AXES else "trials"
    first = tables.front_axes(state)
    x, y = (query.get(key, "") if query.get(key) in metrics else first[i] for i, key in enumerate("xy"))
    reported = tables.reported_metrics(state)
    curve = query.get("curve", "") if query.get("curve") in reported else tables.curve_metric(state)
    return {
        **headline(view, "search"),
        "remarks": remarks(state),
        "over": over,
        "axes": charts.AXES,
        "metrics": metrics,
        "x": x,
        "y": y,
        "curve": curve,
        "reported": sorted(reported),
        "best_so_far": Markup(view.drawn(("best", over), lambda: charts.best_so_far_chart(state, link, over))),  # noqa: S704
        "front": Markup(view.drawn(("front", x, y), lambda: charts.front_chart(state, link, x, y))),  # noqa: S704
        "curves": Markup(view.drawn(("curves", curve), lambda: charts.curves_chart(state, link, curve))),  # noqa: S704
        "workers": Markup(view.drawn(("workers",), lambda: charts.workers_chart(view.reader, link))),  # noqa: S704
        "failures": tables.failures(state),
        "rejected": tables.rejections(state),
        "further": registry.names("figure"),
        "leaders": tables.leaderboard(state, 8),
        "has_rungs": bool(tables.rungs_drawn(state)),
        "columns": [goal.metric for goal in state.objectives],
    }
