"""Strategies compared over seeds at equal charge: anytime curves, hypervolume, final table, tests against random."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from nasforge.core.errors import ConfigError
from nasforge.core.goals import Objective
from nasforge.core.metrics import column_direction, direction
from nasforge.views.comparison_records import Comparison, Curve, Row, ToOptimum
from nasforge.views.groups import Group, baseline_of, left_out, like_baseline, notes_of, some, without_figures
from nasforge.views.hypervolume import hypervolume_curve
from nasforge.views.statistics import Matrix, PairedTest, bootstrap_band, holm, paired_test, summary
from nasforge.views.trajectory import AXES, Trajectory

_POINTS = 200


def compare_groups(
    name: str,
    groups: Sequence[Group],
    *,
    axis: str = "trials",
    at: Sequence[float] = (),
    optimum: float | None = None,
    worst: float | None = None,
    notes: Sequence[str] = (),
    failed: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare searches that have the same facts.

    Args:
        name: of the campaign.
        groups: at least one, each with at least one search.
        axis: one of `AXES`.
        at: checkpoints; left out, the end.
        optimum: best signal of the table, if there is one.
        worst: its worst signal; with it regrets are normalised.
        notes: already known.
        failed: search -> why it ended early.
        seed: of all resampling.

    Raises:
        ConfigError: nothing has finished, or a checkpoint lies beyond what was charged.
    """
    goals = [Objective.recorded(text) for text in groups[0].searches[0].facts["objectives"]]
    sentences = [*notes, *notes_of(groups, axis)]
    bare = [s.experiment for g in groups for s in g.searches if s.fidelity < 0]
    if bare:
        sentences.append(f"no finished trial in {some(bare)}: left out of the figures")
    used = [replace(g, searches=tuple(s for s in g.searches if s.fidelity >= 0)) for g in groups]
    used = [group for group in used if group.searches]
    if not used:
        why = "".join(f". {search}: {reason}" for search, reason in list((failed or {}).items())[:1])
        raise ConfigError(f"no search has a finished trial yet; nothing to compare{why}", kind="empty")
    end = _end(used, axis)
    checkpoints = _checkpoints(at, end, axis)
    grid = _grid(axis, max(end, *checkpoints))
    reference, ideal = _box(used, goals) if len(goals) > 1 else (None, None)
    final = _final_goal(used, goals[0])
    quantities = _quantities(used, goals, final, reference, ideal)
    top = max(search.fidelity for group in used for search in group.searches)
    if optimum is not None and worst is not None and optimum != worst:
        quantities["regret"] = (partial(_regret, goals[0], optimum, worst, top), False)
    alike = like_baseline(used)
    unlike = [group.label for group in used if group.label not in alike]
    if unlike and baseline_of(used):
        sentences.append(
            "signals of a different kind than random's (evaluator, fidelity or inherited weights): "
            f"{', '.join(unlike)}: shown, not tested against random; "
            "compare final figures, or retrain the best of each"
        )
    curves: list[Curve] = []
    rows: list[Row] = []
    for quantity, (figure, maximise) in quantities.items():
        for group in used:
            if quantity not in ("test", "regret"):  # the regret's curve would be the signal's, upside down
                curves += _curve(group, quantity, figure, axis, grid, seed)
        for checkpoint in checkpoints:
            tested = {group.label for group in used} if quantity in ("final", "test") else alike
            rows += _table(used, quantity, figure, maximise, axis, checkpoint, tested, seed)
    sentences += [*without_figures(used, rows, checkpoints, axis), *left_out(rows)]
    cap = _end(used, "trials")
    return Comparison(
        name=name,
        objectives=[str(goal) for goal in goals],
        axis=axis,
        end=end,
        strategies={group.label: _about(group, goals[0]) for group in groups},
        final=final.metric,
        final_maximised=final.maximise,
        curves=curves,
        rows=rows,
        optimum=optimum,
        worst=worst,
        to_optimum=[] if optimum is None else [_to_optimum(group, goals[0], optimum, top, cap) for group in used],
        reference=None if reference is None else [g.oriented(x) for g, x in zip(goals, reference, strict=True)],
        ideal=None if ideal is None else [g.oriented(x) for g, x in zip(goals, ideal, strict=True)],
        notes=sentences,
        failed=dict(failed or {}),
    )


Figure = Callable[[Trajectory], Sequence[float] | None]
"""A search's figure after every closed trial; None where it has none."""


