"""The page of a campaign, and that of any searches that were chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nasforge.core.command_line import command_for
from nasforge.dashboards.library import Entry, Library, searches_of
from nasforge.dashboards.pages.base import Query
from nasforge.dashboards.pages.comparison import comparison_of
from nasforge.dashboards.pages.files import files_of
from nasforge.dashboards.pages.home import table_of


def campaign(library: Library, entry: Entry, query: Query) -> dict[str, Any]:
    """Return the comparison of a campaign's strategies, and its searches."""
    comparison = comparison_of(library, [entry], query)
    content = table_of(library, searches_of(entry), query)
    command = command_for(entry.folder, "compare")
    return {
        **content,
        "title": entry.name,
        "heading": entry.name,
        "entry": entry,
        "live": entry.name,
        "explained": f"A campaign of {content['total']} searches. Compare them in the terminal: ",
        "command": command,
        "files": files_of(entry),
        "comparison": comparison,
        "reading": comparison["reading"] or content["reading"],
    }


def chosen(library: Library, entries: Sequence[Entry], query: Query) -> dict[str, Any]:
    """Return the comparison of chosen searches and campaigns, and their rows."""
    comparison = comparison_of(library, entries, query)
    content = table_of(library, list(entries), query)
    names = ", ".join(entry.name for entry in entries)
    return {
        **content,
        "title": f"Compare {names}",
        "heading": "Compare",
        "live": "/",
        "explained": names,
        "files": [],
        "comparison": comparison,
        "reading": comparison["reading"] or content["reading"],
        "searches": ",".join(entry.name for entry in entries),
    }
