"""Figures that packages register in the entry-point group `nasforge.figure`."""

from __future__ import annotations

from markupsafe import escape

from nasforge import registry
from nasforge.dashboards.library import View

PLOTLY = "plotly.min.js"


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
