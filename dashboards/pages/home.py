"""The first page: all searches, fits, campaigns and calibrations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nasforge.core.command_line import command_line, runs_dir_option
from nasforge.core.metrics import title_of
from nasforge.dashboards.library import KINDS, STATES, Entry, Library, Row, entries_in
from nasforge.dashboards.pages.base import Query, sort_link
from nasforge.dashboards.pages.texts import short_name

_ORDERS: dict[str, Callable[[Row], Any]] = {
    "name": lambda row: row.entry.name,
    "kind": lambda row: row.kind,
    "state": lambda row: row.state,
    "strategy": lambda row: row.facts.get("strategy"),
    **{key: (lambda row, k=key: row.facts.get(k)) for key in ("started", "elapsed", "eta", "budget", "trials")},  # type: ignore[misc]
    "best": lambda row: _in_groups(row, "best", "metric"),
    "test": lambda row: _in_groups(row, "test", "test_metric"),
}

_HOME_HEAD = (
    ("name", "name"),
    ("kind", "kind"),
    ("state", "state"),
    ("strategy", "strategy"),
    ("trials", "trials"),
    ("budget", "budget used"),
    ("started", "started"),
    ("elapsed", "elapsed"),
    ("eta", "time left"),
    ("best", "best"),
    ("test", "test"),
)


def _in_groups(row: Row, key: str, metric: str) -> tuple[str, float] | None:
    """Return the sort key of a result: results in the same metric stand together, since others do not compare."""
    value = row.facts.get(key)
    return None if value is None else (str(row.facts.get(metric)), value)


def _only(rows: Sequence[Row], key: str, metric: str) -> str:
    """Return the metric of all results in a column; empty where they are in several, so each must name its own."""
    metrics = {row.facts[metric] for row in rows if row.facts.get(key) is not None}
    return metrics.pop() if len(metrics) == 1 else ""


def home(library: Library, query: Query) -> dict[str, Any]:
    """Return all searches, fits, campaigns and calibrations."""
    return {
        "title": "NASForge",
        "heading": "",
        "files": [],
        **table_of(library, entries_in(library.runs_dir), query),
        "live": "/",
    }


def table_of(library: Library, entries: list[Entry], query: Query) -> dict[str, Any]:
    """Return the table of entries, filtered and sorted as the address asks."""
    rows = library.rows(entries)
    reading = sum(row.state == "reading" for row in rows)
    text, kind, state = query.get("q", "").strip(), query.get("kind", ""), query.get("state", "")
    shown = [
        row
        for row in rows
        if (not kind or row.kind == kind)
        and (not state or row.state == state)
        and (text.lower() in f"{row.entry.name} {row.facts.get('strategy')} {row.facts.get('data')}".lower())
    ]
    order, down = query.get("sort", ""), query.get("down") == "1"
    if order in _ORDERS:
        known = [row for row in shown if _ORDERS[order](row) is not None]
        known.sort(key=_ORDERS[order], reverse=down)
        shown = known + [row for row in shown if _ORDERS[order](row) is None]
    metrics = {"best": _only(shown, "best", "metric"), "test": _only(shown, "test", "test_metric")}
    titles = {
        key: f"{title}: {short_name(title_of(metrics[key]))}" if metrics.get(key) else title
        for key, title in _HOME_HEAD
    }
    example = command_line(
        "search", "tiny", "--data", "digits", "--max-trials", "12", *runs_dir_option(library.runs_dir)
    )
    return {
        "rows": shown,
        "total": len(rows),
        "kinds": KINDS,
        "states": STATES,
        "query": {"q": text, "kind": kind, "state": state, "sort": order, "down": query.get("down", "")},
        "head": [(key, title, *sort_link(query, key)) for key, title in titles.items()],
        "metrics": metrics,
        "reading": {"share": 1 - reading / len(rows)} if reading else None,
        "example": example,
        "command": "",
        "explained": "",
        "comparison": None,
        "searches": "",
    }
