"""A calibration to look at: correlation, noise and cost of every rung, as one page and a picture."""

from __future__ import annotations

import json
import math
from pathlib import Path

from nasforge.views import page
from nasforge.views.calibration import RULE, Calibration, Correlation, RungFacts
from nasforge.views.picture import HEIGHT, WIDTH, draw_page, write
from nasforge.views.rounding import fixed, percent
from nasforge.views.svg import Axis, Plot, Point

PAGE = "calibration.html"


def calibration_chart(calibration: Calibration, width: int = 640, height: int = 330) -> str:
    """Draw the rank correlation of every rung with full training, with its interval.

    Args:
        calibration: has the rungs.
        width: of the drawing in pixels.
        height: likewise.
    """
    rungs = calibration.rungs
    facts = [fact for rung in rungs for fact in (rung.spearman, rung.kendall)]
    lows = [fact.low for fact in facts if not math.isnan(fact.low)]
    lowest = min(math.floor(4 * low) / 4 for low in [0.0, *lows])

    def rung_text(place: float) -> str:
        known = place == int(place) and 0 <= place < len(rungs)
        return f"{rungs[int(place)].rung} ({percent(rungs[int(place)].cost)})" if known else ""

    plot = Plot(
        f"Rank correlation of {len(rungs)} rungs with full training",
        Axis("rung, and its share of the cost of a whole training", -0.4, len(rungs) - 0.6, text=rung_text, whole=True),
        Axis(f"rank correlation ({_seeds(calibration)})", lowest - 0.05, 1.05),
        width=width,
        height=height,
    )
    for kind, name, title, aside in (("s0", "spearman", "Spearman", 0.0), ("s1", "kendall", "Kendall", 0.03)):
        values: list[tuple[float, float]] = []
        for place, rung in enumerate(rungs):
            fact: Correlation = getattr(rung, name)
            values.append((place + aside, fact.value))
            text = f"{title} of {rung.rung}: {interval_text(fact)}"
            plot.line(kind, [(place + aside, fact.low), (place + aside, fact.high)], title=text)
            plot.points(kind, [Point(place + aside, fact.value, text)])
        plot.line(f"{kind} thick", values, name=title)
    return plot.svg()


RUNG_COLUMNS = ("epochs", "cost", "worker s", "seed noise", "spread", "Spearman", "Kendall", "same run")
"""Titles of the table of rungs."""


def rung_row(calibration: Calibration, rung: RungFacts) -> list[str]:
    """Return the cells of a rung in the table of rungs."""
    return [
        *(rung.rung, percent(rung.cost), f"{rung.seconds:.3g}"),
        *("-" if calibration.seeds == 1 else f"{rung.noise:.3g}", f"{rung.spread:.3g}"),
        *(interval_text(rung.spearman), interval_text(rung.kendall)),
        "-" if math.isnan(rung.same_run) else f"{rung.same_run:.2f}",
    ]


def interval_text(fact: Correlation) -> str:
    """Return a correlation with its interval as text."""
    return "-" if math.isnan(fact.value) else f"{fact.value:.2f} ({fact.low:.2f} to {fact.high:.2f})"


def recommendation(calibration: Calibration) -> list[str]:
    """Return the recommended ladder, and what a search on it costs, as sentences."""
    ladder = ", ".join(json.dumps(dict(rung)).replace('"', "") for rung in calibration.ladder)
    sentences = [f"Recommended: ladder: [{ladder}]   ({RULE})"]
    without = f"A search of {calibration.trials} trials: about {calibration.seconds_without:,.0f} s of worker time"
    if len(calibration.ladder) > 1:
        sentences.append(
            f"{without} without a pruner, {calibration.seconds_with:,.0f} s with ASHA on this ladder "
            f"({percent(calibration.share)} of the work); the best is {fixed(calibration.lost, 4)} worse on average "
            "(simulated on these trainings)"
        )
    else:
        sentences.append(f"{without}. No rung below the last one can be relied on: search with --pruner none")
    return sentences


def write_calibration(calibration: Calibration, folder: Path) -> Path:
    """Write `calibration.html` in `folder`, a file that needs no network; returns it.

    Raises:
        ExportError: the file cannot be written.
    """
    rows = [rung_row(calibration, rung) for rung in calibration.rungs]
    scores = [[name.rpartition("/")[2], interval_text(fact)] for name, fact in calibration.proxies.items()]
    seeds = "seed" if calibration.seeds == 1 else "seeds"
    parts = [
        "<h1>Calibration</h1>",
        page.paragraph(
            f"{calibration.networks} networks, {calibration.seeds} {seeds} each. How well does {calibration.metric} "
            "of short trainings rank the networks?",
            "lead",
        ),
        *(page.paragraph(f"{sentence}.") for sentence in recommendation(calibration)),
        *(page.paragraph(f"{advice[:1].upper()}{advice[1:]}.", "note") for advice in calibration.advice),
        page.section("Rank correlation with full training", calibration_chart(calibration)),
        page.section("Rungs", page.table(RUNG_COLUMNS, rows)),
        page.section("Zero-cost scores with full training", page.table(("score", "Spearman"), scores))
        if scores
        else "",
    ]
    path = folder / PAGE
    write(path, page.document("Calibration", parts))
    return path


def draw_calibration(calibration: Calibration, path: Path) -> None:
    """Write the figure as a PNG.

    Raises:
        ExportError: there is no Chromium, or it failed.
    """
    draw_page(page.picture(calibration_chart(calibration, WIDTH, HEIGHT - 40)), path)


def _seeds(calibration: Calibration) -> str:
    return "other seeds" if calibration.seeds > 1 else "the same run"
