"""Test results as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from nasforge.views.svg import Bar, bars


def bars_of(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw test results as bars with intervals."""
    if not rows:
        return Markup("")
    ends = [end for row in rows for end in (row["value"], row["low"], row["high"]) if end is not None]
    low = max(0.0, min(ends) - 0.15 * (max(ends) - min(ends)) - 0.01) if min(ends) > 0.3 else 0.0
    drawn = [
        Bar(
            row["name"],
            row["value"],
            f"{row['value']:.2%}",
            "best" if row["won"] else "finished",
            row["low"],
            row["high"],
        )
        for row in rows
    ]
    return Markup(bars("Test accuracy with its interval", drawn, low=low))  # noqa: S704
