"""Importance of decisions as a drawing: the dashboard and the report have the same."""

from __future__ import annotations

from html import escape

from nasforge.core.errors import NasforgeError
from nasforge.core.metrics import title_of
from nasforge.experiment.state import State
from nasforge.views.charts import importance_chart
from nasforge.views.svg import missing


def importance_drawing(state: State) -> str:
    """Draw the importance of decisions for each objective; a sentence where there is none.

    It takes seconds, see `nasforge.views.optuna_study.importances`.
    """
    from nasforge.views.optuna_study import importances  # optuna, not before it is needed

    try:
        ranked = importances(state)
    except NasforgeError as error:
        text = str(error)
        return missing(f"{text[:1].upper()}{text[1:]}.")
    parts = [
        '<p class="dim">The share of an objective\'s variance that each decision explains (fANOVA), computed '
        f"{ranked.basis}. If two decisions change together, one may get part of the other's share.</p>"
    ]
    for metric, shares in ranked.shares.items():
        parts.append(f"<h3>{escape(title_of(metric))}</h3>")
        alike = f"All {ranked.trials} of these trials have the same {title_of(metric)}."
        parts.append(importance_chart(shares) if any(shares.values()) else missing(alike))
    return "".join(parts)