def _quantities(
    groups: Sequence[Group],
    goals: Sequence[Objective],
    final: Objective,
    reference: Sequence[float] | None,
    ideal: Sequence[float] | None,
) -> dict[str, tuple[Figure, bool]]:
    """Return the compared quantities, each with True if more is better."""
    quantities: dict[str, tuple[Figure, bool]] = {"signal": (_signal, goals[0].maximise)}
    searches = [search for group in groups for search in group.searches]
    if any(search.final is not None for search in searches):
        quantities["final"] = (lambda search: search.final, final.maximise)
    tested = next((search.test_metric for search in searches if search.test is not None), None)
    if tested is not None:
        of_goal = tested.partition("/")[2] == goals[0].metric.partition("/")[2]
        quantities["test"] = (lambda search: search.test, goals[0].maximise if of_goal else direction(tested) is True)
    if reference is not None and ideal is not None:
        box = math.prod(best - worst for best, worst in zip(ideal, reference, strict=True)) or 1.0
        known: dict[int, list[float]] = {}

        def share(search: Trajectory) -> list[float]:
            if id(search) not in known:
                known[id(search)] = [volume / box for volume in hypervolume_curve(search.points, reference)]
            return known[id(search)]

        quantities["hypervolume"] = (share, True)
    return quantities


def _signal(search: Trajectory) -> list[float]:
    """Return the incumbent's signal where it was measured at the search's own greatest fidelity."""
    return [
        value if steps == search.fidelity else math.nan
        for value, steps in zip(search.signal, search.steps, strict=True)
    ]


def _regret(goal: Objective, optimum: float, worst: float, fidelity: int, search: Trajectory) -> list[float]:
    """Return the incumbent's regret in the table's signal at the greatest fidelity: 0 at its best, 1 at its worst."""
    best, span = goal.oriented(optimum), goal.oriented(optimum) - goal.oriented(worst)
    return [
        (best - goal.oriented(value)) / span if steps == fidelity else math.nan
        for value, steps in zip(search.signal, search.steps, strict=True)
    ]


def _box(groups: Sequence[Group], goals: Sequence[Objective]) -> tuple[list[float], list[float]]:
    """Worst and best value of each objective among all that was measured, turned to maximise."""
    points = [point for group in groups for search in group.searches for point in search.points if point is not None]
    columns = [[point[index] for point in points] for index in range(len(goals))]
    return [min(column) for column in columns], [max(column) for column in columns]


def _end(groups: Sequence[Group], axis: str) -> float:
    """Return the charge that every search can be followed to; one without end counts as far as it came.

    A search that still runs shortens the comparison only where its strategy has no other; else its seed is missing.
    """
    limits = []
    for group in groups:
        done = [search.reach[axis] for search in group.searches if not search.running]
        limits.append(min(done) if done else max(search.reach[axis] for search in group.searches))
    finite = [limit for limit in limits if math.isfinite(limit)]
    return min(finite) if finite else max(s.charged[axis][-1] for group in groups for s in group.searches)


def _reaching(group: Group, axis: str, charge: float) -> list[Trajectory]:
    return [search for search in group.searches if search.reach[axis] * (1 + 1e-9) >= charge]


def _checkpoints(at: Sequence[float], end: float, axis: str) -> list[float]:
    for checkpoint in at:
        if not 0 < checkpoint <= end * (1 + 1e-9):
            raise ConfigError(
                f"--at {checkpoint:g}: checkpoints lie above 0 and up to {end:g} {axis.replace('_', ' ')}, the charge "
                "that all have reached",
                kind="range",
                key="at",
            )
    return sorted(set(at)) or [end]


def _grid(axis: str, end: float) -> list[float]:
    if axis == "trials":
        whole = np.arange(1, int(end) + 1)
        return [float(x) for x in (whole if len(whole) <= 1000 else np.unique(np.linspace(1, int(end), 400).round()))]
    return [float(x) for x in np.linspace(0, end, _POINTS + 1)[1:]]


def at_charge(search: Trajectory, figure: Sequence[float], axis: str, grid: Sequence[float]) -> Matrix:
    """Return the figure that stood when so much had been charged: a trial counts once all of it fits.

    NaN before the first trial, and beyond the search's reach.
    """
    charged = np.asarray(search.charged[axis], dtype=float)
    points = np.asarray(grid, dtype=float)
    index = np.searchsorted(charged, points * (1 + 1e-12), side="right") - 1
    values = np.where(index >= 0, np.asarray([*figure, math.nan], dtype=float)[index], math.nan)
    return np.where(points <= search.reach[axis] * (1 + 1e-9), values, math.nan)


