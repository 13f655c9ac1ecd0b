"""Result of a search or of a fit."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from markupsafe import Markup

from nasforge.api.fit.log import reading
from nasforge.core.layout import FINALISTS
from nasforge.core.metrics import short_name
from nasforge.dashboards.library import View, fit_result
from nasforge.dashboards.pages.base import headline
from nasforge.dashboards.pages.errors import errors_of_fit, errors_of_search
from nasforge.dashboards.pages.fit import fit_content
from nasforge.views import tables
from nasforge.views.results import (
    bars_of_test,
    commands_for,
    networks_on_test,
    note_on_seeds,
    outcome_sentence,
    remarks,
)


def result(view: View) -> dict[str, Any]:
    """Result of a search or of a fit."""
    state, entry = view.state, view.entry
    outcome = fit_result(entry)
    content = headline(view, "result")
    with reading(entry.folder) if entry.kind == "fit" else nullcontext():
        content |= fit_content(entry, outcome)
        errors = errors_of_search(view) if outcome is None else errors_of_fit(entry, outcome)
    best = state.best
    commands = list(content["commands"])
    if outcome is None and entry.kind != "fit":
        commands = [*commands_for(entry.folder, state), *commands]
    tested = networks_on_test(state, entry.folder / FINALISTS)
    if tested and not content["rows"]:
        measure = short_name(tested[0]["metric"])
        content |= {"rows": tested, "bars": Markup(bars_of_test(tested, measure)), "measure": measure}  # noqa: S704
    if outcome is None and entry.kind != "fit":
        content |= {"sentence": outcome_sentence(state, tested, content["standing"]), "remarks": remarks(state)}
    return {
        **content,
        "commands": commands,
        "leaders": tables.leaderboard(state, 5),
        "decisions": tables.decisions(best) if best else [],
        "columns": [goal.metric for goal in state.objectives],
        "best": best,
        "seeds": note_on_seeds(tested) if outcome is None else "",
        **errors,
    }
