"""Figures of a search as SVG, for pages that a server writes. Their numbers come from `views.tables`."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nasforge.core.metrics import title_of
from nasforge.core.space import Choice, SearchSpace
from nasforge.core.trial import Charge, TrainShared, Trial
from nasforge.experiment.state import State
from nasforge.views import tables
from nasforge.views.reader import Reader
from nasforge.views.rounding import percent
from nasforge.views.survival import OPTION_LETTERS, shares_chart
from nasforge.views.svg import Axis, Bar, Plot, Point, bars, missing, number_text, short

AXES = {"trials": "trial", "seconds": "charged worker time (s)", "work": "charged multiply-adds"}
"""What a search's progress is drawn over."""
STATUSES = ("finished", "pruned", "failed", "rejected", "running")

SKIPS = "alphas/skips"
"""Metric of supernets: the share of decisions in which the most likely network takes an option without weights."""

_MOST_POINTS = 800
_SAMPLED = 24
_ATTEMPTS = 300
_OPTION_LETTERS = 48
"""Letters of all options below a slice."""
_SPREAD = 30
"""A cost whose values span more than this factor is drawn on a logarithmic axis."""

NOT_BEST = "other finished trial"
"""Name of the other finished trials next to those that no other beats in two metrics."""

Link = Callable[[int], str]
"""Trial -> the address of its page."""

Text = Callable[[Trial, Sequence[str]], str]
"""Trial and metrics -> the text under the pointer."""


def name_of(status: str) -> str:
    """Return the name of a status in a figure, which does not know whether the search goes on."""
    return "unfinished" if status == "running" else status


def _mark(trial: Trial, x: float, y: float, metrics: Sequence[str], link: Link, text: Text) -> Point:
    return Point(x, y, lambda: text(trial, metrics), link(trial.number))


def summary(trial: Trial, metrics: Sequence[str] = ()) -> str:
    """Return a short text for a trial, without its decisions: number, status, metrics."""
    known = trial.metrics
    shown = [f"{title_of(key)} {number_text(known[key])}" for key in metrics if key in known]
    return ", ".join([f"trial {trial.number}, {name_of(trial.status)}", *shown])


def about(trial: Trial, metrics: Sequence[str] = ()) -> str:
    """Return the text under the pointer for a trial: number, status, metrics, decisions."""
    lines = [f"trial {trial.number}, {name_of(trial.status)}"]
    known = trial.metrics
    lines += [f"{title_of(key)} {number_text(known[key])}" for key in metrics if key in known]
    if trial.architecture is not None:
        values = list(trial.architecture.values.items())
        lines += [f"{key}: {value}" for key, value in values[:10]]
        lines += [f"and {len(values) - 10} more decisions"] * (len(values) > 10)
    return "\n".join(lines)


def best_so_far_chart(state: State, link: Link, axis: str = "trials", text: Text = about) -> str:
    """Draw the first objective of every finished trial, and the best so far, over trials, seconds or multiply-adds."""
    rows = tables.best_so_far(state)
    if not rows:
        return missing("No trial has finished yet.")
    goal = state.objectives[0]
    places = _charged(state, axis)
    values = [(places[row["number"]], row) for row in rows]
    values.sort(key=lambda item: item[0])
    if axis != "trials":  # `rows` are in order of number, the charge is in order of closing
        best: float | None = None
        for _, row in values:
            better = best is None or goal.oriented(row["value"]) > goal.oriented(best)
            best = row["best"] = row["value"] if better else best
    plot = Plot(
        f"Best {title_of(goal.metric)} so far over {AXES[axis]}",
        Axis.of(AXES[axis], [x for x, _ in values], zero=axis != "trials", whole=axis == "trials"),
        Axis.of(title_of(goal.metric), _without_outliers([row["value"] for row in rows], goal.maximise)),
    )
    marks = [_mark(state.trials[row["number"]], x, row["value"], [goal.metric], link, text) for x, row in values]
    plot.points("finished", marks, name="finished trial", thin=_MOST_POINTS, radius=3.5)
    if len(values) > 1:  # one value has no line
        plot.line("best", [(x, row["best"]) for x, row in values], step="after", name="best so far")
    return plot.svg()