def _curve(group: Group, quantity: str, figure: Figure, axis: str, grid: Sequence[float], seed: int) -> list[Curve]:
    reaching = [(search, figure(search)) for search in _reaching(group, axis, grid[-1])]
    if any(values is None for _, values in reaching):
        return []
    matrix = np.vstack([at_charge(search, values, axis, grid) for search, values in reaching if values is not None])
    mean, low, high = bootstrap_band(matrix, seed=seed)
    return [Curve(group.label, quantity, list(grid), mean.tolist(), low.tolist(), high.tolist())]


def _table(
    groups: Sequence[Group],
    quantity: str,
    figure: Figure,
    maximise: bool,
    axis: str,
    checkpoint: float,
    tested: Collection[str],
    seed: int,
) -> list[Row]:
    """One row per strategy with a value, best mean first; Holm's correction is over the strategies of this table."""
    values = {group.label: _values(group, figure, axis, checkpoint) for group in groups}
    values = {label: by_seed for label, by_seed in values.items() if by_seed}
    base = baseline_of(groups)
    baseline = values.get(base, {})
    tests: dict[str, PairedTest] = {}
    for label, by_seed in values.items():
        common = sorted(by_seed.keys() & baseline.keys())
        if label in tested and label != base and common:
            tests[label] = paired_test([by_seed[s] for s in common], [baseline[s] for s in common], seed=seed)
    permutation = holm([test.p_permutation for test in tests.values()])
    wilcoxon = holm([test.p_wilcoxon for test in tests.values()])
    for label, first, second in zip(tuple(tests), permutation, wilcoxon, strict=True):
        tests[label] = replace(tests[label], p_permutation_holm=first, p_wilcoxon_holm=second)
    rows = [
        Row(
            checkpoint,
            quantity,
            label,
            summary(list(by_seed.values()), maximise=maximise),
            list(by_seed),
            list(by_seed.values()),
            tests.get(label),
        )
        for label, by_seed in values.items()
    ]
    return sorted(rows, key=lambda row: row.summary.mean, reverse=maximise)


def _values(group: Group, figure: Figure, axis: str, checkpoint: float) -> dict[int, float]:
    """Seed -> figure at the checkpoint, where there is one."""
    by_seed: dict[int, float] = {}
    for search in sorted(group.searches, key=lambda search: search.seed):
        values = figure(search)
        value = math.nan if values is None else float(at_charge(search, values, axis, [checkpoint])[0])
        if not math.isnan(value):
            by_seed[search.seed] = value
    return by_seed


def _to_optimum(group: Group, goal: Objective, optimum: float, fidelity: int, cap: float) -> ToOptimum:
    """Return a best so far counts where it was measured at the greatest fidelity of all: the optimum is of that one."""
    goalpost = goal.oriented(optimum) - 1e-9 * abs(optimum)
    counts = []
    for search in _reaching(group, "trials", cap):
        hits = (
            count
            for count, value, steps in zip(search.charged["trials"], search.signal, search.steps, strict=True)
            if steps == fidelity and goal.oriented(value) >= goalpost and count <= cap
        )
        counts.append(next(hits, math.inf))
    capped = np.minimum(counts, cap)
    share = float(np.isfinite(counts).mean())
    return ToOptimum(group.label, len(counts), share, float(capped.mean()), float(np.median(capped)), cap)


def _final_goal(groups: Sequence[Group], goal: Objective) -> Objective:
    """Return the table's final metric with its direction; an empty one without it.

    The direction is the one that is written, else that of the column's name, else the objective's.
    """
    searches = [search for group in groups for search in group.searches if search.final is not None]
    text = str(searches[0].parts["evaluator"]["options"].get("final", "final figure")) if searches else ""
    if text.startswith(("min:", "max:")):
        return Objective.parse(text)
    named = column_direction(text)
    return Objective(text, goal.maximise if named is None else named)


def _about(group: Group, goal: Objective) -> dict[str, Any]:
    searches = group.searches
    successful = [search for search in searches if search.best is not None]
    best = max(successful, key=lambda search: (search.fidelity, goal.oriented(search.signal[-1])), default=None)
    return {
        **group.strategy,
        "seeds": [search.seed for search in searches],
        "experiments": [search.experiment for search in searches],
        "fidelity": sorted({search.fidelity for search in searches}),
        "trials": {status: sum(s.counts[status] for s in searches) for status in searches[0].counts},
        "best": best and {"experiment": best.experiment, "signal": best.signal[-1], "architecture": best.best},
        "charged": {axis: [s.charged[axis][-1] if s.charged[axis] else 0.0 for s in searches] for axis in AXES},
    }
