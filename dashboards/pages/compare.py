"""Trials next to each other."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from nasforge.core.metrics import direction
from nasforge.dashboards.library import View
from nasforge.dashboards.pages.base import headline, number_of
from nasforge.views.network_svg import cells_svg
from nasforge.views.tables import is_shown

_MOST_COMPARED = 6


def numbers_of(text: str) -> list[int]:
    """Return the trials that an address names: `3,7`."""
    numbers = (number_of(part) for part in text.split(","))
    return list(dict.fromkeys(number for number in numbers if number is not None))[:_MOST_COMPARED]


def compare(view: View, text: str) -> dict[str, Any]:
    """Trials next to each other, with what differs marked."""
    state = view.state
    chosen = [state.trials[number] for number in numbers_of(text) if number in state.trials]
    keys = dict.fromkeys(key for one in chosen if one.architecture for key in one.architecture.values)
    rows = []
    for key in keys:
        values = [one.architecture.values.get(key, "") if one.architecture else "" for one in chosen]
        rows.append((key, values, len(set(map(str, values))) > 1))
    directions = {goal.metric: goal.maximise for goal in state.objectives}
    metrics = []
    for key in dict.fromkeys(key for one in chosen for key in sorted(one.metrics) if is_shown(key)):
        measured = [one.metric(key) for one in chosen]
        known = [value for value in measured if value is not None and math.isfinite(value)]
        maximise = directions.get(key, direction(key))
        best = None if maximise is None or len(set(known)) < 2 else (max(known) if maximise else min(known))
        metrics.append((key, measured, best))
    names = ",".join(str(one.number) for one in chosen)
    return {
        **headline(view, "trials"),
        "title": f"{view.entry.name}: trials {names.replace(',', ', ')}",
        "chosen": chosen,
        "rows": rows,
        "metric_rows": metrics,
        "names": names,
        "cells": [Markup(cells_svg(one.architecture.model)) if one.architecture else "" for one in chosen],  # noqa: S704
    }