def front_chart(state: State, link: Link, x: str, y: str, text: Text = about) -> str:
    """Trials in two metrics, with the front of the finished ones and the lines of constraints and targets."""
    finished, best = tables.in_two_metrics(state, x, y)
    front = best or []
    shown = {trial.number for trial in finished}
    marks: dict[str, list[Point]] = {}
    front_numbers = {trial.number for trial in front}
    for trial in state.trials.values():
        across, down = trial.metric(x), trial.metric(y)
        if across is None or down is None:
            continue
        kind = "other" if trial.status == "finished" and trial.number not in shown else trial.status
        kind = "best" if trial.number in front_numbers else kind
        marks.setdefault(kind, []).append(_mark(trial, across, down, (x, y), link, text))
    every = [point for group in marks.values() for point in group]
    if not every:
        return missing(f"No trial has {title_of(x)} and {title_of(y)} yet.")
    axes = (_axis_of(state, x, [point.x for point in every]), _axis_of(state, y, [point.y for point in every]))
    plot = Plot(f"{title_of(y)} over {title_of(x)}", *axes, height=360)

    for limit in (*state.constraints, *state.targets):
        for metric, name in ((x, "x"), (y, "y")):
            if limit.metric == metric:
                plot.limit(limit.text, **{name: limit.bound})
    left_out = 0
    for status in ("other", "pruned", "failed", "rejected", "running"):
        name = "repeated, or at a lower rung" if status == "other" else name_of(status)
        left_out += plot.points(status, marks.get(status, ()), name=name, radius=2.5, thin=_MOST_POINTS // 3)
    name = "finished trial" if best is None else NOT_BEST
    left_out += plot.points("finished", marks.get("finished", ()), name=name, radius=3.5, thin=_MOST_POINTS)
    on_front = sorted(marks.get("best", ()), key=lambda point: point.x)
    step = "before" if tables.is_maximised(state, x) else "after"
    plot.line("best", [(point.x, point.y) for point in on_front], step=step)
    left_out += plot.points("best", on_front, name=front_name(state), radius=5, thin=_MOST_POINTS)
    return plot.svg() + _note(left_out, "points")


def front_name(state: State) -> str:
    """Return what the trials are called that no other beats in two metrics: a front of three objectives has more."""
    return "Pareto front" if len(state.objectives) < 3 else "best in these two metrics"


def curves_chart(state: State, link: Link, metric: str, text: Text = about) -> str:
    """Learning curves: the best trials, a sample of the others, and the middle 80 % of all at each step."""
    lines: dict[int, list[tuple[float, float]]] = {}
    for row in tables.learning_curves(state, metric):
        lines.setdefault(row["number"], []).append((row["epoch"], row["value"]))
    if not lines:
        return missing(f"No trial has reported {title_of(metric)} yet.")
    steps = tables.steps_of(state).removesuffix("s") or "step"
    ranked = [trial.number for trial in state.ranking()[:5] if trial.number in lines]
    chosen = dict.fromkeys(ranked)
    by_status: dict[str, list[int]] = {status: [] for status in STATUSES}
    for number in lines:
        if number not in chosen:
            by_status[state.trials[number].status].append(number)
    for numbers in by_status.values():
        chosen |= dict.fromkeys(numbers[:: max(1, math.ceil(len(numbers) / _SAMPLED))])
    by_step: dict[float, list[float]] = {}
    for points in lines.values():
        for step, value in points:
            if math.isfinite(value):
                by_step.setdefault(step, []).append(value)
    quantiles = {step: np.percentile(values, [10, 90]) for step, values in sorted(by_step.items())}
    drawn = [value for number in chosen for _, value in lines[number]]
    drawn += [float(end) for ends in quantiles.values() for end in ends]
    plot = Plot(
        f"{title_of(metric)} over {steps}s of {len(chosen)} of {len(lines)} trials",
        Axis.of(steps, by_step, whole=True),
        Axis.of(title_of(metric), _without_outliers(drawn, tables.is_maximised(state, metric))),
    )
    if len(lines) > len(chosen):
        low = [(step, float(ends[0])) for step, ends in quantiles.items()]
        plot.band("other", low, [(step, float(ends[1])) for step, ends in quantiles.items()], "middle 80 % of all")
    for rung in tables.rungs_drawn(state):
        plot.limit(f"rung {rung}", x=float(rung.epochs))
    named: set[str] = set()
    for number in sorted(chosen, key=lambda n: (n in ranked, n == (ranked or [-1])[0])):
        status = state.trials[number].status
        kind, name = (f"{status} faint", name_of(status))
        if number in ranked:
            kind, name = (
                ("best", f"best: trial {number}")
                if number == ranked[0]
                else ("finished thick", f"next {len(ranked) - 1} best" if len(ranked) > 2 else "second best")
            )
        title = text(state.trials[number], [metric])
        points = lines[number]
        plot.line(kind, points, name="" if name in named else name, title=title, href=link(number))
        if len(points) == 1:
            plot.points(kind, [Point(*points[0], title, link(number))], radius=2.5)
        named.add(name)
    return plot.svg() + _note(len(lines) - len(chosen), "curves")


def workers_chart(reader: Reader, link: Link) -> str:
    """Which trial ran when: one row for each trial that ran at the same time as others, the latest attempts."""
    state = reader.state
    latest = heapq.nlargest(
        _ATTEMPTS,
        ((begin, end, number) for number, spans in reader.times.attempts.items() for begin, end in spans),
    )
    if state is None or not latest:
        return missing("This journal has no times of trials.")
    running = {trial.number: reader.times.attempts.get(trial.number, [])[-1:] for trial in state.open_trials}
    now = reader.times.latest or 0.0
    origin = min(begin for begin, _, _ in latest)
    free: list[float] = []
    rows: list[tuple[float, float, int, int]] = []
    for begin, end, number in sorted(latest):
        end = max(end, now) if (begin, end) in running.get(number, ()) else end
        lane = next((i for i, until in enumerate(free) if until <= begin + 1e-3), len(free))
        free[lane:] = [end, *free[lane + 1 :]]
        rows.append((begin - origin, end - origin, lane, number))
    unit, name = _unit_of(max(end for _, end, _, _ in rows))
    plot = Plot(
        f"Trials at the same time: {len(free)}",
        Axis(f"{name} since the first of these attempts", 0.0, (max(end for _, end, _, _ in rows) / unit) or 1.0),
        Axis("slot", 0.5, len(free) + 0.5, text=lambda value: f"{value:g}" if value == int(value) else ""),
        height=90 + 26 * min(len(free), 12),
    )
    for begin, end, lane, number in rows:
        status = state.trials[number].status
        plot.span(status, begin / unit, end / unit, lane + 1, f"{about(state.trials[number])}", link(number))
    hidden = sum(len(spans) for spans in reader.times.attempts.values()) - len(rows)
    kinds = dict.fromkeys(state.trials[number].status for *_, number in rows)
    legend = "".join(f'<li class="{kind}">{name_of(kind)}</li>' for kind in kinds)
    return plot.svg() + f'<ul class="legend">{legend}</ul>' + _note(hidden, "earlier attempts")


def importance_chart(shares: Mapping[str, float]) -> str:
    """Return the share of an objective's variance that each decision explains."""
    rows = [Bar(key, share, percent(share)) for key, share in list(shares.items())[:20]]
    return bars("Importance of decisions", rows)


def slice_chart(state: State, link: Link, key: str, metric: str) -> str:
    """One metric over the values of one decision, with the median of each option."""
    both = [(t, t.metric(metric)) for t in state.finished() if t.architecture and key in t.architecture.values]
    trials = [t for t, value in both if value is not None]
    measured = [value for _, value in both if value is not None]
    domain = SearchSpace.from_json(state.header.config["space"]).domains.get(key)
    if not trials or domain is None:
        measured_key = f"{title_of(metric)} and {key}" if both else key
        return missing(f"No finished trial has {measured_key}.")
    values = [t.architecture.values[key] for t in trials if t.architecture]
    numeric = not isinstance(domain, Choice)
    options = [] if numeric else [option for option in domain.options if option in values]  # type: ignore[union-attr]
    places = [float(value) if numeric else float(options.index(value)) for value in values]
    if numeric:
        across = Axis.of(key, places, log=bool(getattr(domain, "log", False)))
    else:
        texts = [short(str(option), _OPTION_LETTERS // len(options)) for option in options]
        across = Axis(key, -0.6, len(options) - 0.4, text=_option_text(texts))
    down = Axis.of(title_of(metric), _without_outliers(measured, tables.is_maximised(state, metric)))
    plot = Plot(f"{title_of(metric)} by {key}", across, down, width=420, height=260)
    jitter = [0.0 if numeric else ((t.number * 37) % 41 - 20) / 80 for t in trials]
    marks = [
        _mark(t, x + shift, value, [metric], link, about)
        for t, value, x, shift in zip(trials, measured, places, jitter, strict=True)
    ]
    plot.points("finished", marks, radius=2.5, thin=_MOST_POINTS // 3)
    for index in range(len(options)):
        of_option = [value for value, x in zip(measured, places, strict=True) if x == index]
        middle = float(np.median(of_option))
        plot.line("best", [(index - 0.35, middle), (index + 0.35, middle)], title=f"median {number_text(middle)}")
    return plot.svg()


def alphas_chart(rows: Sequence[tuple[int, Mapping[str, Sequence[float]]]], key: str, options: Sequence[object]) -> str:
    """Draw the architecture parameters of one decision over the epochs, as shares (softmax)."""
    shares = [(float(step), _softmax(alphas[key])) for step, alphas in rows if key in alphas]
    lines = [
        (short(str(option), OPTION_LETTERS), [(step, share[index]) for step, share in shares if index < len(share)])
        for index, option in enumerate(options)
    ]
    return shares_chart(f"Shares of the options of {key} over the epochs", "epoch", lines)


def collapse_chart(supernet: Trial) -> str:
    """Draw the share of decisions in which a supernet's most likely network takes an option without weights.

    Above the dashed line the supernet's training ends early, because its networks would learn nothing.
    """
    reports = [(float(step.step), step.metrics[SKIPS]) for step in supernet.steps if SKIPS in step.metrics]
    if not reports:
        return missing("The reports of this supernet have no share of options without weights.")
    plot = Plot(
        "Share of decisions with an option without weights, over the epochs",
        Axis.of("epoch", [0.0, *(step for step, _ in reports)], whole=True),
        Axis("share of decisions", 0.0, 1.0, text=percent),
    )
    limit = stops_at(supernet)
    if limit < 1:
        plot.limit("the training ends above this", y=limit)
    plot.line("best", reports, name="options without weights: skip connections, poolings, zeros")
    plot.points(
        "best", [Point(step, share, f"epoch {step:.0f}: {percent(share)}") for step, share in reports], radius=2.5
    )
    return plot.svg()


def stops_at(supernet: Trial) -> float:
    """Return the share of options without weights above which a supernet's training ends; 1 means never."""
    settings = supernet.proposal.settings if isinstance(supernet.proposal, TrainShared) else {}
    return float(settings.get("stop_at_skips", 1.0))


def lineage_chart(state: State, link: Link) -> str:
    """Who came from whom: the best trial with its ancestors thick, and the latest other children thin."""
    metric = state.objectives[0].metric
    chain = ancestors_of_best(state)
    measured = {n: t.metrics[metric] for n, t in state.trials.items() if t.comparable}
    pairs = [(p, n) for n, t in state.trials.items() for p in parents_of(t) if p in measured and n in measured]
    if not pairs:
        return missing("No trial was made from another one, or the strategy does not say so.")
    goal = state.objectives[0]
    plot = Plot(
        "Trials and their parents",
        Axis.of("trial", measured, whole=True),
        Axis.of(title_of(metric), _without_outliers(list(measured.values()), goal.maximise)),
        height=360,
    )
    for parent, child in pairs[-_MOST_POINTS // 2 :]:
        plot.line("other faint", [(parent, measured[parent]), (child, measured[child])])
    marks = [_mark(state.trials[n], n, value, [metric], link, about) for n, value in measured.items()]
    left_out = plot.points("finished", marks, radius=3, name="finished trial", thin=_MOST_POINTS)
    along = [n for n in chain if n in measured]
    plot.line("best", [(n, measured[n]) for n in along], name="line of the best trial")
    plot.points("best", [_mark(state.trials[n], n, measured[n], [metric], link, about) for n in along], radius=5)
    return plot.svg() + _note(left_out, "points")


def parents_of(trial: Trial) -> tuple[int, ...]:
    """Return the trials that a proposal was made from; none where the strategy does not say."""
    origin = None if isinstance(trial.proposal, TrainShared) else trial.proposal.origin
    return origin.parents if origin else ()


def ancestors_of_best(state: State) -> list[int]:
    """Return the best trial and, by the better parent each time, its ancestors, oldest first."""
    best = state.best
    chain: list[int] = []
    while best is not None and best.number not in chain:
        chain.append(best.number)
        known = [state.trials[p] for p in parents_of(best) if p in state.trials]
        best = max((t for t in known if t.comparable), key=state.merit, default=known[0] if known else None)
    return chain[::-1]


# --- what several figures share --------------------------------------------------------------------------------------


def _charged(state: State, axis: str) -> Mapping[int, float]:
    """Trial -> where it stands on the axis: its number, or what was charged until it was closed."""
    if axis == "trials":
        return {number: float(number) for number in state.trials}
    total, totals = 0.0, {}
    for number in state.closed:
        result = state.trials[number].result
        charge = result.charged if result else Charge()
        total += charge.worker_seconds if axis == "seconds" else charge.multiply_adds
        totals[number] = total
    return totals


def _axis_of(state: State, metric: str, values: Sequence[float]) -> Axis:
    cost = metric.startswith("cost/")
    known = [value for value in values if math.isfinite(value)]
    log = cost and bool(known) and min(known) > 0 and max(known) / min(known) > _SPREAD
    shown = known if cost else _without_outliers(known, tables.is_maximised(state, metric))
    return Axis.of(title_of(metric), shown, log=log, zero=cost and not log)


def _without_outliers(values: Sequence[float], maximise: bool | None) -> list[float]:
    """Return the values without the few that lie far from all others: they would flatten the rest of the figure.

    The best always stay, where it is known which these are.
    """
    known = sorted(value for value in values if math.isfinite(value))
    if len(known) < 12:
        return known
    low, high = np.percentile(known, [5, 95])
    room = 1.5 * (high - low) or abs(high) or 1.0
    return [
        value
        for value in known
        if (value >= low - room or maximise is False) and (value <= high + room or maximise is True)
    ]


def _softmax(row: Sequence[float]) -> list[float]:
    top = max(row)
    parts = [math.exp(value - top) for value in row]
    return [part / sum(parts) for part in parts]


def _option_text(texts: Sequence[str]) -> Callable[[float], str]:
    def text(value: float) -> str:
        whole = abs(value - round(value)) < 1e-9 and 0 <= round(value) < len(texts)
        return texts[round(value)] if whole else ""

    return text


def _unit_of(seconds: float) -> tuple[float, str]:
    return (3600.0, "hours") if seconds > 7200 else (60.0, "minutes") if seconds > 300 else (1.0, "seconds")


def _note(left_out: int, what: str) -> str:
    return f'<p class="dim">{left_out:,} further {what} are not drawn.</p>' if left_out > 0 else ""
