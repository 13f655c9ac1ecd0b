"""Registered figures that have no place of their own."""

from __future__ import annotations

from markupsafe import escape

from nasforge import registry
from nasforge.dashboards.library import View

PLOTLY = "plotly.min.js"
_PLACED = ("best_so_far", "pareto", "learning_curves", "failures")
"""Registered figures that have a place of their own on the pages."""


def further_figures() -> list[str]:
    """Return the registered figures that have no place of their own."""
    return [name for name in registry.names("figure") if name not in _PLACED]


def plotly_script() -> str:
    """Plotly's script, as the Python package ships it."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def plotly_page(view: View, name: str) -> str:
    """Return a page with a registered figure; one that breaks shows its error."""
    try:
        figure = registry.get("figure", name)(view.state)
        return str(figure.to_html(include_plotlyjs=f"/-/static/{PLOTLY}", config={"displaylogo": False}))
    except Exception as error:  # whatever a plug-in raises
        problem = escape(f"The figure {name} cannot be drawn: {type(error).__name__}: {error}")
        return f"<!doctype html><p>{problem}</p>"
