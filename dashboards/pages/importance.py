"""The page on the decisions that made the difference."""

from __future__ import annotations

from functools import partial
from typing import Any

from markupsafe import Markup

from nasforge.core.space import SearchSpace
from nasforge.dashboards.library import View
from nasforge.dashboards.pages.base import Query, headline, metrics_of, number_of, trial_link
from nasforge.views import charts
from nasforge.views import importance as drawing
from nasforge.views.parallel import is_higher_warmer, parallel_chart
from nasforge.views.survival import nothing_to_draw, survival_chart
from nasforge.views.svg import missing

_MOST_SLICES = 12


def importance(view: View, query: Query) -> dict[str, Any]:
    """Which decisions made the difference."""
    state, link = view.state, trial_link(view)
    metrics = [goal.metric for goal in state.objectives]
    metrics += [key for key in metrics_of(state) if key not in metrics]
    metric = query.get("metric", "") if query.get("metric") in metrics else metrics[0]
    domains = SearchSpace.from_json(state.header.config["space"]).domains
    keys = [key for key, domain in domains.items() if domain.size > 1]
    first = number_of(query.get("from", "0")) or 0
    start = first if first < len(keys) else 0
    shown = keys[start : start + _MOST_SLICES]
    slices = []
    for key in shown:
        alone = view.drawn(("nothing", key), partial(nothing_to_draw, state, key))
        drawings = (
            [missing(alone)]
            if alone
            else [
                view.drawn(("slice", key, metric), partial(charts.slice_chart, state, link, key, metric)),
                view.drawn(("survival", key), partial(survival_chart, state, key)),
            ]
        )
        slices.append((key, [Markup(drawing) for drawing in drawings]))  # noqa: S704
    return {
        **headline(view, "importance"),
        "parallel": Markup(view.drawn(("parallel", metric), lambda: parallel_chart(state, link, metric))),  # noqa: S704
        "better": "higher" if is_higher_warmer(state, metric) else "lower",
        "slices": slices,
        "metric": metric,
        "metrics": metrics,
        "total": len(keys),
        "start": start,
        "step": _MOST_SLICES,
    }


def importance_drawing(view: View) -> str:
    """Importance of the decisions for each objective, as bars."""
    return str(view.drawn(("importance",), partial(drawing.importance_drawing, view.state)))
