"""Forecasts of a predictor against the outcomes: scatter, coverage of its intervals, rank correlation over time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from nasforge.core.trial import Forecast, Measure, Trial
from nasforge.experiment.state import State
from nasforge.strategies.ranking import merit
from nasforge.views.charts import STATUSES, Link, about
from nasforge.views.statistics import wilson
from nasforge.views.svg import Axis, Plot, Point, missing

LEVELS = (0.5, 0.8, 0.95)
"""Of the intervals whose coverage is measured."""
WINDOW = 30
"""Forecasts of one rank correlation."""
_FEWEST = 10
_MOST_POINTS = 800
_NORMAL = NormalDist()
_FAILED = (False, -1, float("-inf"))
_SHARES = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999)


class Outcome(NamedTuple):
    """Forecast of a closed trial and what came out, both as normal scores; see `nasforge.core.trial.Forecast`.

    Attributes:
        number: the trial.
        forecast: when it was proposed.
        score: of its rank among the earlier trials of the same rung and itself.
        status: of the trial.
    """

    number: int
    forecast: Forecast
    score: float
    status: str


def outcomes_of(state: State) -> list[Outcome]:
    """Return the forecasts of a search whose trials are closed, in order of trial; rejected ones have no outcome."""
    known: dict[int, list[tuple[Any, ...]]] = {}
    outcomes = []
    for number, trial in state.trials.items():
        proposal, result = trial.proposal, trial.result
        if not isinstance(proposal, Measure) or result is None or result.status == "rejected":
            continue
        worth = merit(result)
        order = _FAILED if worth is None else (worth.finished, worth.steps_done, worth.values[0])
        ranked = known.setdefault(proposal.rung % len(state.ladder), [])
        insort(ranked, order)
        forecast = proposal.origin.forecast if proposal.origin else None
        if forecast is not None:
            rank = (bisect_left(ranked, order) + bisect_right(ranked, order)) / 2
            outcomes.append(Outcome(number, forecast, _NORMAL.inv_cdf(rank / len(ranked)), result.status))
    return outcomes


def share_text(score: float) -> str:
    """Return a normal score as the share of earlier trials that it beats: `0` -> `50%`."""
    share = 100 * _NORMAL.cdf(score)
    digits = 0 if 0.995 <= share <= 99.005 else 1 if 0.0995 <= share <= 99.9005 else 2
    return f"{share:.{digits}f}%"


def sentence(outcome: Outcome) -> str:
    """Return a forecast and its outcome in words."""
    low, high = (outcome.forecast.mean + sign * _width(0.8) * outcome.forecast.deviation for sign in (-1, 1))
    return (
        f"The predictor expected it to beat {share_text(outcome.forecast.mean)} of the earlier trials "
        f"(80 % interval {share_text(low)} to {share_text(high)}); it beat {share_text(outcome.score)}."
    )


def forecast_chart(state: State, outcomes: Sequence[Outcome], link: Link) -> str:
    """Draw every outcome over its forecast, with the diagonal on which both are equal."""
    if not outcomes:
        return missing("No trial with a forecast is closed yet.")
    places = [place for one in outcomes for place in (one.forecast.mean, one.score)]
    low, high = min([*places, -1.0]) - 0.15, max([*places, 1.0]) + 0.15
    scores = [_NORMAL.inv_cdf(share) for share in _SHARES]
    across = Axis("forecast: share of earlier trials beaten", low, high, text=share_text, marks=scores)
    up = Axis("outcome: share beaten", low, high, text=share_text, marks=scores)
    plot = Plot("Outcome of trials over their forecast", across, up, height=420)
    plot.line("other dashed", [(low, low), (high, high)], name="outcome as forecast")
    left_out = 0
    for status in STATUSES:
        marks = [
            Point(one.forecast.mean, one.score, _title(state.trials[one.number], one), link(one.number))
            for one in outcomes
            if one.status == status
        ]
        left_out += plot.points(status, marks, name=status, radius=3.5, thin=_MOST_POINTS)
    note = f'<p class="dim">{left_out:,} further points are not drawn.</p>' if left_out else ""
    return plot.svg() + note


def coverage(outcomes: Sequence[Outcome]) -> list[dict[str, float]]:
    """Return the share of outcomes inside the intervals of each level, with its own 95 % interval (Wilson's)."""
    rows = []
    for level in LEVELS if outcomes else ():
        inside = sum(abs(one.score - one.forecast.mean) <= _width(level) * one.forecast.deviation for one in outcomes)
        low, high = wilson(inside, len(outcomes))
        rows.append({"level": level, "share": inside / len(outcomes), "low": low, "high": high})
    return rows


def correlation_chart(outcomes: Sequence[Outcome]) -> str:
    """Draw the rank correlation of forecasts and outcomes, each of the latest `WINDOW` forecasts, over the trials."""
    rows = [
        (float(outcomes[end - 1].number), correlation(outcomes[max(0, end - WINDOW) : end]))
        for end in range(_FEWEST, len(outcomes) + 1, max(1, len(outcomes) // 200))
    ]
    rows = [(number, value) for number, value in rows if value is not None]
    if len(rows) < 2:
        return missing(f"A rank correlation needs more than {_FEWEST} forecasts whose trials are closed.")
    plot = Plot(
        "Rank correlation of forecast and outcome over the trials",
        Axis.of("trial", [number for number, _ in rows], whole=True),
        Axis("rank correlation", -1.0, 1.0),
        height=260,
    )
    plot.limit("the forecast says nothing", y=0.0)
    plot.line("best", [(x, y) for x, y in rows if y is not None], name=f"of the latest {WINDOW} forecasts")
    return plot.svg()


def correlation(outcomes: Sequence[Outcome]) -> float | None:
    """Return Spearman's rank correlation of forecasts and outcomes; None where all of one side are equal."""
    forecasts = _ranks([one.forecast.mean for one in outcomes])
    scores = _ranks([one.score for one in outcomes])
    if len(outcomes) < 2 or not forecasts.std() or not scores.std():
        return None
    return float(np.corrcoef(forecasts, scores)[0, 1])


def _ranks(values: Sequence[float]) -> Any:
    ordered = sorted(values)
    return np.array([(bisect_left(ordered, value) + bisect_right(ordered, value)) / 2 for value in values])


def _width(level: float) -> float:
    """Return the half width of an interval of this level, in standard deviations."""
    return _NORMAL.inv_cdf((1 + level) / 2)


def _title(trial: Trial, outcome: Outcome) -> str:
    return f"{sentence(outcome)}\n{about(trial)}"
