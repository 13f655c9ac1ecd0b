"""Progress of a search: best so far, front, curves, workers, failures."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from nasforge.dashboards.library import View
from nasforge.dashboards.pages.base import Query, headline, is_shown, metrics_of, trial_link
from nasforge.dashboards.pages.plug_ins import further_figures
from nasforge.views import charts, tables


def search(view: View, query: Query) -> dict[str, Any]:
    """Progress of a search: best so far, front, curves, workers, failures."""
    state, link = view.state, trial_link(view)
    metrics = metrics_of(state)
    over = query.get("over", "trials")
    over = over if over in charts.AXES else "trials"
    first = [goal.metric for goal in state.objectives]
    if len(first) == 1:
        first.append("cost/flops" if first[0] != "cost/flops" else "cost/params")
    first = first[:2] if first[0].startswith("cost/") else [first[1], first[0]]
    x, y = (query.get(key, "") if query.get(key) in metrics else first[i] for i, key in enumerate("xy"))
    curve = query.get("curve", "")
    reported = list(
        dict.fromkeys(k for t in list(state.trials.values())[-50:] for s in t.steps for k in s.metrics if is_shown(k))
    )
    if curve not in reported:
        curve = next((key for key in (state.objectives[0].metric, "val/accuracy", *reported) if key in reported), "")
    rejected: dict[str, int] = {}
    for trial in state.trials.values():
        if trial.status == "rejected":
            for limit in (trial.result.violations if trial.result else {}) or {"a constraint": 0.0}:
                rejected[limit] = rejected.get(limit, 0) + 1
    return {
        **headline(view, "search"),
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
        "rejected": sorted(rejected.items(), key=lambda item: -item[1]),
        "further": further_figures(),
        "leaders": tables.leaderboard(state, 8),
        "columns": [goal.metric for goal in state.objectives],
    }
