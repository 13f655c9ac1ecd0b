"""The page of one trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from nasforge.core.command_line import command_for
from nasforge.core.trial import TrainShared, Trial
from nasforge.dashboards.library import View
from nasforge.dashboards.pages.base import headline
from nasforge.views import charts, forecasts, tables, trial_log
from nasforge.views.health import advice as health_advice
from nasforge.views.network_svg import cells_svg


def trial(view: View, number: int) -> dict[str, Any]:
    """One trial."""
    state = view.state
    one = state.trials.get(number)
    content = headline(view, "trials")
    if one is None:  # not read yet
        return {**content, "title": f"{view.entry.name}: trial {number}", "trial": None, "number": number}
    keys = sorted({key for step in one.steps for key in step.metrics if tables.is_shown(key)})
    children = [n for n, t in state.trials.items() if number in charts.parents_of(t)][:20]
    ranking = [trial.number for trial in state.ranking()]
    return {
        **content,
        "title": f"{view.entry.name}: trial {number}",
        "trial": one,
        "number": number,
        "rank": ranking.index(number) + 1 if number in ranking else None,
        "ranked": len(ranking),
        "last": len(state.trials) - 1,
        "decisions": tables.decisions(one),
        "metrics": [(key, value) for key, value in sorted(one.metrics.items()) if tables.is_shown(key)],
        "steps": tables.steps_of(state).removesuffix("s") or "step",
        "step_keys": keys,
        "reports": one.steps[-200:],
        "advice": health_advice(one),
        "parents": charts.parents_of(one),
        "forecast": _forecast(view, one),
        "origin": getattr(one.proposal, "origin", None),
        "children": children,
        "shared": isinstance(one.proposal, TrainShared),
        "cells": Markup(cells_svg(one.architecture.model)) if one.architecture else "",  # noqa: S704
        "commands": [
            command_for(view.entry.folder, "show", "--trial", str(number)),
            command_for(view.entry.folder, "show", "--trial", str(number), "--log"),
            command_for(view.entry.folder, "show", "--trial", str(number), "--rerun"),
        ],
    }


def log(folder: Path, number: int) -> dict[str, Any]:
    """Return what happened to a trial, event by event, and the tracebacks of its attempts.

    Args:
        folder: of the journal.
        number: of the trial.
    """
    lines = trial_log.log_of(folder, number)
    shown = [
        (line, [(key, value) for key, value in sorted(line.metrics.items()) if tables.is_shown(key)]) for line in lines
    ]
    return {"lines": shown, "begin": lines[0].at, "tracebacks": trial_log.tracebacks(folder, number)}


def _forecast(view: View, one: Trial) -> str:
    """Return the forecast of a closed trial and its outcome in words; empty without a forecast."""
    origin = None if isinstance(one.proposal, TrainShared) else one.proposal.origin
    if origin is None or origin.forecast is None:
        return ""
    outcomes = view.drawn(("outcomes",), lambda: forecasts.outcomes_of(view.state))
    metrics = [goal.metric for goal in view.state.objectives]
    return next((forecasts.sentence(outcome, metrics) for outcome in outcomes if outcome.number == one.number), "")
