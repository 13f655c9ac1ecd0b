"""A search as plain rows, shared by the command line, the dashboard and `--json`: dicts of numbers and texts."""

from __future__ import annotations

from collections import Counter
from typing import Any

from nasforge.core.goals import Objective, text_of_limit
from nasforge.core.ladder import Rung, Unit
from nasforge.core.metrics import direction
from nasforge.core.pareto import front
from nasforge.core.trial import Trial
from nasforge.experiment.state import State

_ACCURACY = "val/accuracy"
_HIDDEN = ("time/worker_s", "work/", "health/")


def summary(state: State) -> dict[str, Any]:
    """Summarise a search: names, counts by status, share of the budget used, the best so far."""
    config = state.header.config
    best = state.best
    return {
        "space": config["space"]["name"],
        "strategy": config["strategy"]["name"],
        "data": (config["data"] or {}).get("source", ""),
        **state.counts(),
        "budget_used": budget_used(state),
        "best_trial": None if best is None else best.number,
        **{f"best {goal.metric}": None if best is None else best.metrics.get(goal.metric) for goal in state.objectives},
    }


def budget_used(state: State) -> float | None:
    """Largest share spent of any finite limit, at most 1; None for a search without end."""
    if not state.budget.limits:
        return None
    used = state.used
    return min(1.0, max(used[name] / limit for name, limit in state.budget.limits.items()))


def row(trial: Trial, unit: Unit = "epochs") -> dict[str, Any]:
    """One trial: number, ids, status, steps done under the name of their unit, and every metric under its own key."""
    architecture = trial.architecture
    return {
        "number": trial.number,
        "arch_id": architecture.arch_id if architecture else "",
        "status": trial.status,
        unit: trial.steps_done,
        "metrics": dict(sorted(trial.metrics.items())),
    }


def steps_of(state: State) -> str:
    """Return the unit of a trial's steps, see `Unit`; empty for a table with one number per point."""
    evaluator = state.header.config["evaluator"]
    options = evaluator["options"]
    if evaluator["name"] == "lookup_table" and not options.get("fidelity"):
        return "epochs" if "{epochs}" in str(options.get("signal")) else ""
    return unit_of(state)


def unit_of(state: State) -> Unit:
    """Return the unit of a search's ladder."""
    return state.ladder[-1].unit


def leaderboard(state: State, top: int | None = None) -> list[dict[str, Any]]:
    """Finished trials, best first, with their `rank` from 1; `top` limits how many."""
    ranking = state.ranking()
    return [{"rank": rank, **row(trial, unit_of(state))} for rank, trial in enumerate(ranking[:top], start=1)]


def pareto_front(state: State) -> list[dict[str, Any]]:
    """Finished trials that no other dominates in the objectives."""
    return [row(trial, unit_of(state)) for trial in state.front()]


def in_two_metrics(state: State, x: str, y: str) -> tuple[list[Trial], list[Trial] | None]:
    """Finished trials that have both metrics, and those of them that no other beats in both, in order of `x`.

    There is no front, None, where the direction of a metric is unknown: it is no objective, and its name does not say
    it.
    """
    both = [(trial, trial.metric(x), trial.metric(y)) for trial in state.finished()]
    known = [(trial, float(a), float(b)) for trial, a, b in both if a is not None and b is not None]
    trials = [trial for trial, _, _ in known]
    axes = [Objective(metric, maximise) for metric in (x, y) if (maximise := is_maximised(state, metric)) is not None]
    if len(axes) < 2:
        return trials, None
    points = [(axes[0].oriented(a), axes[1].oriented(b)) for _, a, b in known]
    best = sorted((known[index] for index in front(points)), key=lambda item: item[1])
    return trials, [trial for trial, _, _ in best]


def is_maximised(state: State, metric: str) -> bool | None:
    """Return whether more of a metric is better; None where neither an objective nor its name says it."""
    declared = {objective.metric: objective.maximise for objective in state.objectives}
    return declared.get(metric, direction(metric))


def reported_metrics(state: State) -> list[str]:
    """Return the metrics that the latest trials report while they run, without those that only machines read."""
    latest = list(state.trials.values())[-50:]
    return list(dict.fromkeys(key for trial in latest for step in trial.steps for key in step.metrics if is_shown(key)))


def curve_metric(state: State) -> str:
    """Return the metric whose learning curves are drawn first; empty where no trial has reported any."""
    reported = reported_metrics(state)
    return next((key for key in (state.objectives[0].metric, _ACCURACY, *reported) if key in reported), "")


