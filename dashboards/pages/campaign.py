"""The page of a campaign."""

from __future__ import annotations

from typing import Any

from nasforge.core.command_line import command_for
from nasforge.dashboards.library import Entry, Library, searches_of
from nasforge.dashboards.pages.base import Query
from nasforge.dashboards.pages.files import files_of
from nasforge.dashboards.pages.home import table_of


def campaign(library: Library, entry: Entry, query: Query) -> dict[str, Any]:
    """Return the searches of a campaign."""
    content = table_of(library, searches_of(entry), query)
    command = command_for(entry.folder, "compare")
    return {
        "title": entry.name,
        "heading": entry.name,
        "entry": entry,
        **content,
        "live": entry.name,
        "command": command,
        "files": files_of(entry),
    }
