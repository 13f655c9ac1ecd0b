"""Headline of an experiment, links, and shown metrics, which all pages share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from nasforge.dashboards.library import View, facts_of, fit_result, kind_of, state_of
from nasforge.experiment.state import State
from nasforge.views import charts
from nasforge.views.tables import is_shown

Query = Mapping[str, str]
_DIGITS = 12
"""Digits of a number in an address at most: Python refuses to read thousands of them."""


def number_of(text: str) -> int | None:
    """Return a whole number in an address; None for another text and for a number above those of trials and pages."""
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) <= _DIGITS else None


def sort_link(query: Query, key: str) -> tuple[str, str]:
    """Return the address that sorts by a column, and the mark of the column that sorts now."""
    now = query.get("sort") == key
    down = query.get("down") == "1"
    kept = {name: value for name, value in query.items() if name not in ("sort", "down", "page", "trials")}
    address = "?" + urlencode({**kept, "sort": key, **({} if now and down else {"down": "1"})})
    return address, ("descending" if down else "ascending") if now else ""


def headline(view: View, tab: str) -> dict[str, Any]:
    """Return the content that all pages of one experiment share: title, facts, links to the other pages."""
    state, entry = view.state, view.entry
    tabs = [("search", "Search"), ("trials", "Trials"), ("importance", "What mattered"), ("how", "How it searched")]
    address = f"/{quote(entry.name)}"
    names = dict([("result", "Result"), *tabs])
    links = [(f"{address}/{key}", title, key == tab) for key, title in tabs]
    if has_result(view):
        links.insert(0, (address, "Result", tab == "result"))
    goals = [str(goal) for goal in state.objectives]
    return {
        "title": f"{entry.name}: {names[tab]}",
        "entry": entry,
        "kind": kind_of(view),
        "tabs": links,
        "live": entry.name,
        "reading": {"share": view.reader.progress} if view.reader.behind else None,
        "facts": facts_of(view),
        "standing": "reading" if view.reader.behind else state_of(view),
        "goals": goals,
        "limits": [limit.text for limit in (*state.constraints, *state.targets)],
        "best": state.best,
        "address": address,
    }


def has_result(view: View) -> bool:
    """Return whether a search has something to show at its end."""
    if fit_result(view.entry) is not None:
        return True
    return state_of(view) != "running" and (view.state.best is not None or bool(view.state.tests))


def trial_link(view: View) -> charts.Link:
    """Return the function from the number of a trial to the address of its page."""
    address = f"/{quote(view.entry.name)}/trial/"
    return lambda number: f"{address}{number}"


def metrics_of(state: State) -> list[str]:
    """Return the metrics of trials: objectives first."""
    keys: dict[str, None] = {goal.metric: None for goal in state.objectives}
    trials = list(state.trials.values())
    for trial in trials[:: max(1, len(trials) // 200)]:
        keys |= dict.fromkeys(key for key in sorted(trial.metrics) if is_shown(key))
    return list(keys)
