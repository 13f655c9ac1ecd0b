"""Content of each page for the templates: rows, figures and links. Everything comes from files."""

from nasforge.dashboards.pages import (
    base,
    campaign,
    compare,
    comparison,
    files,
    fit,
    home,
    how,
    importance,
    network,
    plug_ins,
    result,
    search,
    texts,
    trial,
    trials,
)

__all__ = [
    "base",
    "campaign",
    "compare",
    "comparison",
    "files",
    "fit",
    "home",
    "how",
    "importance",
    "network",
    "plug_ins",
    "result",
    "search",
    "texts",
    "trial",
    "trials",
]