def is_shown(key: str) -> bool:
    """Return whether people want to see a metric."""
    return not key.startswith(_HIDDEN)


def rungs_drawn(state: State) -> list[Rung]:
    """Return the rungs below the last one that trainings reach: a figure of learning curves marks them."""
    return [rung for rung in state.ladder[:-1] if not rung.proxies]


def learning_curves(state: State, metric: str = "val/accuracy") -> list[dict[str, Any]]:
    """One point per report that has `metric`: number, status, epoch, value; in order of number and epoch."""
    return [
        {"number": trial.number, "status": trial.status, "epoch": step.step, "value": step.metrics[metric]}
        for _, trial in sorted(state.trials.items())
        for step in trial.steps
        if metric in step.metrics
    ]


def best_so_far(state: State) -> list[dict[str, Any]]:
    """Return the first objective's best value after each finished trial, in order of number: number, value, best.

    Only trials of the greatest fidelity reached are compared, as in the leaderboard.
    """
    goal = state.objectives[0]
    finished = sorted(state.finished(), key=lambda trial: trial.number)
    rows: list[dict[str, Any]] = []
    best: float | None = None
    for trial in finished:
        value = trial.metric(goal.metric)
        assert value is not None  # noqa: S101  (a finished trial has its objectives)
        if best is None or goal.oriented(value) > goal.oriented(best):
            best = value
        rows.append({"number": trial.number, "value": value, "best": best})
    return rows


def failures(state: State) -> list[dict[str, Any]]:
    """One row per cause, the most frequent first: cause, count, trials, the last message and its advice."""
    failed = [(trial, trial.result.error) for trial in state.failures() if trial.result and trial.result.error]
    counts = Counter(error.cause for _, error in failed)
    rows: list[dict[str, Any]] = []
    for cause, count in counts.most_common():
        of_cause = [(trial, error) for trial, error in failed if error.cause == cause]
        last = of_cause[-1][1]
        rows.append(
            {
                "cause": cause,
                "count": count,
                "trials": [trial.number for trial, _ in of_cause],
                "message": last.message,
                "advice": last.advice,
            }
        )
    return rows


def decisions(trial: Trial) -> list[dict[str, Any]]:
    """Return the decisions of a trial's point in the order of its space; empty for a shared training."""
    if trial.architecture is None:
        return []
    return [{"decision": key, "value": value} for key, value in trial.architecture.values.items()]


def rejections(state: State) -> list[dict[str, Any]]:
    """One row per limit that proposals exceeded, the most frequent first: limit, count, trials."""
    numbers: dict[str, list[int]] = {}
    for number, trial in state.trials.items():
        if trial.status == "rejected":
            for limit in (trial.result.violations if trial.result else {}) or {"a constraint": 0.0}:
                numbers.setdefault(limit, []).append(number)
    rows = [
        {"limit": text_of_limit(limit), "count": len(trials), "trials": trials} for limit, trials in numbers.items()
    ]
    return sorted(rows, key=lambda row: -len(row["trials"]))


def front_axes(state: State) -> tuple[str, str]:
    """Return the metrics across and up in which the front is drawn: the objectives, or the only one over a cost.

    A table need not have the FLOPs, so the cost is one that a trial has.
    """
    metrics = [goal.metric for goal in state.objectives]
    if len(metrics) == 1:
        costs = [key for key in ("cost/flops", "cost/params") if key != metrics[0]]
        measured = (key for key in costs if any(trial.metric(key) is not None for trial in state.trials.values()))
        metrics.append(next(measured, costs[0]))
    first, second = metrics[:2]
    return (first, second) if first.startswith("cost/") else (second, first)


def effort(state: State) -> dict[str, float]:
    """Return what a search has cost: `trials`, `steps` (epochs, folds or repeats), `worker_seconds`, `multiply_adds`.

    A trial that continues another one counts its own steps alone.
    """
    steps = 0
    for trial in state.trials.values():
        if trial.steps:  # a table may know no step before the twelfth; what continues reports every step
            steps += trial.steps[-1].step - (trial.steps[0].step - 1 if trial.weights else 0)
        elif trial.result is not None:
            steps += trial.result.steps_done
    charged = state.charged
    return {
        "trials": float(state.accepted),
        "steps": float(steps),
        "worker_seconds": charged.worker_seconds,
        "multiply_adds": charged.multiply_adds,
    }
