"""Texts of values on the pages: filters of the templates."""

from __future__ import annotations

import re
from urllib.parse import quote

from markupsafe import Markup, escape

from nasforge.dashboards.library import IN_CAMPAIGN, Entry
from nasforge.views.results import kind_text
from nasforge.views.svg import number_text
from nasforge.views.texts import (
    bytes_text,
    excess_text,
    metric_text,
    metric_title,
    seconds_text,
    share_text,
    status_text,
    value_text,
    when_text,
)


def breakable(text: str) -> Markup:
    """Return a long key that a narrow page may break after its dots."""
    return escape(text).replace(".", Markup(".<wbr>"))


def without_modules(text: str) -> str:
    """Return names of strategies without their modules: `my.module:Strategy` -> `Strategy`."""
    return re.sub(r"[\w.]+:(?=\w)", "", text)


def short_name(title: str) -> str:
    """Return the name of a metric below a heading that says `test` already."""
    return title.removeprefix("test ")


def path_of(entry: Entry) -> list[tuple[str, str]]:
    """Name and address of an entry, after those of its campaign."""
    campaign, _, search = entry.name.partition(IN_CAMPAIGN)
    address = f"/{quote(entry.name, safe=':')}"
    if entry.kind == "search" and search and entry.folder.name == search:
        return [(campaign, f"/{quote(campaign)}"), (search, address)]
    return [(entry.name, address)]


FILTERS = {
    "bytes": bytes_text,
    "value": value_text,
    "breakable": breakable,
    "without_modules": without_modules,
    "status": status_text,
    "kind": kind_text,
    "short": short_name,
    "path": path_of,
    "seconds": seconds_text,
    "when": when_text,
    "metric": metric_text,
    "share": share_text,
    "excess": excess_text,
    "title": metric_title,
    "number": number_text,
    "quoted": lambda text: quote(str(text), safe=":"),
}
