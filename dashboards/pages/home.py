"""The first page: all searches, fits, campaigns and calibrations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nasforge.core.command_line import command_line, runs_dir_option
from nasforge.dashboards.library import KINDS, STATES, Entry, Library, Row, entries_in
from nasforge.dashboards.pages.base import Query, sort_link

_ORDERS: dict[str, Callable[[Row], Any]] = {
    "name": lambda row: row.entry.name,
    "kind": lambda row: row.kind,
    "state": lambda row: row.state,
    "strategy": lambda row: row.facts.get("strategy"),
    **{key: (lambda row, k=key: row.facts.get(k)) for key in ("started", "elapsed", "eta", "budget", "trials")},  # type: ignore[misc]
    **{key: (lambda row, k=key: row.facts.get(k)) for key in ("best", "test")},  # type: ignore[misc]
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
    ("eta", "left"),
    ("best", "best"),
    ("test", "test"),
)


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
    example = command_line(
        "search", "tiny", "--data", "digits", "--max-trials", "12", *runs_dir_option(library.runs_dir)
    )
    return {
        "rows": shown,
        "total": len(rows),
        "kinds": KINDS,
        "states": STATES,
        "query": {"q": text, "kind": kind, "state": state, "sort": order, "down": query.get("down", "")},
        "head": [(key, title, *sort_link(query, key)) for key, title in _HOME_HEAD],
        "reading": {"share": 1 - reading / len(rows)} if reading else None,
        "example": example,
        "command": "",
        "explained": "",
        "comparison": None,
        "searches": "",
    }
