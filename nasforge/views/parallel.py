"""Parallel coordinates: every trial is a line over axes of decisions and metrics, coloured by how good it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from nasforge.core.metrics import direction, title_of
from nasforge.core.space import Choice, Domain, SearchSpace
from nasforge.core.trial import Trial
from nasforge.experiment.state import State
from nasforge.views.svg import Axis, cut, missing, number_text

MOST_LINES = 500
_BEST_DRAWN = 50
_MOST_DECISIONS = 10
_MOST_JUDGED = 2000
"""Trials, evenly from the ranking, by which the decisions are chosen."""
_COLOURS = 8
_LEFT, _TOP, _BOTTOM, _HEIGHT, _STEP = 40, 54, 34, 380, 104
_ABSENT = -0.07
"""Where a line crosses the axis of a decision that its network does not have: below the lowest value."""


@dataclass(frozen=True)
class _Column:
    """One axis.

    Attributes:
        key: of the decision or metric.
        title: above the axis.
        places: of each trial, 0 at the bottom and 1 at the top; NaN where the trial has no value.
        ticks: places with their texts.
    """

    key: str
    title: str
    places: Sequence[float]
    ticks: Sequence[tuple[float, str]]


def parallel_chart(state: State, link: Callable[[int], str], metric: str) -> str:
    """Draw the finished trials over the decisions that matter most, the objectives and `metric`, which colours them.

    The script `parallel.js` lets people choose a range on each axis.

    Args:
        state: of the search.
        link: trial -> the address of its page.
        metric: the better it is, the warmer is the line. Its axis is the last one.
    """
    ranked = [trial for trial in state.ranking() if trial.architecture]
    goals = {goal.metric: goal.maximise for goal in state.objectives}
    pairs = [(trial, trial.metric(metric)) for trial in ranked]
    measured = [(trial, value) for trial, value in pairs if value is not None and math.isfinite(value)]
    if len(measured) < 2:
        return missing(f"Fewer than two finished trials have {title_of(metric)}.")
    measured.sort(key=lambda pair: pair[1], reverse=is_higher_warmer(state, metric))
    domains = SearchSpace.from_json(state.header.config["space"]).domains
    every = math.ceil(len(measured) / _MOST_JUDGED)
    points = [dict(t.architecture.values) for t, _ in measured[::every] if t.architecture]
    open_domains = {key: domain for key, domain in domains.items() if domain.size > 1}
    columns_of = {key: [point.get(key) for point in points] for key in open_domains}
    varied = {key: values for key, values in columns_of.items() if len(set(values)) > 1}
    effects = {key: _effect(domains[key], values) for key, values in varied.items()}
    largest = set(sorted(effects, key=lambda key: -effects[key])[:_MOST_DECISIONS])
    kept = _sample(len(measured))
    trials = [measured[index][0] for index in kept]
    columns = [_of_decision(key, domains[key], trials) for key in varied if key in largest]
    keys = [goal for goal in goals if goal != metric] + [metric]
    columns += [_of_metric(key, trials) for key in keys]
    drawing = _drawing(columns, trials, [index / max(1, len(measured) - 1) for index in kept], link, keys)
    notes = []
    if len(kept) < len(measured):
        notes.append(
            f"{len(kept)} of {len(measured):,} trials are drawn: the best {_BEST_DRAWN} and a sample of the others."
        )
    if len(varied) > len(largest):
        notes.append(
            f"{len(largest)} of {len(varied)} decisions have an axis: those whose options differ most in "
            f"{title_of(metric)}."
        )
    return drawing + "".join(f'<p class="dim">{escape(note)}</p>' for note in notes)


def is_higher_warmer(state: State, metric: str) -> bool:
    """Return whether the lines of higher values are the warmer ones: where higher is better, or nobody knows."""
    goals = {goal.metric: goal.maximise for goal in state.objectives}
    return goals.get(metric, direction(metric)) is not False


def _sample(count: int) -> list[int]:
    """Return the places in a ranking that are drawn: the first ones, and a sample of the others."""
    if count <= MOST_LINES:
        return list(range(count))
    others = np.linspace(_BEST_DRAWN, count - 1, MOST_LINES - _BEST_DRAWN)
    return [*range(_BEST_DRAWN), *dict.fromkeys(int(place) for place in others)]


def _effect(domain: Domain, values: Sequence[object]) -> float:
    """Return the share of the ranks' variance that a decision's options explain; `values` are in order of rank."""
    if isinstance(domain, Choice):
        numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
        groups = np.array([numbers[value] for value in values])
    else:
        places = np.array([math.nan if value is None else float(value) for value in values])  # type: ignore[arg-type]
        edges = np.nanquantile(places, [0.25, 0.5, 0.75])
        _, groups = np.unique(np.where(np.isnan(places), -1, np.searchsorted(edges, places)), return_inverse=True)
    ranks = np.arange(len(values), dtype=float)
    sizes = np.bincount(groups)
    means = np.bincount(groups, ranks) / sizes
    total = float(((ranks - ranks.mean()) ** 2).sum()) or 1.0
    degrees = (len(sizes) - 1) / max(1, len(values) - 1)  # what options without any effect would explain
    return float((sizes * (means - ranks.mean()) ** 2).sum()) / total - degrees


def _of_decision(key: str, domain: Domain, trials: Sequence[Trial]) -> _Column:
    values = [trial.architecture.values.get(key) if trial.architecture else None for trial in trials]
    if isinstance(domain, Choice):
        options = domain.options
        places = {index: index / max(1, len(options) - 1) for index in range(len(options))}
        ticks = [(places[index], cut(str(option), 13)) for index, option in enumerate(options)]
        every = max(1, math.ceil(len(ticks) / 12))
        row = [math.nan if value is None else places[domain.place(value)] for value in values]
        return _Column(key, key, row, ticks[::every])
    known = [float(value) for value in values if value is not None]
    axis = Axis.of(key, known, log=bool(getattr(domain, "log", False)))
    return _Column(key, key, [math.nan if v is None else axis.share(float(v)) for v in values], _ticks(axis))


def _of_metric(key: str, trials: Sequence[Trial]) -> _Column:
    values = [math.nan if (value := trial.metric(key)) is None else value for trial in trials]
    known = [value for value in values if math.isfinite(value)]
    log = key.startswith("cost/") and bool(known) and min(known) > 0 and max(known) / min(known) > 30
    axis = Axis.of(title_of(key), known, log=log)
    places = [axis.share(value) if math.isfinite(value) else math.nan for value in values]
    return _Column(key, title_of(key), places, _ticks(axis))


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    return [(axis.share(value), axis.text(value)) for value in axis.ticks()]


def _drawing(
    columns: Sequence[_Column],
    trials: Sequence[Trial],
    ranks: Sequence[float],
    link: Callable[[int], str],
    metrics: Sequence[str],
) -> str:
    width = _LEFT + _STEP * (len(columns) - 1) + 120
    bottom = _HEIGHT - _BOTTOM
    length = bottom - _TOP

    def down(share: float) -> float:
        return bottom - (_ABSENT if math.isnan(share) else share) * length

    parts = [
        f'<figure class="plot parallel"><svg viewBox="0 0 {width} {_HEIGHT}" width="{width}" role="group" '
        f'aria-label="{len(trials)} trials as lines over {len(columns)} decisions and metrics">'
    ]
    order = sorted(range(len(trials)), key=lambda index: -ranks[index])  # the best on top
    for index in order:
        trial = trials[index]
        places = [f"{_LEFT + _STEP * i} {down(column.places[index]):.0f}" for i, column in enumerate(columns)]
        known = [f"{title_of(key)} {number_text(value)}" for key in metrics if (value := trial.metric(key)) is not None]
        colour = min(_COLOURS, int((1 - ranks[index]) * (_COLOURS + 1)))
        parts.append(
            f'<a href="{escape(link(trial.number))}" tabindex="-1" data-trial="{trial.number}" class="q{colour}">'
            f'<path class="line" d="M{"L".join(places)}">'
            f"<title>trial {trial.number}, {escape(', '.join(known))}</title></path></a>"
        )
    for i, column in enumerate(columns):
        across = _LEFT + _STEP * i
        # Neighbours have their titles at two heights, so that long ones do not touch.
        height = 18 if i % 2 else 36
        title = cut(column.title.removeprefix("model."), 26)
        parts.append(
            f'<text x="{across}" y="{height}" class="axis {"middle" if i else ""}">{escape(title)}'
            f"<title>{escape(column.title)}</title></text>"
            f'<path d="M{across} {_TOP - 6}V{bottom + 6}" class="rail"/>'
        )
        for place, text in column.ticks:
            if -0.02 <= place <= 1.02:
                parts.append(f'<text x="{across + 5}" y="{down(place) + 4:.0f}" class="tick">{escape(text)}</text>')
        if any(map(math.isnan, column.places)):
            parts.append(f'<text x="{across + 5}" y="{down(math.nan) + 4:.0f}" class="tick">–</text>')
        parts.append(
            f'<rect x="{across - 16}" y="{_TOP - 8}" width="32" height="{length + 44}" class="rail-area" '
            f'data-axis="{i}" data-key="{escape(column.key)}"/>'
        )
    parts.append("</svg></figure>")
    return "".join(parts)
