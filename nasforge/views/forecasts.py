"""Forecasts of a predictor against the outcomes: scatter, coverage of its intervals, rank correlation over time."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from nasforge.core.metrics import title_of
from nasforge.core.trial import Forecast, Measure
from nasforge.experiment.state import State
from nasforge.strategies.ranking import Merit, merit
from nasforge.strategies.weighted_ranks import ascending_ranks, worst_weighted
from nasforge.views.charts import STATUSES, Link, about
from nasforge.views.rounding import percent
from nasforge.views.statistics import wilson
from nasforge.views.svg import Axis, Plot, Point, missing

LEVELS = (0.5, 0.8, 0.95)
"""Of the intervals whose coverage is measured."""
WINDOW = 30
"""Forecasts of one rank correlation."""
_FEWEST = 10
_MOST_POINTS = 800
_NORMAL = NormalDist()
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
    closed = [
        (number, trial.proposal, trial.result)
        for number, trial in state.trials.items()
        if isinstance(trial.proposal, Measure) and trial.result is not None and trial.result.status != "rejected"
    ]
    if not any(proposal.origin and proposal.origin.forecast for _, proposal, _ in closed):
        return []
    objectives = len(state.objectives)
    rungs: dict[int, _Ranked] = {}
    outcomes = []
    for number, proposal, result in closed:
        worth = merit(result)
        ranked = rungs.setdefault(proposal.rung % len(state.ladder), _Ranked(objectives))
        ranked.add(worth)
        forecast = proposal.origin.forecast if proposal.origin else None
        weights = forecast and (forecast.weights or (1.0,))
        if forecast is not None and weights and len(weights) == objectives:
            share = ranked.share_of_latest(worth, weights)
            outcomes.append(Outcome(number, forecast, _NORMAL.inv_cdf(share), result.status))
    return outcomes


class _Ranked:
    """Trials of one rung in order of number; ranks the latest by any weights, as the strategy does."""

    def __init__(self, objectives: int) -> None:
        self._values = np.empty((objectives, 64))
        self._twice = np.empty((objectives, 64))  # twice the ascending ranks: ties have halves
        self._stages = np.empty((2, 64))  # finished, steps
        self._count, self._failed = 0, 0

    def add(self, worth: Merit | None) -> None:
        if worth is None:
            self._failed += 1
            return
        if self._count == self._values.shape[1]:
            self._values, self._twice, self._stages = (
                np.concatenate([array, np.empty_like(array)], axis=1)
                for array in (self._values, self._twice, self._stages)
            )
        values = np.array(worth.values)[:, None]
        earlier, last = self._values[:, : self._count], self._count
        self._twice[:, :last] += (values < earlier).astype(int) + (values <= earlier)
        self._twice[:, last] = (earlier < values).sum(1) + (earlier <= values).sum(1) + 1
        self._values[:, last] = values[:, 0]
        self._stages[:, last] = worth.finished, worth.steps_done
        self._count += 1

    def share_of_latest(self, worth: Merit | None, weights: Sequence[float]) -> float:
        """Return the rank of the trial that was added last, as a share of all: above 0, below 1."""
        every = self._count + self._failed
        if worth is None:
            return self._failed / 2 / every
        count = self._count
        value = worst_weighted(list(self._twice[:, :count] / 2), count, weights)
        order = np.array([*self._stages[:, :count], value])
        below, level = np.zeros(count, bool), np.ones(count, bool)
        for row in order:
            below |= level & (row < row[-1])
            level &= row == row[-1]
        return float((self._failed + below.sum() + level.sum() / 2) / every)


def share_text(score: float) -> str:
    """Return a normal score as the share of earlier trials that it beats: `0` -> `50%`."""
    share = 100 * _NORMAL.cdf(score)
    digits = 0 if 0.995 <= share <= 99.005 else 1 if 0.0995 <= share <= 99.9005 else 2
    return f"{share:.{digits}f}%"


def sentence(outcome: Outcome, objectives: Sequence[str] = ()) -> str:
    """Return a forecast and its outcome in words; `objectives` names the metrics, where there are several."""
    low, high = (outcome.forecast.mean + sign * _width(0.8) * outcome.forecast.deviation for sign in (-1, 1))
    weights = [
        f"{title_of(key)} {percent(weight)}" for key, weight in zip(objectives, outcome.forecast.weights, strict=False)
    ]
    weighed = f" Its objectives weighed: {', '.join(weights)}." if weights else ""
    return (
        f"The predictor expected it to beat {share_text(outcome.forecast.mean)} of the earlier trials "
        f"(80 % interval {share_text(low)} to {share_text(high)}); it beat {share_text(outcome.score)}.{weighed}"
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
            Point(one.forecast.mean, one.score, _title(state, one), link(one.number))
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
    forecasts = np.array(ascending_ranks([one.forecast.mean for one in outcomes]))
    scores = np.array(ascending_ranks([one.score for one in outcomes]))
    if len(outcomes) < 2 or not forecasts.std() or not scores.std():
        return None
    return float(np.corrcoef(forecasts, scores)[0, 1])


def _width(level: float) -> float:
    """Return the half width of an interval of this level, in standard deviations."""
    return _NORMAL.inv_cdf((1 + level) / 2)


def _title(state: State, outcome: Outcome) -> str:
    metrics = [goal.metric for goal in state.objectives]
    return f"{sentence(outcome, metrics)}\n{about(state.trials[outcome.number])}"
