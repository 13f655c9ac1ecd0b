"""Texts of values on pages: the same number looks the same in the dashboard and in a report."""

from __future__ import annotations

import math
import time

from nasforge.core.goals import text_of_limit
from nasforge.core.metrics import form_of, title_of
from nasforge.views.rounding import fixed, percent, significant
from nasforge.views.svg import number_text


def seconds_text(seconds: float | None) -> str:
    """`4000` -> `1 h 06 min`, `200` -> `3.3 min`, `40` -> `40 s`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 90:
        return f"{fixed(seconds, 0 if seconds >= 10 else 1)} s"
    if seconds < 5400:
        return f"{fixed(seconds / 60, 0 if seconds >= 600 else 1)} min"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def when_text(at: float | None) -> str:
    """Return a time in the server's time zone; a dash for none, and for one that no calendar has."""
    try:
        return "–" if at is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
    except (OSError, OverflowError, ValueError):  # a journal may say what it likes
        return "–"


def metric_text(value: float | None, key: str = "") -> str:
    """Return a metric as people read it."""
    if value is None or not math.isfinite(value):
        return "–"
    if form_of(key) == "seconds":
        return seconds_text(value)
    if key.startswith("cost/"):
        return number_text(float(significant(value, 3)))
    usual = value == 0 or 1e-3 <= abs(value) < 10
    return fixed(value, 4) if form_of(key) == "number" and usual else number_text(value)


def metric_title(key: str) -> str:
    """Return a metric's name next to a text of `metric_text`, which has the unit of a time."""
    name = title_of(key)
    return name.removesuffix(" (s)") if form_of(key) == "seconds" else name


def excess_text(limit: str, excess: float) -> str:
    """Return by how much a cost is above a limit: `params<=1M is exceeded by 0.004%`."""
    digits = max(1, -math.floor(math.log10(100 * excess))) if 0 < excess < math.inf else 1
    return f"{text_of_limit(limit)} is exceeded by {percent(excess, digits)}"


def share_text(share: float | None) -> str:
    """Return a share in percent."""
    return "–" if share is None else percent(share)


def bytes_text(size: int) -> str:
    """`7050` -> `7.05 kB`."""
    text = number_text(size)
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} B"


def size_text(size: float) -> str:
    """Return the number of points of a space as text; `size` may exceed every float."""
    if size == math.inf:
        return "infinitely many (a continuous decision)"
    if size < 1e9:
        return f"{size:,.0f}"
    return f"{size:.1e}" if size < 1e16 else f"about 10^{math.log10(size):.0f}"


def value_text(value: object) -> str:
    """Return the value of a decision; none stands for a decision that the network does not have."""
    if value is None or value == "":
        return "–"
    return number_text(value) if isinstance(value, float) else str(value)


def status_text(status: str, standing: str) -> str:
    """Return the status of a trial; one that a stopped search left open does not run.

    Args:
        status: of the trial.
        standing: of its search; `reading` where the journal is not read to its end, which may close the trial.
    """
    if status != "running" or standing == "running":
        return status
    return "unfinished" if standing == "reading" else "interrupted"
